// The gradients of a sublayer's weights in one launch: grad_weight (+)= grad_y^T x for up to four matrices,
// and (+)= sum over tokens of grad_normed * x * inverse_rms for up to four norms (token_matmul.hpp).
//
// With few tokens this is bound by the stores of grad_weight: blocks take 64 x 64 of it, small enough that
// all multiprocessors have several, and bring at most 64 tokens of both operands to shared memory at a time,
// where ldmatrix transposes them for the tensor cores. Sums leave through shared memory, 16 bytes an access.
// Further blocks take slices of eight features of a norm (rms_norm.cuh). Deterministic: tokens are added in
// order. No workspace.
//
// Measured on an H200 for 48 tokens of t5-small, feed-forward, 2 x 2048 x 512, fp16, in a chain of graph
// nodes: 5.0 us. Floor: 4.2 MB, 1.0 us.
#pragma once

#include <array>
#include <cstdint>

#include <t5zero/backend/cuda/execution.hpp>
#include <t5zero/backend/cuda/kernels/grid_overlap.cuh>
#include <t5zero/backend/cuda/kernels/rms_norm.cuh>
#include <t5zero/backend/cuda/kernels/row_access.cuh>
#include <t5zero/backend/cuda/kernels/tensor_core.cuh>
#include <t5zero/backend/cuda/token_matmul.hpp>
#include <t5zero/core/error.hpp>

namespace t5zero::cuda {

namespace detail {

inline constexpr int gradient_threads = 128;
inline constexpr int gradient_tile = 64;
inline constexpr int gradient_stride = gradient_tile + 8;  ///< of tiles in shared memory: no bank twice

/// Blocks below end_blocks[i], and not below the one before, work on product i, or, for i >= 4, on norm i
/// - 4.
template <token_element T>
struct weight_gradients_work {
  std::array<weight_gradient<T>, max_weight_gradients> products;
  std::array<norm_weight_gradient, max_weight_gradients> norms;
  int end_blocks[2 * max_weight_gradients];
};

/// Starts to copy tokens [first, first + gradient_tile), columns [column, + gradient_tile); zeros beyond.
template <token_element T>
__device__ void copy_gradient_tile(T* to, const matrix_view<const T>& from, index_t first, int column) {
  constexpr int packs = gradient_tile / 8;
#pragma unroll
  for (int i = static_cast<int>(threadIdx.x); i < gradient_tile * packs; i += gradient_threads) {
    const int row = i / packs;
    const int col = i % packs * 8;
    const bool inside = first + row < from.rows && column + col < from.cols;
    copy_16_bytes_async(to + row * gradient_stride + col,
                        from.data + (inside ? (first + row) * from.stride + column + col : 0), inside);
  }
}

/// Stores a tile of sums from shared memory.
template <element U>
__device__ void store_gradient_tile(const float* sums, U* to, index_t rows, index_t cols, index_t first_row,
                                    int first_column, bool accumulate) {
  constexpr int features = 16 / static_cast<int>(sizeof(U));
  constexpr int packs = gradient_tile / features;
  constexpr int count = gradient_tile * packs / gradient_threads;
  const auto place = [&](int i, int& row, int& col) {
    const int at = i * gradient_threads + static_cast<int>(threadIdx.x);
    row = at / packs;
    col = at % packs * features;
    return first_row + row < rows && first_column + col < cols;
  };
  pack<U, features> before[count];
#pragma unroll
  for (int i = 0; i < count; ++i) {
    int row;
    int col;
    if (place(i, row, col) && accumulate)
      before[i] =
          *reinterpret_cast<const pack<U, features>*>(to + (first_row + row) * cols + first_column + col);
    else
      before[i] = {};
  }
#pragma unroll
  for (int i = 0; i < count; ++i) {
    int row;
    int col;
    if (!place(i, row, col)) continue;
    float sum[features];
    load_pack(sums + row * gradient_stride + col, sum);
    if (accumulate) {
#pragma unroll
      for (int f = 0; f < features; ++f) sum[f] += to_float(before[i].values[f]);
    }
    store_pack(to + (first_row + row) * cols + first_column + col, sum);
  }
}

/// A tile of 64 x 64 of one matrix: four warps, 32 x 32 each.
template <token_element T>
__device__ void weight_gradient_tile(const weight_gradient<T>& product, int tile) {
  // The sums take the place of both operands.
  __shared__ __align__(16) float shared[gradient_tile * gradient_stride];
  static_assert(2 * sizeof(T) == sizeof(float));
  T* const left_operand = reinterpret_cast<T*>(shared);
  T* const right_operand = left_operand + gradient_tile * gradient_stride;
  const index_t rows = product.grad_weight.rows;
  const index_t cols = product.grad_weight.cols;
  const int tile_columns = static_cast<int>(ceil_div(cols, gradient_tile));
  const int first_row = tile / tile_columns * gradient_tile;
  const int first_column = tile % tile_columns * gradient_tile;
  const int lane = static_cast<int>(threadIdx.x) % warp_size;
  const int warp = static_cast<int>(threadIdx.x) / warp_size;
  const int warp_row = warp / 2 * 32;
  const int warp_column = warp % 2 * 32;
  float sums[2][4][4] = {};
  for (index_t first = 0; first < product.x.rows; first += gradient_tile) {
    if (first > 0) __syncthreads();
    copy_gradient_tile(left_operand, product.grad_y, first, first_row);
    copy_gradient_tile(right_operand, product.x, first, first_column);
    const index_t left = product.x.rows - first;
    const int steps = left >= gradient_tile ? gradient_tile / 16 : static_cast<int>(left + 15) / 16;
    wait_for_copies();
    __syncthreads();
    for (int step = 0; step < steps; ++step) {
      std::uint32_t a[2][4];
      std::uint32_t b[2][4];
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        load_matrices_transposed(a[i], left_operand +
                                           (step * 16 + lane / 16 * 8 + lane % 8) * gradient_stride +
                                           warp_row + i * 16 + lane / 8 % 2 * 8);
        load_matrices_transposed(b[i], right_operand + (step * 16 + lane % 16) * gradient_stride +
                                           warp_column + i * 16 + lane / 16 * 8);
      }
#pragma unroll
      for (int i = 0; i < 2; ++i) {
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          float(&c)[4] = sums[i][j];
          multiply_add<T>(c[0], c[1], c[2], c[3], a[i], b[j / 2][j % 2 * 2], b[j / 2][j % 2 * 2 + 1]);
        }
      }
    }
  }
  __syncthreads();  // operands have been used
#pragma unroll
  for (int i = 0; i < 2; ++i) {
#pragma unroll
    for (int j = 0; j < 4; ++j) {
#pragma unroll
      for (int half = 0; half < 2; ++half)
        *reinterpret_cast<float2*>(shared + (warp_row + i * 16 + half * 8 + lane / 4) * gradient_stride +
                                   warp_column + j * 8 + lane % 4 * 2) =
            float2{sums[i][j][2 * half], sums[i][j][2 * half + 1]};
    }
  }
  __syncthreads();
  const bool accumulate = product.grad_weight.mode == gradient_mode::accumulate;
  if (product.grad_weight.type == dtype::f32)
    store_gradient_tile(shared, static_cast<float*>(product.grad_weight.data), rows, cols, first_row,
                        first_column, accumulate);
  else
    store_gradient_tile(shared, static_cast<T*>(product.grad_weight.data), rows, cols, first_row,
                        first_column, accumulate);
}

