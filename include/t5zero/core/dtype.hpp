// Element types: IEEE binary16 and bfloat16 as storage, their conversions, and the run-time tag `dtype`.
#pragma once

#include <bit>
#include <concepts>
#include <cstdint>
#include <string_view>

#include <t5zero/core/config.hpp>
#include <t5zero/core/integers.hpp>

namespace t5zero {

/// Run-time name of an element type.
enum class dtype : std::uint8_t { f32, f16, bf16 };

namespace detail {

/// Round to nearest, ties to even; overflow becomes infinity; NaN stays a (quiet) NaN. IEEE 754 binary16.
[[nodiscard]] T5ZERO_HOST_DEVICE constexpr std::uint16_t float_to_f16_bits(float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  const auto sign = static_cast<std::uint16_t>((bits >> 16) & 0x8000U);
  const std::uint32_t magnitude = bits & 0x7fffffffU;
  if (magnitude > 0x7f800000U) return static_cast<std::uint16_t>(sign | 0x7e00U);   // NaN
  if (magnitude >= 0x477ff000U) return static_cast<std::uint16_t>(sign | 0x7c00U);  // rounds to >= 65520
  if (magnitude < 0x33000001U) return sign;                                         // at most 2^-25: zero
  std::uint32_t mantissa = (magnitude & 0x7fffffU) | 0x800000U;
  const auto exponent = static_cast<int>(magnitude >> 23);  // biased by 127
  // A normal half drops 13 bits, a subnormal one (exponent < 113) one more for each step below 2^-14.
  const int dropped = exponent >= 113 ? 13 : 13 + (113 - exponent);
  const std::uint32_t half_ulp = 1U << (dropped - 1);
  const std::uint32_t rest = mantissa & ((1U << dropped) - 1U);
  mantissa >>= dropped;
  if (rest > half_ulp || (rest == half_ulp && (mantissa & 1U) != 0U)) ++mantissa;
  // The implicit bit of a normal number adds the last 1 to the exponent; a carry does the same.
  const std::uint32_t biased = exponent >= 113 ? static_cast<std::uint32_t>(exponent - 113) << 10 : 0U;
  return static_cast<std::uint16_t>(sign | (biased + mantissa));
}

[[nodiscard]] T5ZERO_HOST_DEVICE constexpr float f16_bits_to_float(std::uint16_t bits) {
  const std::uint32_t sign = static_cast<std::uint32_t>(bits & 0x8000U) << 16;
  std::uint32_t exponent = (bits >> 10) & 0x1fU;
  std::uint32_t mantissa = bits & 0x3ffU;
  if (exponent == 31U) return std::bit_cast<float>(sign | 0x7f800000U | (mantissa << 13));
  if (exponent == 0U) {
    if (mantissa == 0U) return std::bit_cast<float>(sign);
    exponent = 113U;
    while ((mantissa & 0x400U) == 0U) {
      mantissa <<= 1;
      --exponent;
    }
    return std::bit_cast<float>(sign | (exponent << 23) | ((mantissa & 0x3ffU) << 13));
  }
  return std::bit_cast<float>(sign | ((exponent + 112U) << 23) | (mantissa << 13));
}

/// Round to nearest, ties to even; NaN stays a (quiet) NaN.
[[nodiscard]] T5ZERO_HOST_DEVICE constexpr std::uint16_t float_to_bf16_bits(float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  if ((bits & 0x7fffffffU) > 0x7f800000U) return static_cast<std::uint16_t>((bits >> 16) | 0x40U);
  return static_cast<std::uint16_t>((bits + 0x7fffU + ((bits >> 16) & 1U)) >> 16);
}

}  // namespace detail

/// IEEE binary16 as storage; arithmetic happens in float. Layout-compatible with CUDA's __half.
struct float16 {
  std::uint16_t bits = 0;
  float16() = default;
  T5ZERO_HOST_DEVICE constexpr explicit float16(float value) : bits(detail::float_to_f16_bits(value)) {}
  T5ZERO_HOST_DEVICE constexpr explicit operator float() const { return detail::f16_bits_to_float(bits); }
  friend constexpr bool operator==(float16, float16) = default;
};

/// bfloat16 as storage; arithmetic happens in float. Layout-compatible with CUDA's __nv_bfloat16.
struct bfloat16 {
  std::uint16_t bits = 0;
  bfloat16() = default;
  T5ZERO_HOST_DEVICE constexpr explicit bfloat16(float value) : bits(detail::float_to_bf16_bits(value)) {}
  T5ZERO_HOST_DEVICE constexpr explicit operator float() const {
    return std::bit_cast<float>(static_cast<std::uint32_t>(bits) << 16);
  }
  friend constexpr bool operator==(bfloat16, bfloat16) = default;
};

static_assert(sizeof(float16) == 2 && sizeof(bfloat16) == 2);
static_assert(float16(1.0F).bits == 0x3c00 && float16(65520.0F).bits == 0x7c00 &&
              float16(5.9604645e-8F).bits == 1);
static_assert(bfloat16(1.0F).bits == 0x3f80);

/// A type that weights, activations or gradients may be stored in.
template <class T>
concept element = std::same_as<T, float> || std::same_as<T, float16> || std::same_as<T, bfloat16>;

/// The run-time tag of an element type.
template <element T>
inline constexpr dtype dtype_of = std::same_as<T, float>     ? dtype::f32
                                  : std::same_as<T, float16> ? dtype::f16
                                                             : dtype::bf16;

/// Bytes of one element.
[[nodiscard]] T5ZERO_HOST_DEVICE constexpr index_t byte_size(dtype type) {
  return type == dtype::f32 ? 4 : 2;
}

/// "fp32", "fp16", "bf16".
[[nodiscard]] constexpr std::string_view to_string(dtype type) {
  return type == dtype::f32 ? "fp32" : type == dtype::f16 ? "fp16" : "bf16";
}

/// Calls f with a value-initialised element of the type that `type` names: `visit(t, [](auto zero) { ... })`.
template <class F>
constexpr decltype(auto) visit(dtype type, F&& f) {
  switch (type) {
    case dtype::f16:
      return f(float16{});
    case dtype::bf16:
      return f(bfloat16{});
    case dtype::f32:
      break;
  }
  return f(float{});
}

}  // namespace t5zero
