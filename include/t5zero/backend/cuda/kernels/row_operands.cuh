// The left operand of row_matmul's products: up to 16 rows in shared memory, as they are or normed on the
// way.
#pragma once

#include <t5zero/backend/cuda/kernels/element.cuh>
#include <t5zero/backend/cuda/kernels/row_access.cuh>
#include <t5zero/backend/cuda/kernels/tensor_core.cuh>
#include <t5zero/core/integers.hpp>
#include <t5zero/tensor/tensor_view.hpp>

namespace t5zero::cuda::detail {

inline constexpr int row_matmul_threads = 128;
inline constexpr int row_matmul_warps = row_matmul_threads / warp_size;
/// Depth that the lanes of a warp take at a time.
inline constexpr int row_chunk = 4 * warp_size;
/// Rows that are multiplied at a time.
inline constexpr int row_group = 4;

/// This lane's columns of chunk c.
[[nodiscard]] __device__ inline int lane_column(int c) {
  return c * row_chunk + static_cast<int>(threadIdx.x) % warp_size * 4;
}
/// The operand in shared memory: Groups * row_group rows of Chunks * row_chunk columns, zeros where there is
/// nothing, so that products need not ask.
template <int Chunks, int Groups>
struct row_operand {
  static constexpr int rows = Groups * row_group;
  static constexpr int stride = Chunks * row_chunk;
  static constexpr int elements = rows * stride;
};

/// Starts to copy columns [first, + depth) of all rows to `to`.
template <class Operand, element T>
__device__ void copy_operand(T* to, const matrix_view<const T>& from, int first, int depth) {
  constexpr int packs = Operand::stride / 4;
#pragma unroll
  for (int i = 0; i < Operand::rows * packs / row_matmul_threads; ++i) {
    const int p = i * row_matmul_threads + static_cast<int>(threadIdx.x);
    const int row = p / packs;
    const int column = p % packs * 4;
    const bool inside = row < from.rows && column < depth;
    copy_pack_async(reinterpret_cast<pack<T, 4>*>(to + p * 4),
                    reinterpret_cast<const pack<T, 4>*>(
                        inside ? from.data + row * from.stride + first + column : from.data),
                    inside);
  }
}

/// The left operand as it is.
template <element T>
struct plain_rows {
  matrix_view<const T> a;

  template <class Operand>
  static constexpr index_t shared_bytes = Operand::elements* index_t{sizeof(T)};
  template <int Chunks>
  struct constants {};
  template <int Chunks>
  [[nodiscard]] __device__ constants<Chunks> prepare() const {
    return {};
  }
  [[nodiscard]] __device__ int count() const { return static_cast<int>(a.rows); }

  /// Brings columns [first, + depth) to `memory`; the operand. All threads of the block call it.
  template <class Operand, class Constants>
  [[nodiscard]] __device__ const T* make(const Constants& /*known*/, unsigned char* memory, int first,
                                         int depth) const {
    T* const operand = reinterpret_cast<T*>(memory);
    copy_operand<Operand>(operand, a, first, depth);
    wait_for_copies();
    __syncthreads();
    return operand;
  }
};

/// rms_norm(x), rounded to T.
template <element T>
struct normed_rows {
  matrix_view<const float> x;
  const T* weight = nullptr;
  float epsilon = 0.0F;

  /// Rows as they are; behind them, unless T is fp32, the operand.
  template <class Operand>
  static constexpr index_t shared_bytes = Operand::elements*(sizeof(T) == 4 ? 4 : 4 + index_t{sizeof(T)});
  template <int Chunks>
  struct constants {
    pack<T, 4> weight[Chunks];
  };
  template <int Chunks>
  [[nodiscard]] __device__ constants<Chunks> prepare() const {
    constants<Chunks> known;
#pragma unroll
    for (int c = 0; c < Chunks; ++c)
      known.weight[c] =
          load_features<4, true>(weight + lane_column(c), static_cast<int>(x.cols) - lane_column(c));
    return known;
  }
  [[nodiscard]] __device__ int count() const {
    return static_cast<int>(x.rows);
  }

  /// Each warp norms one row of each group.
  template <class Operand, class Constants>
  [[nodiscard]] __device__ const T* make(const Constants& known, unsigned char* memory, int /*first*/,
                                         int depth) const {
    constexpr int chunks = Operand::stride / row_chunk;
    float* const rows = reinterpret_cast<float*>(memory);
    T* const operand =
        sizeof(T) == 4 ? reinterpret_cast<T*>(memory) : reinterpret_cast<T*>(memory + Operand::elements * 4);
    copy_operand<Operand>(rows, x, 0, depth);
    const float inverse_depth = 1.0F / static_cast<float>(depth);
    wait_for_copies();
    __syncthreads();
    const int warp = static_cast<int>(threadIdx.x) / warp_size;
    float loaded[Operand::rows / row_matmul_warps][chunks][4];
    float scale[Operand::rows / row_matmul_warps];
#pragma unroll
    for (int i = 0; i < Operand::rows / row_matmul_warps; ++i) {
      const float* const row = rows + (i * row_matmul_warps + warp) * Operand::stride;
      float squares = 0.0F;
#pragma unroll
      for (int c = 0; c < chunks; ++c) {
        load_pack(row + lane_column(c), loaded[i][c]);
#pragma unroll
        for (const float value : loaded[i][c]) squares += value * value;
      }
      scale[i] = squares;
    }
#pragma unroll
    for (float& value : scale) value = 1.0F / sqrtf(warp_sum(value) * inverse_depth + epsilon);
#pragma unroll
    for (int i = 0; i < Operand::rows / row_matmul_warps; ++i) {
#pragma unroll
      for (int c = 0; c < chunks; ++c) {
        float normed[4];
#pragma unroll
        for (int j = 0; j < 4; ++j)
          normed[j] = loaded[i][c][j] * scale[i] * to_float(known.weight[c].values[j]);
        store_pack(operand + (i * row_matmul_warps + warp) * Operand::stride + lane_column(c), normed);
      }
    }
    __syncthreads();
    return operand;
  }
};

}  // namespace t5zero::cuda::detail
