// The least time that a training step, or a token, may take: its bytes at the speed of copying, its products
// at the speed of large ones, on GPUs where both were measured.
#pragma once

#include <algorithm>
#include <optional>
#include <string_view>

#include <t5zero/t5zero.hpp>

namespace t5zero_bench {

/// Measured rates: bytes a second of a copy (read and written), floating-point operations a second of
/// products.
struct ceilings {
  double copy = 0.0;
  double fp32 = 0.0;  ///< by six products of bfloat16 (split_matmul); the plain cores reach 51e12
  double tf32 = 0.0, fp16 = 0.0, bf16 = 0.0;
};

/// Nothing for a device that was not measured. name: as the driver says it.
[[nodiscard]] inline std::optional<ceilings> ceilings_of(std::string_view name) {
  if (name == "NVIDIA H200")
    return ceilings{.copy = 4.27e12, .fp32 = 132e12, .tf32 = 406e12, .fp16 = 762e12, .bf16 = 793e12};
  if (name == "NVIDIA H100 80GB HBM3")
    return ceilings{.copy = 3.02e12, .fp32 = 133e12, .tf32 = 413e12, .fp16 = 774e12, .bf16 = 803e12};
  return std::nullopt;
}

/// Multiplications and additions of the products of a step, forward and backward; attention's own are left
/// out, which at the lengths of sentences are few.
[[nodiscard]] inline double product_flops(const t5zero::model_shape& shape, double source_tokens,
                                          double target_tokens) {
  const auto d = static_cast<double>(shape.d_model);
  const double attention = 4.0 * d * static_cast<double>(shape.inner_dim());
  const double feed_forward = (shape.gated() ? 3.0 : 2.0) * d * static_cast<double>(shape.d_ff);
  const double of_source = static_cast<double>(shape.n_encoder_layers) * (attention + feed_forward) +
                           static_cast<double>(shape.n_decoder_layers) * attention / 2.0;  // keys and values
  const double of_target = static_cast<double>(shape.n_decoder_layers) * (1.5 * attention + feed_forward) +
                           d * static_cast<double>(shape.vocab_size);
  return 6.0 * (of_source * source_tokens + of_target * target_tokens);
}

/// Milliseconds of one update of one micro-batch with AdamW: the optimizer and the gradient norm read and
/// write their bytes, and forward and backward either read the weights twice and write the gradients, or
/// multiply, whichever takes longer.
template <class Precision>
[[nodiscard]] double step_floor(const ceilings& of, const t5zero::model_shape& shape, double source_tokens,
                                double target_tokens) {
  const auto parameters = static_cast<double>(t5zero::parameter_count(shape));
  const double width = sizeof(typename Precision::param_type);
  // Master, two moments: read and written; gradient read, twice with the norm; narrow weights written.
  const double optimizer = parameters * (24.0 + 2.0 * width + (width < 4.0 ? width : 0.0));
  const double rate = Precision::name == "fp16"   ? of.fp16
                      : Precision::name == "bf16" ? of.bf16
                      : Precision::name == "tf32" ? of.tf32
                                                  : of.fp32;
  const double passes =
      std::max(3.0 * parameters * width / of.copy, product_flops(shape, source_tokens, target_tokens) / rate);
  return (optimizer / of.copy + passes) * 1e3;
}

/// Milliseconds of one token of a generation: the decoder's weights and the head are read once for all rows.
template <class Precision>
[[nodiscard]] double token_floor(const ceilings& of, const t5zero::model_shape& shape) {
  t5zero::index_t parameters = 0;
  t5zero::for_each_parameter(shape, [&](const t5zero::parameter_row& row) {
    const bool is_head = row.role == (shape.ties_embeddings ? t5zero::parameter_role::embedding
                                                            : t5zero::parameter_role::lm_head);
    const bool is_of_encoder_output =
        row.role == t5zero::parameter_role::cross_k || row.role == t5zero::parameter_role::cross_v;
    if (is_head || (row.stack == t5zero::parameter_stack::decoder && !is_of_encoder_output))
      parameters += row.count();
  });
  return static_cast<double>(parameters) * sizeof(typename Precision::param_type) / of.copy * 1e3;
}

}  // namespace t5zero_bench
