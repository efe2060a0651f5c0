// Adafactor's update of one tensor (Shazeer and Stern 2018); the arithmetic and its order are those of
// cpu/adafactor.hpp.
//
// master fp32, gradients (any element type), weights (16-bit copies, or null) contiguous [rows, cols];
// row_moments [rows], column_moments [cols], fp32. master and moments are updated in place, weights
// overwritten; nothing overlaps; nothing changes where params->applies is false. Any alignment.
//
// A matrix takes four launches, since each step needs a sum over all of the one before:
//   1. moments  sums of squares of rows (in parts of 128 columns) and columns (in parts of row blocks)
//   2. factors  the moments from them, 1 / sqrt of the column moments, sums of the row moments
//   3. squares  sum of squares of the step before clipping
//   4. update
// A block of 1, 3 and 4 takes 512 columns of a block of rows, four rows under way at a time. A vector takes
// one launch of one block. Deterministic: parts depend on the shape alone; on the execution's stream.
//
// Floors at 4.27 TB/s (H200), fp16: 16 bytes an element with the gradient read three times, 12 where the L2
// keeps it. t5-small's embedding [32128, 512] 263 MB, 62 us, target 80 us; a 512 x 2048 matrix 12.6 MB from
// the L2, target 12 us.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>

#include <t5zero/backend/cuda/check.hpp>
#include <t5zero/backend/cuda/execution.hpp>
#include <t5zero/backend/cuda/kernels/column_sums.cuh>
#include <t5zero/backend/cuda/kernels/row_access.cuh>
#include <t5zero/backend/cuda/operations.hpp>
#include <t5zero/backend/cuda/reduction_workspace.hpp>

namespace t5zero::cuda {

namespace detail {

inline constexpr int adafactor_threads = static_cast<int>(adafactor_grid::columns_per_chunk) / 4;
static_assert(adafactor_threads / warp_size == adafactor_grid::parts_per_chunk);

/// The arrays of one tensor and the scratch between its launches.
template <element G>
struct adafactor_matrix {
  const adafactor_params* params;
  const G* gradient;
  float* row_moments;
  float* column_moments;
  double* squares;        ///< [blocks]
  double* moment_sums;    ///< [row_sums]
  float* row_parts;       ///< [parts, rows]
  float* column_parts;    ///< [row_blocks, cols]
  float* column_factors;  ///< [cols]
  index_t rows;
  index_t cols;
  index_t rows_per_block;
  int row_blocks;
  int row_sums;
};

/// Calls f(first row, loaded, rows) for a block's rows, four at a time: loaded[i] is this thread's pack of
/// row first + i, i < rows.
template <bool Packs, element G, class F>
__device__ inline void for_each_adafactor_rows(const adafactor_matrix<G>& m, int column, const F& f) {
  const int available = static_cast<int>(m.cols) - column;
  const index_t begin = blockIdx.y * m.rows_per_block;
  const index_t end = begin + m.rows_per_block < m.rows ? begin + m.rows_per_block : m.rows;
  for (index_t row = begin; row < end; row += 4) {
    const int rows = end - row < 4 ? static_cast<int>(end - row) : 4;
    pack<G, 4> loaded[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      loaded[i] = {};
      if (i < rows) loaded[i] = load_features<4, Packs>(m.gradient + (row + i) * m.cols + column, available);
    }
    f(row, loaded, rows);
  }
}
[[nodiscard]] __device__ inline int adafactor_column() {
  return (static_cast<int>(blockIdx.x) * adafactor_threads + static_cast<int>(threadIdx.x)) * 4;
}

template <bool Packs, element G>
__global__ void __launch_bounds__(adafactor_threads) adafactor_moments_kernel(adafactor_matrix<G> m) {
  const adafactor_params p = *m.params;
  if (!p.applies) return;
  const int column = adafactor_column();
  const int available = static_cast<int>(m.cols) - column;
  const int lane = static_cast<int>(threadIdx.x) % warp_size;
  const index_t part = static_cast<index_t>(blockIdx.x) * adafactor_grid::parts_per_chunk +
                       static_cast<index_t>(threadIdx.x) / warp_size;
  float column_sums[4] = {};
  for_each_adafactor_rows<Packs>(m, column, [&](index_t row, const pack<G, 4>(&loaded)[4], int rows) {
    float row_sum = 0.0F;  // lane i < 4: of row + i
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      float sum = 0.0F;
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const float value = to_float(loaded[i].values[j]) * p.grad_multiplier;
        const float square = value * value + p.epsilon;
        if (i < rows) column_sums[j] += square;
        if (j < available) sum += square;
      }
      sum = warp_sum(sum);
      if (lane == i) row_sum = sum;
    }
    if (lane < rows) m.row_parts[part * m.rows + row + lane] = row_sum;
  });
  if (available > 0)
    store_features<4, Packs>(m.column_parts + blockIdx.y * m.cols + column, available, column_sums);
}

