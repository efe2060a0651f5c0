// Sums over the rows of a matrix, for each column, in a fixed order: a block takes a slice of eight columns,
// the 32 bytes of a memory sector, so that even narrow matrices reach all multiprocessors.
#pragma once

#include <t5zero/backend/cuda/kernels/element.cuh>
#include <t5zero/core/integers.hpp>

namespace t5zero::cuda::detail {

inline constexpr int slice_columns = 8;

/// Sum of the block's slice. load(row, quad) gives what add(loaded, sums) then adds: four values, those of
/// columns [4 * quad, 4 * quad + 4) of the slice; quad < 2. They are apart so that several rows are under
/// way. Thread i < slice_columns returns the sum of column i, the others nothing of use. `shared`: Threads /
/// 4 floats.
template <int Threads, class Load, class Add>
[[nodiscard]] __device__ inline float column_slice_sum(int rows, const Load& load, const Add& add,
                                                       float* shared) {
  constexpr int quads = slice_columns / 4;
  constexpr int step = Threads / quads;
  constexpr int under_way = 4;
  const int quad = static_cast<int>(threadIdx.x) % quads;
  float sums[4] = {};
  for (int first = static_cast<int>(threadIdx.x) / quads; first < rows; first += under_way * step) {
    decltype(load(0, 0)) loaded[under_way];
#pragma unroll
    for (int i = 0; i < under_way; ++i)
      if (first + i * step < rows) loaded[i] = load(first + i * step, quad);
#pragma unroll
    for (int i = 0; i < under_way; ++i)
      if (first + i * step < rows) add(loaded[i], sums);
  }
#pragma unroll
  for (int offset = quads; offset < warp_size; offset *= 2) {
#pragma unroll
    for (float& sum : sums) sum += __shfl_xor_sync(all_lanes, sum, offset);
  }
  const int warp = static_cast<int>(threadIdx.x) / warp_size;
  if (threadIdx.x % warp_size < quads) {
#pragma unroll
    for (int i = 0; i < 4; ++i) shared[warp * slice_columns + quad * 4 + i] = sums[i];
  }
  __syncthreads();
  float total = 0.0F;
  if (threadIdx.x < slice_columns) {
#pragma unroll
    for (int i = 0; i < Threads / warp_size; ++i) total += shared[i * slice_columns + threadIdx.x];
  }
  return total;
}

}  // namespace t5zero::cuda::detail
