// Clipping by the global norm.
#pragma once

#include <t5zero/core/config.hpp>

namespace t5zero {

/// min(1, max_norm / (norm + 1e-6)), as torch.nn.utils.clip_grad_norm_: 0 for an infinite norm, NaN for NaN.
/// max_norm <= 0: no clipping.
[[nodiscard]] T5ZERO_HOST_DEVICE constexpr double clip_factor(double norm, double max_norm) {
  if (!(max_norm > 0.0)) return 1.0;
  const double factor = max_norm / (norm + 1e-6);
  return factor > 1.0 ? 1.0 : factor;
}

}  // namespace t5zero
