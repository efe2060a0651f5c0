// The left operand of row_matmul's products, up to 16 rows as they are or normed on the way, as the warps of
// a block hold it for the tensor cores: they divide the depth, and each element is read once a block.
#pragma once

#include <t5zero/backend/cuda/kernels/element.cuh>
#include <t5zero/backend/cuda/kernels/row_access.cuh>
#include <t5zero/tensor/tensor_view.hpp>

namespace t5zero::cuda::detail {

inline constexpr int row_matmul_warps = 8;
inline constexpr int row_matmul_threads = row_matmul_warps * warp_size;
/// Rows of the operand that a tensor core takes at a time.
inline constexpr int row_tile = 8;
/// Depth that a warp takes at a time: four neighbours a lane, which count as the columns that the instruction
/// wants there. The same order for both operands is as good as any other.
inline constexpr int row_slab = 16;

/// Which of eight rows (of the operand, of the weight) this lane holds.
[[nodiscard]] __device__ inline int lane_row() {
  return static_cast<int>(threadIdx.x) % warp_size / 4;
}
/// The first of its columns of its warp's slab `s`.
[[nodiscard]] __device__ inline int lane_column(int s) {
  const int warp = static_cast<int>(threadIdx.x) / warp_size;
  return (s * row_matmul_warps + warp) * row_slab + static_cast<int>(threadIdx.x) % 4 * 4;
}

/// This lane's part of Tiles * row_tile rows of Slabs * row_matmul_warps * row_slab columns: zeros where
/// there is nothing, so that products need not ask.
template <element T, int Slabs, int Tiles>
struct row_operand {
  pack<T, 4> values[Slabs][Tiles];

  /// Columns [first, + depth) of `from`.
  __device__ void load(const matrix_view<const T>& from, int first, int depth) {
#pragma unroll
    for (int s = 0; s < Slabs; ++s) {
#pragma unroll
      for (int t = 0; t < Tiles; ++t) {
        const int row = t * row_tile + lane_row();
        values[s][t] = load_features<4, true>(from.data + row * from.stride + first + lane_column(s),
                                              row < from.rows ? depth - lane_column(s) : 0);
      }
    }
  }
};

/// The left operand as it is.
template <element T>
struct plain_rows {
  static constexpr bool are_normed = false;
  matrix_view<const T> a;

  /// What is known before the kernel in front has ended.
  template <int Slabs>
  struct constants {};
  template <int Slabs>
  [[nodiscard]] __device__ constants<Slabs> prepare() const {
    return {};
  }
  [[nodiscard]] __device__ int count() const { return static_cast<int>(a.rows); }

  /// In shared memory: what the warps tell each other.
  template <int Tiles>
  struct exchange {};
  /// Columns [first, + depth). All threads of the block call it.
  template <int Slabs, int Tiles>
  [[nodiscard]] __device__ row_operand<T, Slabs, Tiles> make(const constants<Slabs>& /*known*/,
                                                             exchange<Tiles>& /*shared*/, int first,
                                                             int depth) const {
    row_operand<T, Slabs, Tiles> operand;
    operand.load(a, first, depth);
    return operand;
  }
  /// What products with a row are still to be multiplied by; a barrier must lie between make and it.
  template <int Tiles>
  [[nodiscard]] __device__ float scale(const exchange<Tiles>& /*shared*/, int /*row*/) const {
    return 1.0F;
  }
};

/// rms_norm(x), rounded to T.
template <element T>
struct normed_rows {
  static constexpr bool are_normed = true;
  matrix_view<const float> x;
  const T* weight = nullptr;
  float epsilon = 0.0F;

  template <int Slabs>
  struct constants {
    pack<T, 4> weight[Slabs];
  };
  template <int Slabs>
  [[nodiscard]] __device__ constants<Slabs> prepare() const {
    constants<Slabs> known;
#pragma unroll
    for (int s = 0; s < Slabs; ++s)
      known.weight[s] =
          load_features<4, true>(weight + lane_column(s), static_cast<int>(x.cols) - lane_column(s));
    return known;
  }
  [[nodiscard]] __device__ int count() const {
    return static_cast<int>(x.rows);
  }

  /// Sums of squares of each warp's columns.
  template <int Tiles>
  struct exchange {
    float squares[row_matmul_warps][Tiles * row_tile];
  };
  template <int Slabs, int Tiles>
  [[nodiscard]] __device__ row_operand<T, Slabs, Tiles> make(const constants<Slabs>& known,
                                                             exchange<Tiles>& shared, int /*first*/,
                                                             int depth) const {
    row_operand<float, Slabs, Tiles> rows;
    rows.load(x, 0, depth);
#pragma unroll
    for (int t = 0; t < Tiles; ++t) {
      float squares = 0.0F;
#pragma unroll
      for (int s = 0; s < Slabs; ++s) {
#pragma unroll
        for (const float value : rows.values[s][t].values) squares += value * value;
      }
      squares += __shfl_xor_sync(all_lanes, squares, 1);
      squares += __shfl_xor_sync(all_lanes, squares, 2);
      if (threadIdx.x % 4 == 0) shared.squares[threadIdx.x / warp_size][t * row_tile + lane_row()] = squares;
    }
    float scales[Tiles];
    if constexpr (rounds) __syncthreads();
#pragma unroll
    for (int t = 0; t < Tiles; ++t)
      scales[t] = rounds ? inverse_rms(shared, t * row_tile + lane_row()) : 1.0F;
    row_operand<T, Slabs, Tiles> operand;
#pragma unroll
    for (int s = 0; s < Slabs; ++s) {
      float weights[4];
      unpack(known.weight[s], weights);
#pragma unroll
      for (int t = 0; t < Tiles; ++t) {
#pragma unroll
        for (int i = 0; i < 4; ++i)
          operand.values[s][t].values[i] =
              from_float<T>(rows.values[s][t].values[i] * scales[t] * weights[i]);
      }
    }
    return operand;
  }
  template <int Tiles>
  [[nodiscard]] __device__ float scale(const exchange<Tiles>& shared, int row) const {
    return rounds ? 1.0F : inverse_rms(shared, row);
  }

 private:
  /// What is rounded must be normed before; otherwise the sum can be, and nothing waits for the norm.
  static constexpr bool rounds = sizeof(T) == 2;

  template <int Tiles>
  [[nodiscard]] __device__ float inverse_rms(const exchange<Tiles>& shared, int row) const {
    float squares = 0.0F;
#pragma unroll
    for (int w = 0; w < row_matmul_warps; ++w) squares += shared.squares[w][row];
    return 1.0F / sqrtf(squares / static_cast<float>(x.cols) + epsilon);
  }
};

}  // namespace t5zero::cuda::detail
