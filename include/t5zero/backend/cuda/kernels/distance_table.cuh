// The relative bias that a block of attention needs, by distance, in shared memory.
#pragma once

#include <algorithm>

#include <t5zero/backend/backend.hpp>
#include <t5zero/backend/cuda/kernels/element.cuh>
#include <t5zero/backend/cuda/kernels/relative_bias.cuh>
#include <t5zero/backend/cuda/kernels/softmax.cuh>

namespace t5zero::cuda::detail {

/// The bias of one head by distance key - query, times log2(e), in shared memory. From `reach` on, in either
/// direction, all distances have one bucket: 16 x 16 scores that lie beyond are moved to where they just do,
/// so that the table's size does not depend on the lengths.
struct distance_table {
  float* values = nullptr;
  int reach = 0;

  [[nodiscard]] T5ZERO_HOST_DEVICE static constexpr int floats(int reach) { return 2 * reach + 61; }

  /// Index of the distance between the first key and the first query of 16 x 16 scores; the others are at
  /// most 15 away from it.
  [[nodiscard]] __device__ int base(int first_key, int first_query) const {
    return max(-(reach + 15), min(reach + 15, first_key - first_query)) + reach + 30;
  }
  /// The distances that occur between queries [first_query, end_query) and keys [first_key, end_key), ends
  /// being rounded up to whole tiles: first and one past the last.
  struct range {
    int first;
    int end;
  };
  [[nodiscard]] __device__ range occurring(int first_query, int end_query, int first_key, int end_key) const {
    const int first = min(reach, max(-(reach + 30), first_key - end_query + 1));
    const int last = max(-reach, min(reach + 30, end_key - 1 - first_query));
    return {first, last + 1};
  }
  template <int Threads, element T>
  __device__ void fill(range distances, const T* bias, int n_heads, int head,
                       const relative_buckets& buckets) const {
    for (int d = distances.first + static_cast<int>(threadIdx.x); d < distances.end; d += Threads) {
      values[d + reach + 30] = to_float(bias[buckets.bucket(d) * n_heads + head]) * log2_e;
    }
  }
};

/// Reach of the table of biases: the buckets', or a distance that never occurs.
template <element T>
[[nodiscard]] int bias_reach(const attention_inputs<T>& in, const relative_buckets& buckets) {
  return static_cast<int>(
      std::min<index_t>(buckets.reach(), std::max(in.queries.max_length, in.keys.max_length)));
}

}  // namespace t5zero::cuda::detail
