// The widest float vector of the machine this is compiled for, and loads and stores of 16-bit elements
// through it.
#pragma once

#include <cstring>
#include <type_traits>

#if defined(__AVX512F__) || defined(__F16C__) || defined(__FMA__)
#include <immintrin.h>
#endif

#include <t5zero/core/dtype.hpp>
#include <t5zero/core/integers.hpp>

namespace t5zero::cpu {

#if defined(__AVX512F__)
inline constexpr index_t vector_width = 16;  ///< floats
#elif defined(__AVX__)
inline constexpr index_t vector_width = 8;
#else
inline constexpr index_t vector_width = 4;
#endif

/// Arithmetic on it is element by element (a GCC and Clang extension).
using float_vector __attribute__((vector_size(vector_width * 4))) = float;
using int_vector __attribute__((vector_size(vector_width * 4))) = std::int32_t;

inline float_vector broadcast(float value) {
  return float_vector{} + value;
}

/// vector_width elements from `from`, unaligned, as floats.
template <element T>
inline float_vector load(const T* from) {
  float_vector result;
  if constexpr (std::is_same_v<T, float>) {
    std::memcpy(&result, from, sizeof(result));
  } else if constexpr (std::is_same_v<T, bfloat16>) {
    using short_vector __attribute__((vector_size(vector_width * 2))) = std::uint16_t;
    short_vector bits;
    std::memcpy(&bits, from, sizeof(bits));
    const auto wide = __builtin_convertvector(bits, int_vector) << 16;
    std::memcpy(&result, &wide, sizeof(result));
  } else {
#if defined(__AVX512F__)
    result = reinterpret_cast<float_vector>(
        _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from))));
#elif defined(__F16C__) && defined(__AVX__)
    result = reinterpret_cast<float_vector>(
        _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from))));
#else
    for (index_t i = 0; i < vector_width; ++i) result[i] = static_cast<float>(from[i]);
#endif
  }
  return result;
}

/// a b + c, rounded once where the instruction set can: always the same, while a compiler fuses `a * b + c`
/// or does not as it sees fit (GCC does not in chains of them on some processors).
inline float_vector multiply_add(float_vector a, float_vector b, float_vector c) {
#if defined(__AVX512F__)
  return reinterpret_cast<float_vector>(
      _mm512_fmadd_ps(reinterpret_cast<__m512>(a), reinterpret_cast<__m512>(b), reinterpret_cast<__m512>(c)));
#elif defined(__AVX__) && defined(__FMA__)
  return reinterpret_cast<float_vector>(
      _mm256_fmadd_ps(reinterpret_cast<__m256>(a), reinterpret_cast<__m256>(b), reinterpret_cast<__m256>(c)));
#else
  return a * b + c;
#endif
}

/// The first `count` of them, fewer than vector_width; zeros behind.
template <element T>
inline float_vector load_first(const T* from, index_t count) {
  float values[vector_width] = {};
  for (index_t i = 0; i < count; ++i) values[i] = static_cast<float>(from[i]);
  return load(values);
}

/// vector_width elements to `to`, unaligned, rounded to nearest, ties to even.
template <element T>
inline void store(T* to, float_vector value) {
  if constexpr (std::is_same_v<T, float>) {
    std::memcpy(to, &value, sizeof(value));
  } else if constexpr (std::is_same_v<T, bfloat16>) {
    using short_vector __attribute__((vector_size(vector_width * 2))) = std::uint16_t;
    using unsigned_vector __attribute__((vector_size(vector_width * 4))) = std::uint32_t;
    unsigned_vector bits;
    std::memcpy(&bits, &value, sizeof(bits));
    const unsigned_vector rounded = (bits + 0x7fffU + ((bits >> 16) & 1U)) >> 16;
    const unsigned_vector quiet_nan = (bits >> 16) | 0x40U;
    const auto is_nan = (bits & 0x7fffffffU) > 0x7f800000U;
    const unsigned_vector chosen = is_nan ? quiet_nan : rounded;
    const auto narrow = __builtin_convertvector(chosen, short_vector);
    std::memcpy(static_cast<void*>(to), &narrow, sizeof(narrow));
  } else {
#if defined(__AVX512F__)
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to),
                        _mm512_cvtps_ph(reinterpret_cast<__m512>(value), _MM_FROUND_TO_NEAREST_INT));
#elif defined(__F16C__) && defined(__AVX__)
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to),
                     _mm256_cvtps_ph(reinterpret_cast<__m256>(value), _MM_FROUND_TO_NEAREST_INT));
#else
    for (index_t i = 0; i < vector_width; ++i) to[i] = static_cast<T>(value[i]);
#endif
  }
}

/// Converts `count` elements.
template <element From, element To>
inline void convert_range(const From* from, To* to, index_t count) {
  index_t i = 0;
  for (; i + vector_width <= count; i += vector_width) store(to + i, load(from + i));
  for (; i < count; ++i) to[i] = static_cast<To>(static_cast<float>(from[i]));
}

}  // namespace t5zero::cpu
