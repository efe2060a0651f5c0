// T5's relative position bias inside kernels: a bucket is found by counting the buckets that begin at or
// before a distance. Where they begin is worked out on the host (nn/relative_position_bias.hpp) and comes as
// a kernel argument, which all threads read at the same place.
#pragma once

#include <cstdint>

#include <t5zero/backend/cuda/kernels/element.cuh>
#include <t5zero/core/error.hpp>
#include <t5zero/core/integers.hpp>
#include <t5zero/nn/relative_position_bias.hpp>

namespace t5zero::cuda {

/// Buckets that one direction may have.
inline constexpr int max_distance_buckets = 64;

/// The distances at which buckets begin.
struct relative_buckets {
  int per_direction = 0;
  bool bidirectional = false;
  std::int32_t starts[max_distance_buckets] = {};  ///< of bucket i of a direction: ascending, starts[0] == 0

  /// From this distance on all have one bucket in each direction; 0 counts as behind.
  [[nodiscard]] T5ZERO_HOST_DEVICE constexpr int reach() const {
    return per_direction > 1 ? starts[per_direction - 1] : 1;
  }
  /// Bucket of rel = key position - query position.
  [[nodiscard]] __device__ int bucket(int rel) const {
    if (!bidirectional) return distance_bucket(rel < 0 ? -rel : 0);
    return (rel > 0 ? per_direction : 0) + distance_bucket(rel < 0 ? -rel : rel);
  }
  [[nodiscard]] __device__ int distance_bucket(int distance) const {
    int result = 0;
    for (int i = 1; i < per_direction; ++i) result += distance >= starts[i] ? 1 : 0;
    return result;
  }
};

namespace detail {

constexpr relative_buckets search_relative_buckets(bool bidirectional, index_t n_buckets,
                                                   index_t max_distance) {
  relative_buckets result;
  const index_t n = bidirectional ? n_buckets / 2 : n_buckets;
  result.per_direction = static_cast<int>(n);
  result.bidirectional = bidirectional;
  for (index_t i = 1; i < n; ++i) {
    index_t low = 0;  // its bucket is below i
    index_t high = max_distance > n ? max_distance : n;
    while (high - low > 1) {
      const index_t middle = (low + high) / 2;
      (t5zero::detail::distance_bucket(middle, n, max_distance) < i ? low : high) = middle;
    }
    result.starts[i] = static_cast<std::int32_t>(high);
  }
  return result;
}
// All published T5 models have these.
inline constexpr relative_buckets usual_buckets = search_relative_buckets(true, 32, 128);
inline constexpr relative_buckets usual_causal_buckets = search_relative_buckets(false, 32, 128);
static_assert(usual_buckets.starts[9] == 12 && usual_buckets.starts[15] == 91 &&
              usual_causal_buckets.reach() == 113);

}  // namespace detail

/// Throws contract_error where there are more buckets than a kernel argument holds.
[[nodiscard]] inline relative_buckets find_relative_buckets(bool bidirectional, index_t n_buckets,
                                                            index_t max_distance) {
  if (n_buckets == 32 && max_distance == 128) {
    return bidirectional ? detail::usual_buckets : detail::usual_causal_buckets;
  }
  require((bidirectional ? n_buckets / 2 : n_buckets) <= max_distance_buckets,
          "cuda::attention: at most 64 relative position buckets for each direction");
  return detail::search_relative_buckets(bidirectional, n_buckets, max_distance);
}

}  // namespace t5zero::cuda
