// RMS norm (Zhang and Sennrich 2019) as T5 uses it: y = x * r * weight, r = 1 / sqrt(mean(x^2) + epsilon).
//
// Forward: x fp32 [rows, d], weight T [d], y T [rows, d] and inverse_rms fp32 [rows] (or none) are
// overwritten; d <= 4096, any row stride, nothing overlaps. A block takes a row, in registers between its sum
// and its scaling.
//
// Backward: grad_x += grad_y * weight * r - x * (sum(grad_y * weight * x) * r^3 / d), fp32 [rows, d];
// grad_weight [1, d], of its own type and mode, gets sum over rows of grad_y * x * r.
// rms_norm_dropout_backward also writes grad_branch [rows, d], T: dropout's mask applied to the new grad_x.
// Nothing overlaps. The two results reduce along different axes. Up to 2048 rows one launch does both: some
// blocks take a row each, others a slice of eight columns through all rows, which they find in the L2. A
// second pass over 2 x 4 MB of L2 costs less than the 2 us of a second launch that a reduction of partial
// sums would need; an atomic counter in place of the launch would need memory that no other operation writes.
// Beyond, the second pass would come from memory: then each block takes several rows and leaves partial sums
// of its columns, which a second kernel adds.
//
// Deterministic: fixed orders, no atomics. On the execution's stream.
//
// Floors at 4.27 TB/s (H200) and targets; small batches cost the launch and two trips to the L2:
//   forward  fp16 1024 x 512: 3.1 MB, 0.7 us, target 2.5 us;  4096 x 1024: 25 MB,  5.9 us, target  8 us
//   backward fp16 1024 x 512: 8.4 MB, 2.0 us, target 4.5 us;  4096 x 1024: 67 MB, 15.7 us, target 21 us
#pragma once

#include <cuda_runtime_api.h>

#include <type_traits>

#include <t5zero/backend/cuda/check.hpp>
#include <t5zero/backend/cuda/execution.hpp>
#include <t5zero/backend/cuda/kernels/column_sums.cuh>
#include <t5zero/backend/cuda/kernels/grid_overlap.cuh>
#include <t5zero/backend/cuda/kernels/row_access.cuh>
#include <t5zero/backend/cuda/operations.hpp>
#include <t5zero/backend/cuda/reduction_workspace.hpp>

