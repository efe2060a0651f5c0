// Loss scaling for fp16 gradients (Micikevicius et al. 2018), with DeepSpeed's rules or PyTorch's.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>

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

/// What a scaler has learnt so far.
struct loss_scaler_state {
  double scale = 1.0;
  int hysteresis = 1;
  index_t iteration = 0;
  index_t last_overflow = -1;
  index_t clean = 0;  ///< updates in a row, grad_scaler only
};

/// Asked once for each update. t5zero unscales with the scale that backward used, also on the step that grows
/// it; DeepSpeed divides by the new scale there, which halves that step's gradients unless clipping undoes
/// it.
class loss_scaler {
 public:
  explicit loss_scaler(const loss_scaler_options& options = {})
      : options_(options), state_{.scale = options.initial_scale, .hysteresis = options.hysteresis} {}

  [[nodiscard]] double scale() const { return state_.scale; }
  [[nodiscard]] int hysteresis() const { return state_.hysteresis; }
  [[nodiscard]] const loss_scaler_state& state() const { return state_; }
  void restore(const loss_scaler_state& state) { state_ = state; }

  /// Throws numeric_error if the scale cannot be lowered further.
  void update(bool overflow) {
    if (!options_.dynamic) return;
    if (options_.rule == loss_scale_rule::grad_scaler) return update_as_grad_scaler(overflow);
    if (overflow) {
      if (options_.hysteresis == 1 || state_.hysteresis == 1) {
        if (state_.scale <= options_.minimum_scale) throw_at_minimum();
        state_.scale = std::max(state_.scale / 2.0, options_.minimum_scale);
      } else {
        --state_.hysteresis;
      }
      state_.last_overflow = state_.iteration;
    } else {
      if (options_.consecutive_hysteresis) state_.hysteresis = options_.hysteresis;
      const index_t stable = state_.iteration - state_.last_overflow - 1;
      if (stable > 0 && stable % options_.window == 0) {
        if (!options_.consecutive_hysteresis) state_.hysteresis = options_.hysteresis;
        state_.scale *= 2.0;
      }
    }
    ++state_.iteration;
  }

 private:
  [[noreturn]] static void throw_at_minimum() {
    throw numeric_error(
        "Current loss scale already at minimum - cannot decrease scale anymore. Exiting run. The gradients "
        "are "
        "not finite at any scale: use bf16, or a lower learning rate.");
  }
  void update_as_grad_scaler(bool overflow) {
    if (overflow) {
      // PyTorch has no floor; a scale that fp32 cannot hold has failed at every value.
      if (state_.scale < 2.0 * static_cast<double>(std::numeric_limits<float>::min())) throw_at_minimum();
      state_.scale /= 2.0;
      state_.clean = 0;
    } else if (++state_.clean == options_.window) {
      state_.scale *= 2.0;
      state_.clean = 0;
    }
  }

  loss_scaler_options options_;
  loss_scaler_state state_;
};

}  // namespace t5zero
