// Precision policies: the type of each role in a run.
#pragma once

#include <concepts>
#include <string_view>

#include <t5zero/core/dtype.hpp>
#include <t5zero/core/type_list.hpp>

namespace t5zero {

/// Everything in IEEE single precision.
struct fp32 {
  static constexpr std::string_view name = "fp32";
  using param_type = float;    ///< stored weights, the inputs of matmuls, saved activations
  using compute_type = float;  ///< element type of a matmul's operands
  using accum_type = float;    ///< sums, norms, softmax, loss, residual stream, moments
  using grad_type = float;     ///< gradients as stored and communicated (fp32 when micro-batches accumulate)
  static constexpr bool has_master_weights = false;  ///< fp32 copies of the weights beside 16-bit ones
  static constexpr bool needs_loss_scale = false;    ///< gradients may underflow without a scaled loss
  static constexpr bool allows_tf32 = false;         ///< matmuls may round fp32 operands to 10 mantissa bits
};

/// fp32 storage; tensor cores may round the operands of matmuls to TF32.
struct tf32 : fp32 {
  static constexpr std::string_view name = "tf32";
  static constexpr bool allows_tf32 = true;
};

/// IEEE binary16 weights, matmul operands and gradients; fp32 masters, residual stream and sums; scaled loss.
struct fp16 {
  static constexpr std::string_view name = "fp16";
  using param_type = float16;
  using compute_type = float16;
  using accum_type = float;
  using grad_type = float16;
  static constexpr bool has_master_weights = true;
  static constexpr bool needs_loss_scale = true;
  static constexpr bool allows_tf32 = false;
};

/// bfloat16 weights, matmul operands and gradients; fp32 masters, residual stream and sums.
struct bf16 {
  static constexpr std::string_view name = "bf16";
  using param_type = bfloat16;
  using compute_type = bfloat16;
  using accum_type = float;
  using grad_type = bfloat16;
  static constexpr bool has_master_weights = true;
  static constexpr bool needs_loss_scale = false;
  static constexpr bool allows_tf32 = false;
};

using all_precisions = type_list<fp32, tf32, fp16, bf16>;

// One idea each, so that a compiler names the missing piece.
template <class P>
concept names_its_types = element<typename P::param_type> && element<typename P::compute_type> &&
    element<typename P::accum_type> && element<typename P::grad_type>;
/// Gradients are written by matmuls of the parameters' type, or summed in fp32.
template <class P>
concept stores_gradients_as_params_or_fp32 =
    std::same_as<typename P::grad_type, typename P::param_type> || std::same_as<typename P::grad_type, float>;
template <class P>
concept accumulates_in_fp32 = std::same_as<typename P::accum_type, float>;
template <class P>
concept says_what_it_needs = requires {
  { P::has_master_weights } -> std::convertible_to<bool>;
  { P::needs_loss_scale } -> std::convertible_to<bool>;
  { P::allows_tf32 } -> std::convertible_to<bool>;
  { P::name } -> std::convertible_to<std::string_view>;
};
/// 16-bit weights cannot take AdamW's small updates: they need fp32 masters.
template <class P>
concept keeps_masters_for_16_bit_weights =
    std::same_as<typename P::param_type, float> || P::has_master_weights;

/// A type that may stand third in run<Model, Zero, Precision, Backend>.
template <class P>
concept precision_policy = names_its_types<P> && stores_gradients_as_params_or_fp32<P> &&
    accumulates_in_fp32<P> && says_what_it_needs<P> && keeps_masters_for_16_bit_weights<P>;

static_assert(precision_policy<fp32> && precision_policy<tf32> && precision_policy<fp16> &&
              precision_policy<bf16>);

}  // namespace t5zero
