// c (+)= alpha * a b^T for a few rows of a: a decoder's step, a small batch. Reading the weights b is then
// all the cost, so they are read once, where they lie, and nothing is packed. Each element of c is one dot
// product whose order of additions depends on the depth alone: not on the number of rows, columns or threads.
#pragma once

#include <algorithm>

#include <t5zero/backend/cpu/execution.hpp>
#include <t5zero/backend/cpu/vector.hpp>
#include <t5zero/tensor/tensor_view.hpp>

namespace t5zero::cpu {

/// Up to this many rows of a, dot products beat packing. Measured: bench/NOTES.md.
inline constexpr index_t few_rows = 32;

namespace detail {

/// Dot products at a time: rows of a times rows of b, as many as the registers hold.
inline constexpr index_t dot_rows = 4;
inline constexpr index_t dot_cols = vector_width == 16 ? 4 : 2;
inline constexpr index_t dot_cols_per_task = 32;

inline float sum_of_lanes(float_vector lanes) {
#if defined(__AVX512F__)
  return _mm512_reduce_add_ps(reinterpret_cast<__m512>(lanes));
#else
  float sum = 0.0F;
  for (index_t i = 0; i < vector_width; ++i) sum += lanes[i];
  return sum;
#endif
}

/// sums[i][j] = a row i . b row j.
template <index_t Rows, index_t Cols, element A, element B>
void dot_products(const A* a, index_t a_stride, const B* b, index_t b_stride, index_t depth,
                  float (&sums)[Rows][Cols]) {
  float_vector lanes[Rows][Cols] = {};
  index_t k = 0;
  for (; k + vector_width <= depth; k += vector_width) {
    float_vector left[Rows];
#pragma GCC unroll 4
    for (index_t i = 0; i < Rows; ++i) left[i] = load(a + i * a_stride + k);
#pragma GCC unroll 4
    for (index_t j = 0; j < Cols; ++j) {
      const float_vector right = load(b + j * b_stride + k);
#pragma GCC unroll 4
      for (index_t i = 0; i < Rows; ++i) lanes[i][j] += left[i] * right;
    }
  }
  for (index_t i = 0; i < Rows; ++i) {
    for (index_t j = 0; j < Cols; ++j) {
      float sum = sum_of_lanes(lanes[i][j]);
      for (index_t rest = k; rest < depth; ++rest)
        sum += static_cast<float>(a[i * a_stride + rest]) * static_cast<float>(b[j * b_stride + rest]);
      sums[i][j] = sum;
    }
  }
}

template <index_t Rows, index_t Cols, element A, element B, element C>
void dot_tile(matrix_view<const A> a, matrix_view<const B> b, matrix_view<C> c, index_t row, index_t col,
              bool accumulate, float alpha) {
  float sums[Rows][Cols];
  dot_products<Rows, Cols>(&a(row, 0), a.stride, &b(col, 0), b.stride, a.cols, sums);
  for (index_t i = 0; i < Rows; ++i) {
    for (index_t j = 0; j < Cols; ++j) {
      C& to = c(row + i, col + j);
      const float value = alpha * sums[i][j];
      to = static_cast<C>(accumulate ? value + static_cast<float>(to) : value);
    }
  }
}

template <index_t Cols, element A, element B, element C>
void dot_column_block(matrix_view<const A> a, matrix_view<const B> b, matrix_view<C> c, index_t col,
                      bool accumulate, float alpha) {
  index_t row = 0;
  for (; row + dot_rows <= c.rows; row += dot_rows)
    dot_tile<dot_rows, Cols>(a, b, c, row, col, accumulate, alpha);
  if (c.rows - row == 3) dot_tile<3, Cols>(a, b, c, row, col, accumulate, alpha);
  if (c.rows - row == 2) dot_tile<2, Cols>(a, b, c, row, col, accumulate, alpha);
  if (c.rows - row == 1) dot_tile<1, Cols>(a, b, c, row, col, accumulate, alpha);
}

}  // namespace detail

/// a [M, K], b [N, K], c [M, N], all row-major, rows at any stride.
template <element A, element B, element C>
void few_rows_matmul(execution& execution, matrix_view<const A> a, matrix_view<const B> b, matrix_view<C> c,
                     gradient_mode mode, float alpha) {
  const bool accumulate = mode == gradient_mode::accumulate;
  execution.threads().run(ceil_div(c.cols, detail::dot_cols_per_task), [&](index_t task) {
    index_t col = task * detail::dot_cols_per_task;
    const index_t end = std::min(c.cols, col + detail::dot_cols_per_task);
    for (; col + detail::dot_cols <= end; col += detail::dot_cols)
      detail::dot_column_block<detail::dot_cols>(a, b, c, col, accumulate, alpha);
    for (; col < end; ++col) detail::dot_column_block<1>(a, b, c, col, accumulate, alpha);
  });
}

}  // namespace t5zero::cpu