/// The first row_sums blocks: row moments and their sums. The others: a slice of the columns each.
template <int Threads, bool Packs, element G>
__global__ void __launch_bounds__(Threads) adafactor_factors_kernel(adafactor_matrix<G> m) {
  static_assert(Threads == adafactor_grid::rows_per_sum);
  const adafactor_params p = *m.params;
  if (!p.applies) return;
  if (static_cast<int>(blockIdx.x) < m.row_sums) {
    __shared__ double shared[Threads / warp_size];
    const index_t row = static_cast<index_t>(blockIdx.x) * Threads + static_cast<index_t>(threadIdx.x);
    const int parts = static_cast<int>(ceil_div(m.cols, 4 * warp_size));
    float moment = 0.0F;
    if (row < m.rows) {
      double total = 0.0;
#pragma unroll 8
      for (int i = 0; i < parts; ++i) total += static_cast<double>(m.row_parts[i * m.rows + row]);
      moment = p.beta2 * m.row_moments[row] +
               p.one_minus_beta2 * static_cast<float>(total / static_cast<double>(m.cols));
      m.row_moments[row] = moment;
    }
    const double sum = block_sum<Threads>(static_cast<double>(moment), shared);
    if (threadIdx.x == 0) m.moment_sums[blockIdx.x] = sum;
    return;
  }
  __shared__ float shared[Threads / 4];
  const int cols = static_cast<int>(m.cols);
  const int first = (static_cast<int>(blockIdx.x) - m.row_sums) * slice_columns;
  const auto load = [&](index_t block, int quad) {
    const int column = first + 4 * quad;
    return load_features<4, Packs>(m.column_parts + block * m.cols + column, cols - column);
  };
  const auto add = [](const pack<float, 4>& from, float(&sums)[4]) {
#pragma unroll
    for (int i = 0; i < 4; ++i) sums[i] += from.values[i];
  };
  const float sum = column_slice_sum<Threads>(m.row_blocks, load, add, shared);
  const int column = first + static_cast<int>(threadIdx.x);
  if (threadIdx.x >= slice_columns || column >= cols) return;
  const float moment =
      p.beta2 * m.column_moments[column] + p.one_minus_beta2 * (sum / static_cast<float>(m.rows));
  m.column_moments[column] = moment;
  m.column_factors[column] = 1.0F / sqrtf(moment);
}

/// Sum of `count` doubles, the same in all threads of the block.
template <int Threads>
[[nodiscard]] __device__ inline double sum_of_parts(const double* parts, int count, double* shared) {
  double total = 0.0;
#pragma unroll 8
  for (int i = static_cast<int>(threadIdx.x); i < count; i += Threads) total += parts[i];
  return block_sum<Threads>(total, shared);
}

/// The step before clipping is gradient * row factor * column factor.
template <element G>
[[nodiscard]] __device__ inline float adafactor_row_factor(const adafactor_matrix<G>& m, index_t row,
                                                           float mean_of_rows, float grad_multiplier) {
  return 1.0F / sqrtf(m.row_moments[row] / mean_of_rows) * grad_multiplier;
}

