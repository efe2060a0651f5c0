// The numbers of the places where T5 applies dropout: the `site` of a Philox key.
#pragma once

#include <cstdint>

#include <t5zero/backend/dropout.hpp>
#include <t5zero/core/integers.hpp>
#include <t5zero/plan/parameter_table.hpp>

namespace t5zero {

enum class dropout_place : std::uint8_t {
  embedding,
  self_attention_weights,
  self_attention_output,
  cross_attention_weights,
  cross_attention_output,
  feed_forward_hidden,
  feed_forward_output,
  final_norm
};

/// Dropout of one micro-step; rate 0 in evaluation.
struct dropout_state {
  float rate = 0.0F;
  std::uint32_t seed = 0;
  const std::uint32_t* micro_step = nullptr;  ///< in the backend's memory

  /// Layers of a stack, and heads, that a site number has room for.
  static constexpr index_t max_layers = index_t{1} << 10;
  static constexpr index_t max_heads = index_t{1} << 16;

  /// Sites are numbered below 2^16: the upper bits hold the head of attention weights.
  [[nodiscard]] constexpr dropout_site at(parameter_stack stack, index_t layer, dropout_place place) const {
    const std::uint32_t site = (static_cast<std::uint32_t>(stack) << 14U) |
                               (static_cast<std::uint32_t>(layer) << 4U) | static_cast<std::uint32_t>(place);
    return {rate, seed, site, micro_step};
  }
};

}  // namespace t5zero
