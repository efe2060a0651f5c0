// T5's relative position buckets (Raffel et al. 2020, section 2.1; modeling_t5.py,
// _relative_position_bucket).
#pragma once

#include <t5zero/core/config.hpp>
#include <t5zero/core/integers.hpp>

namespace t5zero {

namespace detail {

/// Bucket of a distance r >= 0 among n: exact below n / 2, then logarithmic up to max_distance. Powers are
/// compared instead of logarithms: bucket e + j starts at the first r with (r / e)^(n - e) >= (max / e)^j.
[[nodiscard]] T5ZERO_HOST_DEVICE constexpr index_t distance_bucket(index_t r, index_t n,
                                                                   index_t max_distance) {
  const index_t e = n / 2;
  if (r < e) return r;
  if (r >= max_distance) return n - 1;
  const index_t steps = n - e;
  double left = 1.0;
  for (index_t i = 0; i < steps; ++i) left *= static_cast<double>(r) / static_cast<double>(e);
  const double factor = static_cast<double>(max_distance) / static_cast<double>(e);
  double right = factor;
  index_t j = 0;
  // A relative margin far below the gap to the nearest integer distance keeps exact powers (r = 32, 64) on
  // their side.
  while (j < steps - 1 && left >= right * (1.0 - 1e-9)) {
    right *= factor;
    ++j;
  }
  return e + j;
}

}  // namespace detail

/// Bucket of rel = key position - query position. Bidirectional (encoder): half of the buckets for keys
/// behind the query; causal (decoder): all for keys before it, later keys count as distance 0.
[[nodiscard]] T5ZERO_HOST_DEVICE constexpr index_t relative_position_bucket(index_t rel, bool bidirectional,
                                                                            index_t n_buckets,
                                                                            index_t max_distance) {
  if (!bidirectional) return detail::distance_bucket(rel < 0 ? -rel : 0, n_buckets, max_distance);
  const index_t half = n_buckets / 2;
  return (rel > 0 ? half : 0) + detail::distance_bucket(rel < 0 ? -rel : rel, half, max_distance);
}

// The distances at which PyTorch's buckets begin, for 32 buckets and max_distance 128.
namespace detail {
constexpr bool buckets_begin_at(const index_t (&starts)[8], const index_t (&causal_starts)[16]) {
  for (index_t i = 0; i < 8; ++i) {
    if (distance_bucket(starts[i], 16, 128) != 8 + i || distance_bucket(starts[i] - 1, 16, 128) != 7 + i)
      return false;
  }
  for (index_t i = 0; i < 16; ++i) {
    if (distance_bucket(causal_starts[i], 32, 128) != 16 + i) return false;
    if (distance_bucket(causal_starts[i] - 1, 32, 128) != 15 + i) return false;
  }
  return true;
}
static_assert(buckets_begin_at({8, 12, 16, 23, 32, 46, 64, 91},
                               {16, 19, 21, 24, 27, 31, 35, 40, 46, 52, 59, 67, 77, 87, 99, 113}));
}  // namespace detail

}  // namespace t5zero