template <bool Packs, element G>
__global__ void __launch_bounds__(adafactor_threads) adafactor_squares_kernel(adafactor_matrix<G> m) {
  constexpr int threads = adafactor_threads;
  __shared__ double shared[threads / warp_size];
  const adafactor_params p = *m.params;
  if (!p.applies) return;
  const auto mean_of_rows = static_cast<float>(sum_of_parts<threads>(m.moment_sums, m.row_sums, shared) /
                                               static_cast<double>(m.rows));
  const int column = adafactor_column();
  const auto factors = load_features<4, Packs>(m.column_factors + column, static_cast<int>(m.cols) - column);
  double total = 0.0;
  for_each_adafactor_rows<Packs>(m, column, [&](index_t row, const pack<G, 4>(&loaded)[4], int rows) {
    float sum = 0.0F;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if (i >= rows) break;
      const float factor = adafactor_row_factor(m, row + i, mean_of_rows, p.grad_multiplier);
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const float step = to_float(loaded[i].values[j]) * factor * factors.values[j];
        sum += step * step;
      }
    }
    total += static_cast<double>(sum);
  });
  total = block_sum<threads>(total, shared);
  if (threadIdx.x == 0) m.squares[static_cast<index_t>(blockIdx.y) * gridDim.x + blockIdx.x] = total;
}

/// What the learning rate becomes for a step of this size.
[[nodiscard]] __device__ inline float clipped_rate(const adafactor_params& p, double sum_of_squares,
                                                   index_t count) {
  const auto root_mean_square = static_cast<float>(sqrt(sum_of_squares / static_cast<double>(count)));
  const float excess = root_mean_square / p.clip_threshold;
  return p.learning_rate / (1.0F < excess ? excess : 1.0F);
}

template <bool Packs, element G, element W>
__global__ void __launch_bounds__(adafactor_threads)
    adafactor_update_kernel(adafactor_matrix<G> m, bool decays, float* master, W* weights) {
  constexpr int threads = adafactor_threads;
  __shared__ double shared[threads / warp_size];
  const adafactor_params p = *m.params;
  if (!p.applies) return;
  const auto mean_of_rows = static_cast<float>(sum_of_parts<threads>(m.moment_sums, m.row_sums, shared) /
                                               static_cast<double>(m.rows));
  const int blocks = static_cast<int>(gridDim.x * gridDim.y);
  const float rate = clipped_rate(p, sum_of_parts<threads>(m.squares, blocks, shared), m.rows * m.cols);
  const float keep = decays ? 1.0F - p.learning_rate * p.weight_decay : 1.0F;
  const int column = adafactor_column();
  const int available = static_cast<int>(m.cols) - column;
  const auto factors = load_features<4, Packs>(m.column_factors + column, available);
  for_each_adafactor_rows<Packs>(m, column, [&](index_t row, const pack<G, 4>(&loaded)[4], int rows) {
    pack<float, 4> before[4];
#pragma unroll
    for (int i = 0; i < 4; ++i)
      if (i < rows) before[i] = load_features<4, Packs>(master + (row + i) * m.cols + column, available);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if (i >= rows) break;
      const float factor = adafactor_row_factor(m, row + i, mean_of_rows, p.grad_multiplier) * rate;
      float updated[4];
#pragma unroll
      for (int j = 0; j < 4; ++j)
        updated[j] = before[i].values[j] * keep - to_float(loaded[i].values[j]) * factor * factors.values[j];
      store_features<4, Packs>(master + (row + i) * m.cols + column, available, updated);
      if (weights != nullptr)
        store_features<4, Packs>(weights + (row + i) * m.cols + column, available, updated);
    }
  });
}

/// All of a vector's update, by one block: vectors have d_model elements.
template <int Threads, element G, element W>
__global__ void __launch_bounds__(Threads, 1)
    adafactor_vector_kernel(const adafactor_params* params, bool decays, index_t size, float* master,
                            float* moments, const G* gradient, W* weights) {
  __shared__ double shared[Threads / warp_size];
  const adafactor_params p = *params;
  if (!p.applies) return;
  double total = 0.0;
  for (index_t i = threadIdx.x; i < size; i += Threads) {
    const float g = to_float(gradient[i]);
    const float scaled = g * p.grad_multiplier;
    const float moment = p.beta2 * moments[i] + p.one_minus_beta2 * (scaled * scaled + p.epsilon);
    moments[i] = moment;
    const float step = g * p.grad_multiplier * (1.0F / sqrtf(moment));
    total += static_cast<double>(step * step);
  }
  const float factor = p.grad_multiplier * clipped_rate(p, block_sum<Threads>(total, shared), size);
  const float keep = decays ? 1.0F - p.learning_rate * p.weight_decay : 1.0F;
  for (index_t i = threadIdx.x; i < size; i += Threads) {  // each thread's own elements again
    const float updated = master[i] * keep - to_float(gradient[i]) * factor * (1.0F / sqrtf(moments[i]));
    master[i] = updated;
    if (weights != nullptr) weights[i] = from_float<W>(updated);
  }
}

