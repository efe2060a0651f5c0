// Loss scaling for fp16 gradients (Micikevicius et al. 2018), with DeepSpeed's rules or PyTorch's.
#pragma once

#include <cstdint>
#include <limits>

#include <t5zero/core/config.hpp>
#include <t5zero/core/error.hpp>
#include <t5zero/core/integers.hpp>

namespace t5zero {

/// Whose rules a dynamic scale follows.
enum class loss_scale_rule : std::uint8_t {
  deepspeed,   ///< LossScaler of stages 1 to 3: hysteresis, and an overflow at the minimum ends the run
  grad_scaler  ///< torch.amp.GradScaler: halves at once, doubles after `window` clean updates in a row
};

/// Options as in DeepSpeed's "fp16" section.
struct loss_scaler_options {
  loss_scale_rule rule = loss_scale_rule::deepspeed;
  double initial_scale = 65536.0;
  index_t window = 1000;  ///< clean updates before the scale doubles
  int hysteresis = 2;     ///< overflows before the scale halves for the first time
  bool consecutive_hysteresis = false;
  double minimum_scale = 1.0;
  bool dynamic = true;  ///< false: the scale stays, an overflow still skips the update

  /// What transformers uses without DeepSpeed.
  [[nodiscard]] static constexpr loss_scaler_options grad_scaler() {
    loss_scaler_options options;
    options.rule = loss_scale_rule::grad_scaler;
    options.window = 2000;
    return options;
  }
};

/// FLT_MIN; std::numeric_limits is not for device code.
inline constexpr double smallest_normal_float = 0x1p-126;
static_assert(smallest_normal_float == static_cast<double>(std::numeric_limits<float>::min()));

/// What a scaler has learnt so far.
struct loss_scaler_state {
  double scale = 1.0;
  int hysteresis = 1;
  index_t iteration = 0;
  index_t last_overflow = -1;
  index_t clean = 0;  ///< updates in a row, grad_scaler only
};

/// One update's verdict on the scale. t5zero unscales with the scale that backward used, also on the step
/// that grows it; DeepSpeed divides by the new scale there, which halves that step's gradients unless
/// clipping undoes it. False: the scale had to be lowered and cannot be.
[[nodiscard]] T5ZERO_HOST_DEVICE constexpr bool advance(const loss_scaler_options& options,
                                                        loss_scaler_state& state, bool overflow) {
  if (!options.dynamic) return true;
  if (options.rule == loss_scale_rule::grad_scaler) {
    if (overflow) {
      // PyTorch has no floor; a scale that fp32 cannot hold has failed at every value.
      if (state.scale < 2.0 * smallest_normal_float) return false;
      state.scale /= 2.0;
      state.clean = 0;
    } else if (++state.clean == options.window) {
      state.scale *= 2.0;
      state.clean = 0;
    }
    return true;
  }
  if (overflow) {
    if (options.hysteresis == 1 || state.hysteresis == 1) {
      if (state.scale <= options.minimum_scale) return false;
      const double half = state.scale / 2.0;
      state.scale = half > options.minimum_scale ? half : options.minimum_scale;
    } else {
      --state.hysteresis;
    }
    state.last_overflow = state.iteration;
  } else {
    if (options.consecutive_hysteresis) state.hysteresis = options.hysteresis;
    const index_t stable = state.iteration - state.last_overflow - 1;
    if (stable > 0 && stable % options.window == 0) {
      if (!options.consecutive_hysteresis) state.hysteresis = options.hysteresis;
      state.scale *= 2.0;
    }
  }
  ++state.iteration;
  return true;
}

/// A scaler at its start.
[[nodiscard]] constexpr loss_scaler_state initial_state(const loss_scaler_options& options) {
  return {.scale = options.initial_scale, .hysteresis = options.hysteresis};
}

[[noreturn]] inline void throw_scale_exhausted() {
  throw numeric_error(
      "Current loss scale already at minimum - cannot decrease scale anymore. Exiting run. The gradients are "
      "not "
      "finite at any scale: use bf16, or a lower learning rate.");
}

}  // namespace t5zero
