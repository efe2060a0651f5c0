// 64-bit index arithmetic: T5-3B has 2,851,598,336 parameters, more than 2^31 - 1.
#pragma once

#include <cstdint>

#include <t5zero/core/config.hpp>

namespace t5zero {

/// Element counts, byte counts and positions, everywhere.
using index_t = std::int64_t;

/// Smallest q with q * divisor >= value. Requires value >= 0 and divisor > 0.
[[nodiscard]] T5ZERO_HOST_DEVICE constexpr index_t ceil_div(index_t value, index_t divisor) {
  return (value + divisor - 1) / divisor;
}

/// Smallest multiple of `multiple` that is >= value. Requires value >= 0 and multiple > 0.
[[nodiscard]] T5ZERO_HOST_DEVICE constexpr index_t round_up(index_t value, index_t multiple) {
  return ceil_div(value, multiple) * multiple;
}

}  // namespace t5zero