template <element G, element W>
void adafactor_update_matrix(execution& e, const adafactor_params* params, bool decays, index_t rows,
                             index_t cols, float* master, float* row_moments, float* column_moments,
                             const G* gradient, W* weights) {
  const adafactor_grid grid(rows, cols);
  const adafactor_scratch scratch(rows, cols);
  std::byte* const memory = e.workspace(scratch.bytes);
  const adafactor_matrix<G> m{params,
                              gradient,
                              row_moments,
                              column_moments,
                              reinterpret_cast<double*>(memory + scratch.squares),
                              reinterpret_cast<double*>(memory + scratch.moment_sums),
                              reinterpret_cast<float*>(memory + scratch.row_parts),
                              reinterpret_cast<float*>(memory + scratch.column_parts),
                              reinterpret_cast<float*>(memory + scratch.column_factors),
                              rows,
                              cols,
                              grid.rows_per_block,
                              static_cast<int>(grid.row_blocks),
                              static_cast<int>(grid.row_sums)};
  const dim3 blocks(static_cast<unsigned>(grid.chunks), static_cast<unsigned>(grid.row_blocks));
  constexpr int factor_threads = static_cast<int>(adafactor_grid::rows_per_sum);
  const auto factor_blocks = static_cast<unsigned>(grid.row_sums + ceil_div(cols, slice_columns));
  const bool packs = takes_packs(matrix_view<const G>(gradient, rows, cols), 4) &&
                     takes_packs(matrix_view<const float>(master, rows, cols), 4) &&
                     (weights == nullptr || takes_packs(matrix_view<const W>(weights, rows, cols), 4));
  with_packs(packs, [&](auto whole) {
    adafactor_moments_kernel<whole()><<<blocks, adafactor_threads, 0, e.stream()>>>(m);
    check(cudaGetLastError());
    adafactor_factors_kernel<factor_threads, whole()><<<factor_blocks, factor_threads, 0, e.stream()>>>(m);
    check(cudaGetLastError());
    adafactor_squares_kernel<whole()><<<blocks, adafactor_threads, 0, e.stream()>>>(m);
    check(cudaGetLastError());
    adafactor_update_kernel<whole()>
        <<<blocks, adafactor_threads, 0, e.stream()>>>(m, decays, master, weights);
    check(cudaGetLastError());
  });
}

}  // namespace detail

template <element T>
void adafactor(execution& e, const adafactor_params* params, bool decays, bool is_vector, index_t rows,
               index_t cols, float* master, float* row_moments, float* column_moments,
               const std::byte* gradients, dtype type, T* weights) {
  if (rows == 0 || cols == 0) return;
  visit(type, [&](auto zero) {
    const auto* const gradient = reinterpret_cast<const decltype(zero)*>(gradients);
    if (is_vector) {
      constexpr int threads = 1024;
      detail::adafactor_vector_kernel<threads><<<1, threads, 0, e.stream()>>>(
          params, decays, rows * cols, master, column_moments, gradient, weights);
      check(cudaGetLastError());
    } else {
      detail::adafactor_update_matrix(e, params, decays, rows, cols, master, row_moments, column_moments,
                                      gradient, weights);
    }
  });
}

template <element T>
void operations<T>::adafactor(execution& e, const adafactor_params* params, bool decays, bool is_vector,
                              index_t rows, index_t cols, float* master, float* row_moments,
                              float* column_moments, const std::byte* gradients, dtype type, T* weights) {
  cuda::adafactor<T>(e, params, decays, is_vector, rows, cols, master, row_moments, column_moments, gradients,
                     type, weights);
}

}  // namespace t5zero::cuda
