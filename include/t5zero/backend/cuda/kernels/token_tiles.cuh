// The parts of token_matmul's kernels: operands in shared memory, a tile's products, which the warps divide
// along the depth, and their sums. A result's sum has an order of its own that does not depend on the tile:
// warp w adds the steps of 16 of the depth w, w + 8, ...; then come the warps in order, then the cluster's
// blocks in order.
#pragma once

#include <t5zero/backend/cuda/kernels/element.cuh>
#include <t5zero/backend/cuda/kernels/grid_overlap.cuh>
#include <t5zero/backend/cuda/kernels/tensor_core.cuh>
#include <t5zero/backend/cuda/token_matmul.hpp>

namespace t5zero::cuda::detail {

inline constexpr int token_threads = token_warps * warp_size;

/// Blocks of a cluster that share something, where the architecture has clusters.
[[nodiscard]] __device__ constexpr int cluster_blocks(int wanted) {
#if __CUDA_ARCH__ >= 900
  return wanted;
#else
  return wanted > 0 ? 1 : 0;
#endif
}

/// A tile as kernels see it. Rows of operands in shared memory have 8 elements more than are used: the eight
/// rows that ldmatrix reads then lie in different banks; so do those of the warps' sums.
template <int RowTiles, int ColumnTiles, transpose Weight>
struct token_block {
  static constexpr int row_tiles = RowTiles;
  static constexpr int column_tiles = ColumnTiles;
  static constexpr int rows = 16 * RowTiles;
  static constexpr int cols = 8 * ColumnTiles;
  static constexpr transpose weight = Weight;
  static constexpr int sums_stride = cols + 8;
  static constexpr int row_quads = cols / 4;
  static constexpr int quads = rows * row_quads;
  static constexpr int quads_per_thread = (quads + token_threads - 1) / token_threads;

  [[nodiscard]] __device__ static constexpr int stride(int depth) { return (depth + 15) / 16 * 16 + 8; }
  [[nodiscard]] __device__ static constexpr int weight_elements(int depth) {
    return Weight == transpose::yes ? cols * stride(depth) : (depth + 15) / 16 * 16 * (cols + 8);
  }
};

/// Starts to copy weight's part of columns [first_column, + Block::cols) of the result and depth
/// [first, first + count); zeros beyond its ends and up to a multiple of 16 of the depth.
template <class Block, element T>
__device__ void copy_weights(T* to, const matrix_view<const T>& weight, int first_column, int first,
                             int count) {
  const int padded = (count + 15) / 16 * 16;
  if constexpr (Block::weight == transpose::yes) {
    const int lane = static_cast<int>(threadIdx.x) % warp_size;
    for (int n = static_cast<int>(threadIdx.x) / warp_size; n < Block::cols; n += token_warps) {
      const bool row_inside = first_column + n < weight.rows;
      const T* const from = weight.data + (row_inside ? (first_column + n) * weight.stride + first : 0);
      for (int k = 8 * lane; k < padded; k += 8 * warp_size) {
        const bool inside = row_inside && k < count;
        copy_16_bytes_async(to + n * Block::stride(count) + k, inside ? from + k : weight.data, inside);
      }
    }
  } else {
    constexpr int packs = Block::cols / 8;
#pragma unroll 4
    for (int i = static_cast<int>(threadIdx.x); i < padded * packs; i += token_threads) {
      const int k = i / packs;
      const int n = i % packs * 8;
      const bool inside = k < count && first_column + n < weight.cols;
      copy_16_bytes_async(to + k * (Block::cols + 8) + n,
                          weight.data + (inside ? (first + k) * weight.stride + first_column + n : 0),
                          inside);
    }
  }
}
/// The same for rows [first_row, + Block::rows) of the left operand.
template <class Block, element T>
__device__ void copy_rows(T* to, const matrix_view<const T>& a, index_t first_row, int first, int count) {
  const int padded = (count + 15) / 16 * 16;
  const int lane = static_cast<int>(threadIdx.x) % warp_size;
  for (int row = static_cast<int>(threadIdx.x) / warp_size; row < Block::rows; row += token_warps) {
    const bool row_inside = first_row + row < a.rows;
    const T* const from = a.data + (row_inside ? (first_row + row) * a.stride + first : 0);
    for (int k = 8 * lane; k < padded; k += 8 * warp_size) {
      const bool inside = row_inside && k < count;
      copy_16_bytes_async(to + row * Block::stride(count) + k, inside ? from + k : a.data, inside);
    }
  }
}

/// This warp's part of a tile's sums, as fragments of 16 x 8.
template <class Block>
struct token_sums {
  float values[Block::row_tiles][Block::column_tiles][4] = {};

