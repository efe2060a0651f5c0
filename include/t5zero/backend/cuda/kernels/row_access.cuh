// How elementwise kernels walk over the rows of a matrix: a block takes one row or a part of it, a thread
// `Features` neighbouring elements by accesses of up to 16 bytes. Rows may have any length and alignment;
// those that are not made of whole packs go element by element.
#pragma once

#include <algorithm>
#include <cstdint>
#include <type_traits>

#include <t5zero/backend/cuda/kernels/dropout_mask.cuh>
#include <t5zero/backend/cuda/kernels/element.cuh>
#include <t5zero/backend/cuda/kernels/grid_overlap.cuh>
#include <t5zero/tensor/ragged_view.hpp>
#include <t5zero/tensor/tensor_view.hpp>

namespace t5zero::cuda::detail {

/// Blocks of 128 threads: small batches still reach all multiprocessors.
inline constexpr index_t row_threads = 128;

/// Grid: x are the rows, y the parts of a row.
struct row_grid {
  dim3 blocks;
  int threads = 0;

  row_grid(index_t rows, index_t cols, int features) {
    const index_t packs = ceil_div(cols, features);
    const index_t per_block = std::min(row_threads, round_up(packs, warp_size));
    blocks = dim3(static_cast<unsigned>(rows), static_cast<unsigned>(ceil_div(packs, per_block)));
    threads = static_cast<int>(per_block);
  }
  /// A launch that may overlap the kernel in front.
  [[nodiscard]] overlapped_launch overlapping(execution& e) const {
    return {.blocks = blocks, .threads = threads, .overlap = overlap_of(e), .is_row_wise = true};
  }
};

/// First of this thread's features.
template <int Features>
[[nodiscard]] __device__ inline int first_feature() {
  return static_cast<int>(blockIdx.y * blockDim.x + threadIdx.x) * Features;
}

/// Is the matrix made of whole packs of `features` elements that begin at multiples of their access size?
/// What a kernel then does is compiled apart (`Packs`): a branch at each access would keep it from having the
/// next one under way.
template <class U>
[[nodiscard]] inline bool takes_packs(matrix_view<U> m, int features) {
  const index_t access = std::min<index_t>(16, features * static_cast<index_t>(sizeof(U)));
  return reinterpret_cast<std::uintptr_t>(m.data) % static_cast<std::uintptr_t>(access) == 0 &&
         m.stride * static_cast<index_t>(sizeof(U)) % access == 0 && m.cols % features == 0;
}
template <class U>
[[nodiscard]] inline bool takes_packs(vector_view<U> v, int features) {
  return takes_packs(matrix_view<U>(v.data, 1, v.size, 0), features);
}
/// f(std::true_type) or f(std::false_type).
template <class F>
inline void with_packs(bool packs, const F& f) {
  if (packs)
    f(std::true_type{});
  else
    f(std::false_type{});
}

/// `Count` elements, of which the row still has `available`; the others come out as zeros. Not yet converted:
/// a conversion waits for its load, and others can be under way by then.
template <int Count, bool Packs, element T>
[[nodiscard]] __device__ inline pack<T, Count> load_features(const T* from, int available) {
  pack<T, Count> result{};
  if constexpr (Packs) {
    if (available >= Count) result = *reinterpret_cast<const pack<T, Count>*>(from);
  } else {
#pragma unroll
    for (int i = 0; i < Count; ++i)
      if (i < available) result.values[i] = from[i];
  }
  return result;
}
template <int Count, element T>
__device__ inline void unpack(const pack<T, Count>& from, float (&to)[Count]) {
#pragma unroll
  for (int i = 0; i < Count; ++i) to[i] = to_float(from.values[i]);
}
template <int Count, bool Packs, element T>
__device__ inline void store_features(T* to, int available, const float (&from)[Count]) {
  if constexpr (Packs) {
    if (available >= Count) store_pack<Count>(to, from);
  } else {
#pragma unroll
    for (int i = 0; i < Count; ++i)
      if (i < available) to[i] = from_float<T>(from[i]);
  }
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
