// When something that repeats happens: log lines, evaluations, checkpoints.
#pragma once

#include <cmath>
#include <cstdint>

#include <t5zero/core/integers.hpp>

namespace t5zero {

/// A number of updates, or a share of all of them when it lies in (0,1).
struct step_count {
  double value = 0;
  /// Updates; a share is rounded up.
  [[nodiscard]] index_t steps(index_t max_steps) const {
    const bool is_share = value > 0 && value < 1;
    return static_cast<index_t>(is_share ? std::ceil(value * static_cast<double>(max_steps)) : value);
  }
  friend constexpr bool operator==(step_count, step_count) = default;
};

/// `best`: whenever an evaluation gives a better metric than all before it (checkpoints only).
enum class interval_strategy : std::uint8_t { no, steps, epoch, best };

}  // namespace t5zero