  /// Adds the products of this warp's steps of `count` of the depth.
  template <element T>
  __device__ void multiply(const T* rows, const T* weights, int count) {
    const int lane = static_cast<int>(threadIdx.x) % warp_size;
    const int stride = Block::stride(count);
    const int steps = (count + 15) / 16;
#pragma unroll 2
    for (int step = static_cast<int>(threadIdx.x) / warp_size; step < steps; step += token_warps) {
      std::uint32_t a[Block::row_tiles][4];
#pragma unroll
      for (int i = 0; i < Block::row_tiles; ++i)
        load_matrices(a[i], rows + (i * 16 + lane % 16) * stride + step * 16 + lane / 16 * 8);
#pragma unroll
      for (int j = 0; j < Block::column_tiles; j += 2) {
        std::uint32_t b[4];
        if constexpr (Block::weight == transpose::yes)
          load_matrices(b,
                        weights + (j * 8 + lane / 16 * 8 + lane % 8) * stride + step * 16 + lane / 8 % 2 * 8);
        else
          load_matrices_transposed(
              b, weights + (step * 16 + lane % 16) * (Block::cols + 8) + j * 8 + lane / 16 * 8);
#pragma unroll
        for (int i = 0; i < Block::row_tiles; ++i) {
#pragma unroll
          for (int half = 0; half < 2; ++half) {
            float(&c)[4] = values[i][j + half];
            multiply_add<T>(c[0], c[1], c[2], c[3], a[i], b[2 * half], b[2 * half + 1]);
          }
        }
      }
    }
  }

  /// Leaves the warps' sums in `shared`, over what all warps have done with.
  __device__ void share(float* shared) const {
    const int lane = static_cast<int>(threadIdx.x) % warp_size;
    float* const own =
        shared + static_cast<int>(threadIdx.x) / warp_size * (Block::rows * Block::sums_stride);
    __syncthreads();
#pragma unroll
    for (int i = 0; i < Block::row_tiles; ++i) {
#pragma unroll
      for (int j = 0; j < Block::column_tiles; ++j) {
#pragma unroll
        for (int half = 0; half < 2; ++half)
          *reinterpret_cast<float2*>(own + (i * 16 + half * 8 + lane / 4) * Block::sums_stride + j * 8 +
                                     lane % 4 * 2) =
              float2{values[i][j][2 * half], values[i][j][2 * half + 1]};
      }
    }
    __syncthreads();
  }
};

/// Sum over `count` of what lies `stride` floats apart, in order.
__device__ inline void add_quads(const float* first, int count, int stride, float (&sum)[4]) {
#pragma unroll 8
  for (int i = 0; i < count; ++i) {
    const float4 quad = *reinterpret_cast<const float4*>(first + i * stride);
    sum[0] += quad.x;
    sum[1] += quad.y;
    sum[2] += quad.z;
    sum[3] += quad.w;
  }
}

/// The quads (four features of a token) of a tile that a thread stores: `mine` of the block's share, which
/// begins at `first`.
template <class Block, class Result>
class token_stores {
 public:
  __device__ token_stores(const Result& result, index_t first_row, index_t rows, int first_column, int cols,
                          int first, int end)
      : result_(result),
        first_row_(first_row),
        rows_(rows),
        first_column_(first_column),
        cols_(cols),
        first_(first),
        end_(end) {}

  /// Reads what the results need beside sums.
  __device__ void prepare() {
#pragma unroll
    for (int i = 0; i < Block::quads_per_thread; ++i) {
      if (inside(i)) prepared_[i] = result_.prepare(row(i), column(i));
    }
  }
  /// sum_of(quad, sum) for each of this thread's quads, then the store.
  template <class SumOf>
  __device__ void store(const SumOf& sum_of) const {
#pragma unroll
    for (int i = 0; i < Block::quads_per_thread; ++i) {
      if (!inside(i)) continue;
      float sum[4] = {};
      sum_of(quad(i), sum);
      result_.store(prepared_[i], row(i), column(i), sum);
    }
  }

 private:
  [[nodiscard]] __device__ int quad(int i) const {
    return first_ + i * token_threads + static_cast<int>(threadIdx.x);
  }
  [[nodiscard]] __device__ index_t row(int i) const {
    return first_row_ + quad(i) / Block::row_quads;
  }
  [[nodiscard]] __device__ int column(int i) const {
    return first_column_ + quad(i) % Block::row_quads * 4;
  }
  [[nodiscard]] __device__ bool inside(int i) const {
    return quad(i) < end_ && row(i) < rows_ && column(i) < cols_;
  }

  const Result& result_;
  index_t first_row_;
  index_t rows_;
  int first_column_;
  int cols_;
  int first_;
  int end_;
  typename Result::prepared prepared_[Block::quads_per_thread];
};

/// Where a quad's sums of the warps begin.
template <class Block>
[[nodiscard]] __device__ int quad_offset(int quad) {
  return quad / Block::row_quads * Block::sums_stride + quad % Block::row_quads * 4;
}

}  // namespace t5zero::cuda::detail
