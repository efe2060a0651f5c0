// Learning rate schedules of transformers (optimization.py), in double.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <numbers>
#include <optional>
#include <string_view>
#include <utility>

#include <t5zero/core/integers.hpp>

namespace t5zero {

enum class lr_schedule_kind : std::uint8_t {
  linear,
  cosine,
  constant,
  constant_with_warmup,
  cosine_with_restarts,
  polynomial,
  inverse_sqrt,
  cosine_with_min_lr,
  cosine_warmup_with_min_lr,
  warmup_stable_decay
};

/// Every kind by the name that --lr_scheduler_type gives it.
inline constexpr std::array<std::pair<std::string_view, lr_schedule_kind>, 10> lr_schedule_names = {
    {{"linear", lr_schedule_kind::linear},
     {"cosine", lr_schedule_kind::cosine},
     {"cosine_with_restarts", lr_schedule_kind::cosine_with_restarts},
     {"polynomial", lr_schedule_kind::polynomial},
     {"constant", lr_schedule_kind::constant},
     {"constant_with_warmup", lr_schedule_kind::constant_with_warmup},
     {"inverse_sqrt", lr_schedule_kind::inverse_sqrt},
     {"cosine_with_min_lr", lr_schedule_kind::cosine_with_min_lr},
     {"cosine_warmup_with_min_lr", lr_schedule_kind::cosine_warmup_with_min_lr},
     {"warmup_stable_decay", lr_schedule_kind::warmup_stable_decay}}};

[[nodiscard]] constexpr std::string_view to_string(lr_schedule_kind kind) {
  for (const auto& [name, named] : lr_schedule_names) {
    if (named == kind) return name;
  }
  return {};
}

/// How a phase of warmup_stable_decay bends.
enum class lr_curve : std::uint8_t { linear, cosine, one_minus_sqrt };

/// What transformers takes from lr_scheduler_kwargs; each kind reads its own. `minimum` is a share of the
/// peak.
struct lr_schedule_shape {
  std::optional<double> num_cycles = {};      ///< cosines: 0.5 (half a wave), cosine_with_restarts: 1
  double power = 1.0;                         ///< polynomial
  double minimum = 0.0;                       ///< polynomial, the cosines with a minimum, warmup_stable_decay
  std::optional<double> warmup_minimum = {};  ///< cosine_warmup_with_min_lr: share at which the warmup starts
  std::optional<double> timescale = {};       ///< inverse_sqrt: updates; default the warmup's, or 10000
  index_t stable_steps = 0;                   ///< warmup_stable_decay
  index_t decay_steps = 0;                    ///< warmup_stable_decay
  lr_curve warmup_curve = lr_curve::linear;
  lr_curve decay_curve = lr_curve::cosine;
};

/// Multiplier and base of the rate of update s = 0, 1, ...
struct lr_schedule {
  lr_schedule_kind kind = lr_schedule_kind::linear;
  double learning_rate = 5e-5;
  index_t warmup_steps = 0;
  index_t total_steps = 0;
  lr_schedule_shape shape = {};

  /// Rate of the update that follows `steps` applied ones.
  [[nodiscard]] double operator()(index_t steps) const {
    if (kind == lr_schedule_kind::constant) return learning_rate;
    return learning_rate * std::max(0.0, steps < warmup_steps ? warming(steps) : after_warmup(steps));
  }

 private:
  [[nodiscard]] static double half_wave(double progress, double cycles) {
    return 0.5 * (1.0 + std::cos(std::numbers::pi * cycles * 2.0 * progress));
  }
  [[nodiscard]] double above_minimum(double factor) const {
    return factor * (1.0 - shape.minimum) + shape.minimum;
  }
  [[nodiscard]] double warming(index_t steps) const {
    const auto s = static_cast<double>(steps);
    const auto w = static_cast<double>(warmup_steps);
    if (kind == lr_schedule_kind::cosine_warmup_with_min_lr) {
      if (!shape.warmup_minimum) return (s + 1.0) / w;
      return *shape.warmup_minimum + (1.0 - *shape.warmup_minimum) * s / std::max(1.0, w - 1.0);
    }
    if (kind != lr_schedule_kind::warmup_stable_decay) return s / w;
    const double x = s / w;
    switch (shape.warmup_curve) {
      case lr_curve::cosine:
        return above_minimum(0.5 * (1.0 - std::cos(std::numbers::pi * x)));
      case lr_curve::one_minus_sqrt:
        return above_minimum(1.0 - std::sqrt(1.0 - x));
      case lr_curve::linear:
        break;
    }
    return above_minimum(x);
  }
  [[nodiscard]] double after_warmup(index_t steps) const {
    const auto s = static_cast<double>(steps);
    const auto w = static_cast<double>(warmup_steps);
    const auto total = static_cast<double>(total_steps);
    const double rest = std::max(1.0, total - w);
    const double progress = (s - w) / rest;
    const double cycles = shape.num_cycles.value_or(0.5);
    switch (kind) {
      case lr_schedule_kind::linear:
        return (total - s) / rest;
      case lr_schedule_kind::cosine:
        return half_wave(progress, cycles);
      case lr_schedule_kind::cosine_with_restarts:
        if (progress >= 1.0) return 0.0;
        return half_wave(std::fmod(shape.num_cycles.value_or(1.0) * progress, 1.0), 0.5);
      case lr_schedule_kind::polynomial:
        if (s > total || total <= w) return shape.minimum;
        return (1.0 - shape.minimum) * std::pow(1.0 - (s - w) / (total - w), shape.power) + shape.minimum;
      case lr_schedule_kind::inverse_sqrt: {
        const double scale = shape.timescale.value_or(warmup_steps > 0 ? w : 10000.0);
        return 1.0 / std::sqrt((s + scale - w) / scale);
      }
      case lr_schedule_kind::cosine_with_min_lr:
        return above_minimum(half_wave(progress, cycles));
      case lr_schedule_kind::cosine_warmup_with_min_lr:
        return above_minimum(half_wave((s - w + 1.0) / rest, cycles));
      case lr_schedule_kind::warmup_stable_decay:
        return stable_or_decaying(steps - warmup_steps, cycles);
      default:
        return 1.0;
    }
  }
  /// `steps` since the warmup.
  [[nodiscard]] double stable_or_decaying(index_t steps, double cycles) const {
    if (steps < shape.stable_steps) return 1.0;
    if (steps >= shape.stable_steps + shape.decay_steps) return shape.minimum;
    const double x = static_cast<double>(steps - shape.stable_steps) / static_cast<double>(shape.decay_steps);
    switch (shape.decay_curve) {
      case lr_curve::linear:
        return above_minimum(1.0 - x);
      case lr_curve::one_minus_sqrt:
        return above_minimum(1.0 - std::sqrt(x));
      case lr_curve::cosine:
        break;
    }
    return above_minimum(half_wave(x, cycles));
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
