// Learning rate schedules of transformers (optimization.py), in double.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <numbers>
#include <string_view>

#include <t5zero/core/integers.hpp>

namespace t5zero {

enum class lr_schedule_kind : std::uint8_t { linear, cosine, constant, constant_with_warmup };

/// Multiplier and base of the rate of update s = 0, 1, ...
struct lr_schedule {
  lr_schedule_kind kind = lr_schedule_kind::linear;
  double learning_rate = 5e-5;
  index_t warmup_steps = 0;
  index_t total_steps = 0;

  /// Rate of the update that follows `steps` applied ones.
  [[nodiscard]] double operator()(index_t steps) const {
    const auto s = static_cast<double>(steps);
    const auto w = static_cast<double>(warmup_steps);
    const auto rest = static_cast<double>(std::max<index_t>(1, total_steps - warmup_steps));
    if (kind == lr_schedule_kind::constant) return learning_rate;
    if (steps < warmup_steps) return learning_rate * s / std::max(1.0, w);
    switch (kind) {
      case lr_schedule_kind::linear:
        return learning_rate * std::max(0.0, (static_cast<double>(total_steps) - s) / rest);
      case lr_schedule_kind::cosine:
        return learning_rate * std::max(0.0, 0.5 * (1.0 + std::cos(std::numbers::pi * ((s - w) / rest))));
      default:
        return learning_rate;
    }
  }
};

/// What follows the warmup of a DeepSpeed schedule: WarmupLR, WarmupDecayLR, WarmupCosineLR.
enum class warmup_lr_kind : std::uint8_t { constant, decay, cosine };

/// DeepSpeed's schedules (runtime/lr_schedules.py): from minimum to maximum, logarithmically or linearly,
/// then constant, or down to `minimum` (decay, linear) or to final_ratio * maximum (cosine) at total_steps.
struct warmup_lr_schedule {
  warmup_lr_kind kind = warmup_lr_kind::constant;
  double minimum = 0.0;
  double maximum = 1e-3;
  index_t warmup_steps = 1000;  ///< below 2 counts as 2
  index_t total_steps = 0;      ///< decay and cosine
  double final_ratio = 1e-4;    ///< cosine
  bool logarithmic = true;

  /// Rate of the update that follows `steps` applied ones. The schedule is stepped after each update and
  /// starts one step early, so the first two updates run at `minimum` (cosine: the very first at 0).
  [[nodiscard]] double operator()(index_t steps) const {
    if (kind == warmup_lr_kind::cosine && steps == 0) return 0.0;
    const index_t w = std::max<index_t>(2, warmup_steps);
    const index_t s = std::max<index_t>(0, steps - 1);
    const auto rest = static_cast<double>(std::max<index_t>(1, total_steps - w));
    if (s < w) {
      const double gamma = logarithmic
                               ? std::log(static_cast<double>(s + 1)) / std::log(static_cast<double>(w))
                               : static_cast<double>(s) / static_cast<double>(w);
      return minimum + (maximum - minimum) * gamma;
    }
    switch (kind) {
      case warmup_lr_kind::decay:
        return minimum + (maximum - minimum) * std::max(0.0, static_cast<double>(total_steps - s) / rest);
      case warmup_lr_kind::cosine: {
        const double x = std::min(1.0, static_cast<double>(s - w + 1) / rest);
        return maximum * (final_ratio + (1.0 - final_ratio) * 0.5 * (1.0 + std::cos(std::numbers::pi * x)));
      }
      case warmup_lr_kind::constant:
        break;
    }
    return maximum;
  }
};

}  // namespace t5zero