template <token_element T>
__global__ void __launch_bounds__(gradient_threads)
    weight_gradients_kernel(const __grid_constant__ weight_gradients_work<T> work) {
  wait_for_previous_grid();
  const int block = static_cast<int>(blockIdx.x);
  constexpr int products = static_cast<int>(max_weight_gradients);
  int begin = 0;
#pragma unroll
  for (int i = 0; i < 2 * products; ++i) {
    if (block >= begin && block < work.end_blocks[i]) {
      if (i < products)
        weight_gradient_tile(work.products[i], block - begin);
      else
        norm_weight_slice<gradient_threads, true>(
            work.norms[i - products].grad_normed, work.norms[i - products].x,
            work.norms[i - products].inverse_rms.data, (block - begin) * slice_columns,
            work.norms[i - products].grad_weight);
    }
    begin = work.end_blocks[i];
  }
}

}  // namespace detail

template <token_element T>
void weight_gradients(execution& e, const weight_gradients_arguments<T>& in) {
  detail::weight_gradients_work<T> work{.products = in.products, .norms = in.norms, .end_blocks = {}};
  index_t blocks = 0;
  index_t place = 0;
  const auto end = [&](index_t more) {
    blocks += more;
    require(blocks <= 0x7fffffff, "cuda::weight_gradients: too many blocks");
    work.end_blocks[place++] = static_cast<int>(blocks);
  };
  for (const weight_gradient<T>& product : in.products) {
    const gradient_view& to = product.grad_weight;
    require(to.data == nullptr ||
                (product.grad_y.rows == product.x.rows && product.grad_y.cols == to.rows &&
                 product.x.cols == to.cols &&
                 (to.type == dtype::f32 || to.type == dtype_of<T>)&&detail::takes_packs(product.grad_y, 8) &&
                 detail::takes_packs(product.x, 8) && reinterpret_cast<std::uintptr_t>(to.data) % 16 == 0),
            "cuda::weight_gradients: the shapes of a product do not agree");
    end(to.data == nullptr
            ? 0
            : ceil_div(to.rows, detail::gradient_tile) * ceil_div(to.cols, detail::gradient_tile));
  }
  for (const norm_weight_gradient& norm : in.norms) {
    const gradient_view& to = norm.grad_weight;
    require(
        to.data == nullptr || (norm.grad_normed.rows == norm.x.rows && norm.grad_normed.cols == norm.x.cols &&
                               norm.inverse_rms.size >= norm.x.rows && to.rows * to.cols == norm.x.cols &&
                               detail::takes_packs(norm.grad_normed, 4) && detail::takes_packs(norm.x, 4)),
        "cuda::weight_gradients: the shapes of a norm do not agree");
    end(to.data == nullptr ? 0 : ceil_div(norm.x.cols, detail::slice_columns));
  }
  if (blocks == 0) return;
  detail::launch(e, detail::weight_gradients_kernel<T>,
                 {.blocks = dim3(static_cast<unsigned>(blocks)),
                  .threads = detail::gradient_threads,
                  .overlap = in.overlap},
                 work);
}

}  // namespace t5zero::cuda
