// How elementwise kernels walk over the rows of a matrix: a block takes one row or a part of it, a thread
// `Features` neighbouring elements by accesses of up to 16 bytes. Rows may have any length and alignment;
// those that are not made of whole packs go element by element.
#pragma once

#include <algorithm>
#include <cstdint>

#include <t5zero/backend/cuda/kernels/dropout_mask.cuh>
#include <t5zero/backend/cuda/kernels/element.cuh>
#include <t5zero/tensor/ragged_view.hpp>
#include <t5zero/tensor/tensor_view.hpp>

namespace t5zero::cuda::detail {

/// Blocks of 128 threads: small batches still reach all multiprocessors.
inline constexpr index_t row_threads = 128;

/// Grid: x are the rows, y the parts of a row.
struct row_grid {
  dim3 blocks;
  dim3 threads;

  row_grid(index_t rows, index_t cols, int features) {
    const index_t packs = ceil_div(cols, features);
    const index_t per_block = std::min(row_threads, round_up(packs, warp_size));
    blocks = dim3(static_cast<unsigned>(rows), static_cast<unsigned>(ceil_div(packs, per_block)));
    threads = dim3(static_cast<unsigned>(per_block));
  }
};

/// First of this thread's features.
template <int Features>
[[nodiscard]] __device__ inline int first_feature() {
  return static_cast<int>(blockIdx.y * blockDim.x + threadIdx.x) * Features;
}

/// Do all packs of `features` elements begin at a multiple of their access size?
template <class U>
[[nodiscard]] inline bool takes_packs(matrix_view<U> m, int features) {
  const index_t access = std::min<index_t>(16, features * static_cast<index_t>(sizeof(U)));
  return reinterpret_cast<std::uintptr_t>(m.data) % static_cast<std::uintptr_t>(access) == 0 &&
         m.stride * static_cast<index_t>(sizeof(U)) % access == 0;
}
template <class U>
[[nodiscard]] inline bool takes_packs(vector_view<U> v, int features) {
  return takes_packs(matrix_view<U>(v.data, 1, v.size, 0), features);
}

/// Loads `Count` elements, of which the row still has `available`; the others come out as `filler`.
template <int Count, element T>
__device__ inline void load_features(const T* from, int available, bool packs, float (&to)[Count],
                                     float filler = 0.0F) {
  if (packs && available >= Count) {
    load_pack<Count>(from, to);
    return;
  }
#pragma unroll
  for (int i = 0; i < Count; ++i) to[i] = i < available ? to_float(from[i]) : filler;
}
template <int Count, element T>
__device__ inline void store_features(T* to, int available, bool packs, const float (&from)[Count]) {
  if (packs && available >= Count) {
    store_pack<Count>(to, from);
    return;
  }
#pragma unroll
  for (int i = 0; i < Count; ++i)
    if (i < available) to[i] = from_float<T>(from[i]);
}

/// Multipliers of features [first, first + Count) of token `t`: ones where dropout is off.
template <int Count>
__device__ inline void feature_multipliers(const dropout_mask& mask, const std::uint32_t* rows,
                                           const std::uint32_t* positions, index_t t, int first,
                                           float (&to)[Count]) {
  static_assert(Count % 4 == 0, "one Philox call gives four features");
  if (!mask.active) {
#pragma unroll
    for (int i = 0; i < Count; ++i) to[i] = 1.0F;
    return;
  }
  const std::uint32_t row = rows[t];
  const std::uint32_t position = positions[t];
#pragma unroll
  for (int i = 0; i < Count; i += 4) {
    float quad[4];
    mask.multipliers(row, position, static_cast<std::uint32_t>(first + i) / 4, quad);
#pragma unroll
    for (int j = 0; j < 4; ++j) to[i + j] = quad[j];
  }
}

}  // namespace t5zero::cuda::detail