namespace t5zero::cuda {

namespace detail {

/// Columns [4 * (pack * Threads + thread), + 4) are this thread's.
template <int Threads>
[[nodiscard]] __device__ inline int norm_column(int pack) {
  return (pack * Threads + static_cast<int>(threadIdx.x)) * 4;
}

template <int Threads, int PackCount, bool Packs, element T>
__global__ void __launch_bounds__(Threads)
    rms_norm_forward_kernel(matrix_view<const float> x, const T* weight, float epsilon, matrix_view<T> y,
                            float* inverse_rms) {
  __shared__ float shared[Threads / warp_size];
  wait_for_previous_grid();
  const index_t row = blockIdx.x;
  const int cols = static_cast<int>(x.cols);
  pack<float, 4> loaded[PackCount];
  pack<T, 4> loaded_scale[PackCount];
#pragma unroll
  for (int p = 0; p < PackCount; ++p) {
    const int column = norm_column<Threads>(p);
    loaded[p] = load_features<4, Packs>(x.data + row * x.stride + column, cols - column);
    loaded_scale[p] = load_features<4, Packs>(weight + column, cols - column);
  }
  float squares = 0.0F;
#pragma unroll
  for (int p = 0; p < PackCount; ++p) {
#pragma unroll
    for (int i = 0; i < 4; ++i) squares += loaded[p].values[i] * loaded[p].values[i];
  }
  squares = block_sum<Threads>(squares, shared);
  const float r = 1.0F / sqrtf(squares / static_cast<float>(cols) + epsilon);
  if (threadIdx.x == 0 && inverse_rms != nullptr) inverse_rms[row] = r;
#pragma unroll
  for (int p = 0; p < PackCount; ++p) {
    const int column = norm_column<Threads>(p);
    float scale[4];
    unpack(loaded_scale[p], scale);
    float result[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) result[i] = loaded[p].values[i] * r * scale[i];
    store_features<4, Packs>(y.data + row * y.stride + column, cols - column, result);
  }
}

/// Where the weight's gradient goes: its view's fields, for an element type known when the kernel runs.
__device__ inline void store_gradient(const gradient_view& to, index_t i, float value) {
  const auto store = [&](auto* data) {
    using stored = std::remove_pointer_t<decltype(data)>;
    if (to.mode == gradient_mode::accumulate) value += to_float(data[i]);
    data[i] = from_float<stored>(value);
  };
  switch (to.type) {
    case dtype::f32:
      return store(static_cast<float*>(to.data));
    case dtype::f16:
      return store(static_cast<float16*>(to.data));
    case dtype::bf16:
      return store(static_cast<bfloat16*>(to.data));
  }
}

/// Where mask(gradient of x) goes, if anywhere.
template <element T>
struct dropped_gradient {
  matrix_view<T> to{};
  dropout_site site{};
  const std::uint32_t* rows = nullptr;
  const std::uint32_t* positions = nullptr;
};

/// Gradient of x in rows [begin, end); returns this thread's columns of the weight's gradient in `sums`.
template <int Threads, int PackCount, bool Packs, element T>
__device__ inline void norm_rows_backward(matrix_view<const float> grad_y, matrix_view<const float> x,
                                          const T* weight, const float* inverse_rms,
                                          matrix_view<float> grad_x, const dropped_gradient<T>& dropped,
                                          index_t begin, index_t end, float (&sums)[PackCount][4]) {
  __shared__ float shared[Threads / warp_size];
  const int cols = static_cast<int>(x.cols);
  const bool drops = dropped.to.data != nullptr;
  const dropout_mask mask(dropped.site);
  pack<T, 4> loaded_scale[PackCount];
#pragma unroll
  for (int p = 0; p < PackCount; ++p) {
    const int column = norm_column<Threads>(p);
    loaded_scale[p] = load_features<4, Packs>(weight + column, cols - column);
  }
  for (index_t row = begin; row < end; ++row) {
    pack<float, 4> gradient[PackCount];
    pack<float, 4> value[PackCount];
    pack<float, 4> before[PackCount];
#pragma unroll
    for (int p = 0; p < PackCount; ++p) {
      const int column = norm_column<Threads>(p);
      gradient[p] = load_features<4, Packs>(grad_y.data + row * grad_y.stride + column, cols - column);
      value[p] = load_features<4, Packs>(x.data + row * x.stride + column, cols - column);
      // Needed after the sum, but on its way before it.
      before[p] = load_features<4, Packs>(grad_x.data + row * grad_x.stride + column, cols - column);
    }
    const float r = inverse_rms[row];
    // Masks too, while loads are under way.
    float multiplier[PackCount][4];
    if (drops) {
#pragma unroll
      for (int p = 0; p < PackCount; ++p)
        feature_multipliers(mask, dropped.rows, dropped.positions, row, norm_column<Threads>(p),
                            multiplier[p]);
    }
    float dot = 0.0F;
#pragma unroll
    for (int p = 0; p < PackCount; ++p) {
      float scale[4];
      unpack(loaded_scale[p], scale);
#pragma unroll
      for (int i = 0; i < 4; ++i) dot += gradient[p].values[i] * scale[i] * value[p].values[i];
    }
    dot = block_sum<Threads>(dot, shared);
    const float common = dot * r * r * r / static_cast<float>(cols);
#pragma unroll
    for (int p = 0; p < PackCount; ++p) {
      const int column = norm_column<Threads>(p);
      float scale[4];
      unpack(loaded_scale[p], scale);
      float total[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float g = gradient[p].values[i];
        const float v = value[p].values[i];
        total[i] = before[p].values[i] + (g * scale[i] * r - v * common);
        sums[p][i] += g * v * r;
      }
      store_features<4, Packs>(grad_x.data + row * grad_x.stride + column, cols - column, total);
      if (!drops) continue;
#pragma unroll
      for (int i = 0; i < 4; ++i) total[i] *= multiplier[p][i];
      store_features<4, Packs>(dropped.to.data + row * dropped.to.stride + column, cols - column, total);
    }
  }
}

/// The block's slice of the weight's gradient: columns [first, first + slice_columns), all rows.
template <int Threads, bool Packs>
__device__ inline void norm_weight_slice(const matrix_view<const float>& grad_y,
                                         const matrix_view<const float>& x, const float* inverse_rms,
                                         int first, const gradient_view& grad_weight) {
  __shared__ float shared[Threads / 4];
  const int cols = static_cast<int>(x.cols);
  struct product {
    pack<float, 4> gradient;
    pack<float, 4> value;
    float inverse_rms;
  };
  const auto load = [&](index_t row, int quad) {
    const int column = first + 4 * quad;
    return product{load_features<4, Packs>(grad_y.data + row * grad_y.stride + column, cols - column),
                   load_features<4, Packs>(x.data + row * x.stride + column, cols - column),
                   inverse_rms[row]};
  };
  const auto add = [](const product& from, float(&sums)[4]) {
#pragma unroll
    for (int i = 0; i < 4; ++i) sums[i] += from.gradient.values[i] * from.value.values[i] * from.inverse_rms;
  };
  const float sum = column_slice_sum<Threads>(static_cast<int>(x.rows), load, add, shared);
  const int column = first + static_cast<int>(threadIdx.x);
  if (threadIdx.x < slice_columns && column < cols) store_gradient(grad_weight, column, sum);
}

/// Few rows: the first blocks take a slice of the columns each, the others a row each.
template <int Threads, int PackCount, bool Packs, element T>
__global__ void __launch_bounds__(Threads)
    rms_norm_backward_kernel(matrix_view<const float> grad_y, matrix_view<const float> x, const T* weight,
                             const float* inverse_rms, matrix_view<float> grad_x, gradient_view grad_weight,
                             unsigned slices, dropped_gradient<T> dropped) {
  wait_for_previous_grid();
  if (blockIdx.x >= slices) {
    const index_t row = blockIdx.x - slices;
    float sums[PackCount][4] = {};
    norm_rows_backward<Threads, PackCount, Packs>(grad_y, x, weight, inverse_rms, grad_x, dropped, row,
                                                  row + 1, sums);
    return;
  }
  norm_weight_slice<Threads, Packs>(grad_y, x, inverse_rms, static_cast<int>(blockIdx.x) * slice_columns,
                                    grad_weight);
}

/// Many rows: a block takes rows_per_block of them and leaves its sums of the columns in a row of `partial`.
template <int Threads, int PackCount, bool Packs, element T>
__global__ void __launch_bounds__(Threads)
    rms_norm_backward_rows_kernel(matrix_view<const float> grad_y, matrix_view<const float> x,
                                  const T* weight, const float* inverse_rms, matrix_view<float> grad_x,
                                  float* partial, index_t rows_per_block, dropped_gradient<T> dropped) {
  const index_t begin = blockIdx.x * rows_per_block;
  const index_t end = begin + rows_per_block < x.rows ? begin + rows_per_block : x.rows;
  float sums[PackCount][4] = {};
  norm_rows_backward<Threads, PackCount, Packs>(grad_y, x, weight, inverse_rms, grad_x, dropped, begin, end,
                                                sums);
  const int cols = static_cast<int>(x.cols);
#pragma unroll
  for (int p = 0; p < PackCount; ++p) {
    const int column = norm_column<Threads>(p);
    store_features<4, Packs>(partial + blockIdx.x * x.cols + column, cols - column, sums[p]);
  }
}

template <int Threads, bool Packs>
__global__ void __launch_bounds__(Threads)
    rms_norm_weight_kernel(const float* partial, int blocks, int cols, gradient_view grad_weight) {
  __shared__ float shared[Threads / 4];
  const int first = static_cast<int>(blockIdx.x) * slice_columns;
  const auto load = [&](index_t block, int quad) {
    const int column = first + 4 * quad;
    return load_features<4, Packs>(partial + block * cols + column, cols - column);
  };
  const auto add = [](const pack<float, 4>& from, float(&sums)[4]) {
#pragma unroll
    for (int i = 0; i < 4; ++i) sums[i] += from.values[i];
  };
  const float sum = column_slice_sum<Threads>(blocks, load, add, shared);
  const int column = first + static_cast<int>(threadIdx.x);
  if (threadIdx.x < slice_columns && column < cols) store_gradient(grad_weight, column, sum);
}

/// Calls f(threads, packs a thread, whole packs?) for rows of `cols` elements, all integral constants.
template <class F>
void with_norm_block(index_t cols, bool packs, const F& f) {
  require(cols <= 4096, "cuda::rms_norm: d_model is larger than 4096");
  with_packs(packs, [&](auto whole) {
    using std::integral_constant;
    if (cols <= 512)
      f(integral_constant<int, 128>{}, integral_constant<int, 1>{}, whole);
    else if (cols <= 1024)
      f(integral_constant<int, 256>{}, integral_constant<int, 1>{}, whole);
    else if (cols <= 2048)
      f(integral_constant<int, 256>{}, integral_constant<int, 2>{}, whole);
    else
      f(integral_constant<int, 512>{}, integral_constant<int, 2>{}, whole);
  });
}

}  // namespace detail

template <element T>
void rms_norm_forward(execution& e, matrix_view<const float> x, vector_view<const T> weight, float epsilon,
                      matrix_view<T> y, vector_view<float> inverse_rms) {
  require(y.rows == x.rows && y.cols == x.cols && weight.size == x.cols &&
              (inverse_rms.size == 0 || inverse_rms.size >= x.rows),
          "cuda::rms_norm_forward: the shapes do not agree");
  if (x.rows == 0 || x.cols == 0) return;
  const bool packs = detail::takes_packs(x, 4) && detail::takes_packs(weight, 4) && detail::takes_packs(y, 4);
  detail::with_norm_block(x.cols, packs, [&](auto threads, auto pack_count, auto whole) {
    detail::launch(e, detail::rms_norm_forward_kernel<threads(), pack_count(), whole(), T>,
                   {.blocks = dim3(static_cast<unsigned>(x.rows)),
                    .threads = threads(),
                    .overlap = overlap_of(e),
                    .is_row_wise = true},
                   x, weight.data, epsilon, y, inverse_rms.data);
  });
}

namespace detail {

template <element T>
void rms_norm_backward(execution& e, matrix_view<const float> grad_y, matrix_view<const float> x,
                       vector_view<const T> weight, vector_view<const float> inverse_rms,
                       matrix_view<float> grad_x, const gradient_view& grad_weight,
                       const dropped_gradient<T>& dropped) {
  require(grad_y.rows == x.rows && grad_y.cols == x.cols && grad_x.rows == x.rows && grad_x.cols == x.cols &&
              weight.size == x.cols && inverse_rms.size >= x.rows &&
              grad_weight.rows * grad_weight.cols == x.cols,
          "cuda::rms_norm_backward: the shapes do not agree");
  if (x.cols == 0) return;
  const bool packs = detail::takes_packs(grad_y, 4) && detail::takes_packs(x, 4) &&
                     detail::takes_packs(weight, 4) && detail::takes_packs(grad_x, 4) &&
                     detail::takes_packs(dropped.to, 4);
  const auto slices = static_cast<unsigned>(ceil_div(x.cols, detail::slice_columns));
  auto* const partial = reinterpret_cast<float*>(e.workspace(rms_norm_workspace_bytes(x.rows, x.cols)));
  detail::with_norm_block(x.cols, packs, [&](auto threads, auto pack_count, auto whole) {
    if (x.rows <= detail::norm_direct_rows) {
      detail::launch(e, detail::rms_norm_backward_kernel<threads(), pack_count(), whole(), T>,
                     {.blocks = dim3(slices + static_cast<unsigned>(x.rows)),
                      .threads = threads(),
                      .overlap = overlap_of(e),
                      .is_row_wise = true},
                     grad_y, x, weight.data, inverse_rms.data, grad_x, grad_weight, slices, dropped);
      return;
    }
    const index_t rows_per_block = ceil_div(x.rows, detail::norm_row_blocks);
    const index_t blocks = ceil_div(x.rows, rows_per_block);
    detail::rms_norm_backward_rows_kernel<threads(), pack_count(), whole()>
        <<<static_cast<unsigned>(blocks), threads(), 0, e.stream()>>>(
            grad_y, x, weight.data, inverse_rms.data, grad_x, partial, rows_per_block, dropped);
    check(cudaGetLastError());
    detail::rms_norm_weight_kernel<256, whole()><<<slices, 256, 0, e.stream()>>>(
        partial, static_cast<int>(blocks), static_cast<int>(x.cols), grad_weight);
    check(cudaGetLastError());
  });
}

}  // namespace detail

template <element T>
void rms_norm_backward(execution& e, matrix_view<const float> grad_y, matrix_view<const float> x,
                       vector_view<const T> weight, vector_view<const float> inverse_rms,
                       matrix_view<float> grad_x, const gradient_view& grad_weight) {
  detail::rms_norm_backward<T>(e, grad_y, x, weight, inverse_rms, grad_x, grad_weight, {});
}

template <element T>
void rms_norm_dropout_backward(execution& e, matrix_view<const float> grad_y, matrix_view<const float> x,
                               vector_view<const T> weight, vector_view<const float> inverse_rms,
                               matrix_view<float> grad_x, const gradient_view& grad_weight,
                               const dropout_site& site, const ragged_view& tokens,
                               matrix_view<T> grad_branch) {
  require(
      grad_branch.rows == x.rows && grad_branch.cols == x.cols && (!site.active() || tokens.tokens == x.rows),
      "cuda::rms_norm_dropout_backward: the shapes do not agree");
  detail::rms_norm_backward<T>(e, grad_y, x, weight, inverse_rms, grad_x, grad_weight,
                               {grad_branch, site, tokens.rows, tokens.positions});
}

template <element T>
void operations<T>::rms_norm_forward(execution& e, matrix_view<const float> x, vector_view<const T> weight,
                                     float epsilon, matrix_view<T> y, vector_view<float> inverse_rms) {
  cuda::rms_norm_forward<T>(e, x, weight, epsilon, y, inverse_rms);
}
template <element T>
void operations<T>::rms_norm_backward(execution& e, matrix_view<const float> grad_y,
                                      matrix_view<const float> x, vector_view<const T> weight,
                                      vector_view<const float> inverse_rms, matrix_view<float> grad_x,
                                      const gradient_view& grad_weight) {
  cuda::rms_norm_backward<T>(e, grad_y, x, weight, inverse_rms, grad_x, grad_weight);
}
template <element T>
void operations<T>::rms_norm_dropout_backward(execution& e, matrix_view<const float> grad_y,
                                              matrix_view<const float> x, vector_view<const T> weight,
                                              vector_view<const float> inverse_rms, matrix_view<float> grad_x,
                                              const gradient_view& grad_weight, const dropout_site& site,
                                              const ragged_view& tokens, matrix_view<T> grad_branch) {
  cuda::rms_norm_dropout_backward<T>(e, grad_y, x, weight, inverse_rms, grad_x, grad_weight, site, tokens,
                                     grad_branch);
}

}  // namespace t5zero::cuda
