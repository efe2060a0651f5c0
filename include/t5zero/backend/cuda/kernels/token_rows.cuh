// The left operand of token_matmul's products where it is computed on the way: rows that are normed, or
// gradients of the residual stream. Two warps make a row: thread t of them has features 4 * (t + 64 * i) and
// the next three, i < token_packs, all of them under way at once.
#pragma once

#include <cstdint>

#include <t5zero/backend/cuda/kernels/dropout_mask.cuh>
#include <t5zero/backend/cuda/kernels/element.cuh>
#include <t5zero/backend/cuda/kernels/row_access.cuh>
#include <t5zero/backend/cuda/token_matmul.hpp>

namespace t5zero::cuda::detail {

inline constexpr int token_row_threads = 2 * warp_size;
inline constexpr int token_packs = static_cast<int>(token_max_features) / (4 * token_row_threads);
/// Rows that a block makes at a time.
inline constexpr int token_row_teams = token_warps * warp_size / token_row_threads;

/// First feature of this thread's pack `p`.
[[nodiscard]] __device__ inline int token_column(int p) {
  return (p * token_row_threads + static_cast<int>(threadIdx.x) % token_row_threads) * 4;
}

/// Sum over the two warps of a row. All threads of the block call it; `shared` holds a float a warp and may
/// be written again after the next __syncthreads.
[[nodiscard]] __device__ inline float row_team_sum(float value, float* shared) {
  value = warp_sum(value);
  const int warp = static_cast<int>(threadIdx.x) / warp_size;
  __syncthreads();  // whoever still reads `shared` from before
  if (threadIdx.x % warp_size == 0) shared[warp] = value;
  __syncthreads();
  return shared[warp / 2 * 2] + shared[warp / 2 * 2 + 1];
}

/// This thread's part of a row; zeros beyond its end.
template <element T>
struct token_row {
  pack<T, 4> packs[token_packs];

  __device__ token_row(const T* row, int cols) {
#pragma unroll
    for (int p = 0; p < token_packs; ++p)
      packs[p] = load_features<4, true>(row + token_column(p), cols - token_column(p));
  }
};

/// rms_norm(x), and its store for backward.
template <element T>
struct norm_rows {
  matrix_view<const float> x;
  const T* weight = nullptr;
  float epsilon = 0.0F;
  matrix_view<T> normed;
  float* inverse_rms = nullptr;

  [[nodiscard]] __device__ int cols() const { return static_cast<int>(x.cols); }
  [[nodiscard]] __device__ index_t count() const { return x.rows; }
  /// What does not depend on the kernel before.
  [[nodiscard]] __device__ token_row<T> constants() const { return {weight, cols()}; }

  /// put(p, pack) for each pack of the row; `stores`: also for backward. All threads of the block call it;
  /// rows from count() on are zeros. `shared`: see row_team_sum.
  template <class Put>
  __device__ void make(const token_row<T>& constants, index_t row, bool stores, float* shared,
                       const Put& put) const {
    const int available = row < count() ? cols() : 0;
    const token_row<float> loaded(x.data + row * x.stride, available);
    float squares = 0.0F;
#pragma unroll
    for (int p = 0; p < token_packs; ++p) {
#pragma unroll
      for (int i = 0; i < 4; ++i) squares += loaded.packs[p].values[i] * loaded.packs[p].values[i];
    }
    const float r = 1.0F / sqrtf(row_team_sum(squares, shared) / static_cast<float>(cols()) + epsilon);
#pragma unroll
    for (int p = 0; p < token_packs; ++p) {
      pack<T, 4> result{};
      if (token_column(p) < available) {
#pragma unroll
        for (int i = 0; i < 4; ++i)
          result.values[i] =
              from_float<T>(loaded.packs[p].values[i] * r * to_float(constants.packs[p].values[i]));
      }
      put(p, result);
      if (stores && normed.data != nullptr && token_column(p) < available)
        *reinterpret_cast<pack<T, 4>*>(normed.data + row * normed.stride + token_column(p)) = result;
    }
    if (stores && inverse_rms != nullptr && available > 0 && threadIdx.x % token_row_threads == 0)
      inverse_rms[row] = r;
  }
};

/// dropout(gradient of the residual stream), after the gradient of the norm behind was added to it.
template <element T>
struct gradient_rows {
  matrix_view<const float> grad;
  matrix_view<const float> grad_normed;
  matrix_view<const float> x;
  const T* weight = nullptr;
  const float* inverse_rms = nullptr;
  matrix_view<float> gradient;
  dropout_site site;
  const std::uint32_t* rows = nullptr;
  const std::uint32_t* positions = nullptr;
  matrix_view<T> dropped;

  [[nodiscard]] __device__ int cols() const { return static_cast<int>(grad.cols); }
  [[nodiscard]] __device__ index_t count() const { return grad.rows; }
  [[nodiscard]] __device__ token_row<T> constants() const {
    return {weight, grad_normed.data != nullptr ? cols() : 0};
  }

  template <class Put>
  __device__ void make(const token_row<T>& constants, index_t row, bool stores, float* shared,
                       const Put& put) const {
    const int available = row < count() ? cols() : 0;
    token_row<float> total(grad.data + row * grad.stride, available);
    if (grad_normed.data != nullptr) add_norm(constants, row, available, shared, total);
    if (stores && gradient.data != nullptr) {
#pragma unroll
      for (int p = 0; p < token_packs; ++p) {
        if (token_column(p) < available)
          *reinterpret_cast<pack<float, 4>*>(gradient.data + row * gradient.stride + token_column(p)) =
              total.packs[p];
      }
    }
    const dropout_mask mask(site);
#pragma unroll
    for (int p = 0; p < token_packs; ++p) {
      const int column = token_column(p);
      pack<T, 4> result{};
      if (column < available) {
        float multiplier[4];
        feature_multipliers(mask, rows, positions, row, column, multiplier);
#pragma unroll
        for (int i = 0; i < 4; ++i)
          result.values[i] = from_float<T>(total.packs[p].values[i] * multiplier[i]);
      }
      put(p, result);
      if (stores && dropped.data != nullptr && column < available)
        *reinterpret_cast<pack<T, 4>*>(dropped.data + row * dropped.stride + column) = result;
    }
  }

 private:
  __device__ void add_norm(const token_row<T>& constants, index_t row, int available, float* shared,
                           token_row<float>& total) const {
    const token_row<float> normed(grad_normed.data + row * grad_normed.stride, available);
    const token_row<float> value(x.data + row * x.stride, available);
    const float r = available > 0 ? inverse_rms[row] : 0.0F;
    float dot = 0.0F;
#pragma unroll
    for (int p = 0; p < token_packs; ++p) {
#pragma unroll
      for (int i = 0; i < 4; ++i)
        dot += normed.packs[p].values[i] * to_float(constants.packs[p].values[i]) * value.packs[p].values[i];
    }
    const float common = row_team_sum(dot, shared) * r * r * r / static_cast<float>(cols());
#pragma unroll
    for (int p = 0; p < token_packs; ++p) {
#pragma unroll
      for (int i = 0; i < 4; ++i)
        total.packs[p].values[i] += normed.packs[p].values[i] * to_float(constants.packs[p].values[i]) * r -
                                    value.packs[p].values[i] * common;
    }
  }
};

}  // namespace t5zero::cuda::detail
