// Dropout masks inside kernels: Philox of a token's coordinates, never stored.
#pragma once

#include <t5zero/backend/dropout.hpp>

namespace t5zero::cuda {

/// A site as a kernel uses it: the micro-step is read once, the rest is ready.
struct dropout_mask {
  std::uint32_t seed = 0;
  std::uint32_t site = 0;
  std::uint32_t micro_step = 0;
  std::uint32_t threshold = 0;
  float scale = 1.0F;
  bool active = false;

  __device__ explicit dropout_mask(const dropout_site& from)
      : seed(from.seed), site(from.site), active(from.active()) {
    if (!active) return;
    micro_step = *from.micro_step;
    threshold = from.threshold();
    scale = from.scale();
  }
  /// Multipliers (0 or scale) of features [4 * quad, 4 * quad + 4) of one token.
  __device__ void multipliers(std::uint32_t row, std::uint32_t position, std::uint32_t quad,
                              float (&to)[4]) const {
    const auto lanes = philox4x32({micro_step, row, position, quad}, {seed, site});
#pragma unroll
    for (int i = 0; i < 4; ++i) to[i] = lanes[i] >= threshold ? scale : 0.0F;
  }
  /// The same as bits: bit i tells whether feature 4 * quad + i is kept.
  [[nodiscard]] __device__ unsigned kept(std::uint32_t row, std::uint32_t position,
                                         std::uint32_t quad) const {
    const auto lanes = philox4x32({micro_step, row, position, quad}, {seed, site});
    unsigned result = 0;
#pragma unroll
    for (int i = 0; i < 4; ++i) result |= lanes[i] >= threshold ? 1U << i : 0U;
    return result;
  }
};

}  // namespace t5zero::cuda
