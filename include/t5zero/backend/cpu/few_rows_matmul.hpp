// c (+)= alpha * a b^T for a few rows of a: a decoder's step, a small batch. Reading the weights b is then
// most of the cost, so they are read once, where they lie, and nothing is packed. Each element of c is one
// dot product whose order of additions depends on the depth alone: not on the number of rows, columns or
// threads.
#pragma once

#include <algorithm>
#include <cstdint>

#include <t5zero/backend/cpu/execution.hpp>
#include <t5zero/backend/cpu/vector.hpp>
#include <t5zero/backend/cpu/vector_math.hpp>
#include <t5zero/tensor/tensor_view.hpp>

namespace t5zero::cpu {

/// Up to this many rows of a, dot products beat packing. Measured: bench/NOTES.md.
inline constexpr index_t few_rows = 32;

namespace detail {

/// Dot products at a time: rows of a times rows of b, as many as the registers hold.
inline constexpr index_t dot_rows = 4;
inline constexpr index_t dot_cols = vector_width == 16 ? 4 : 2;
inline constexpr index_t dot_cols_per_task = 48;

/// GCC would load a vector again for each multiplication that uses it (as an operand in memory), and loads
/// are what a dot product is short of.
inline void keep_in_register([[maybe_unused]] float_vector& value) {
#if defined(__AVX512F__) && defined(__GNUC__)
  asm("" : "+v"(value));
#endif
}

/// sums[j] = sum of the lanes of values[j], in the same order of additions for every j and Count.
template <index_t Count>
inline void sums_of_lanes(const float_vector (&values)[Count], float (&sums)[Count]) {
#if defined(__AVX512F__)
  static_assert(Count <= 4);
  // Quarters of two vectors side by side, added; twice; then the four floats of each quarter.
  const auto vector = [&](index_t j) {
    return j < Count ? reinterpret_cast<__m512>(values[j]) : _mm512_setzero_ps();
  };
  const auto halves = [](__m512 x, __m512 y) {
    return _mm512_add_ps(_mm512_shuffle_f32x4(x, y, 0x88), _mm512_shuffle_f32x4(x, y, 0xdd));
  };
  __m512 quarters = halves(halves(vector(0), vector(1)), halves(vector(2), vector(3)));
  quarters = _mm512_add_ps(quarters, _mm512_permute_ps(quarters, 0x4e));
  quarters = _mm512_add_ps(quarters, _mm512_permute_ps(quarters, 0xb1));
  alignas(64) float all[16];
  _mm512_store_ps(all, quarters);
  for (index_t j = 0; j < Count; ++j) sums[j] = all[4 * j];
#else
  for (index_t j = 0; j < Count; ++j) sums[j] = horizontal_sum(values[j]);
#endif
}

/// Whether a pass over some rows of b also asks memory for the rows after them.
enum class prefetch : std::uint8_t { no, next_rows };

/// Asks memory for element `index`, which may lie behind the end of the array: the address is a number then,
/// for a pointer may not go there. To the second-level cache: the first is full of a's rows.
template <element B>
inline void prefetch_element(const B* array, index_t index) {
  const auto address =
      reinterpret_cast<std::uintptr_t>(array) + static_cast<std::uintptr_t>(index) * sizeof(B);
  // NOLINTNEXTLINE(performance-no-int-to-ptr): nothing is read through it
  __builtin_prefetch(reinterpret_cast<const void*>(address), /*rw=*/0, /*locality=*/2);
}

/// sums[i][j] = a row i . b row j.
template <index_t Rows, index_t Cols, prefetch Fetch = prefetch::no, element A, element B>
inline void dot_products(const A* a, index_t a_stride, const B* b, index_t b_stride, index_t depth,
                         float (&sums)[Rows][Cols]) {
  float_vector lanes[Rows][Cols] = {};
  index_t k = 0;
  for (; k + vector_width <= depth; k += vector_width) {
    float_vector right[Cols];
#pragma GCC unroll 4
    for (index_t j = 0; j < Cols; ++j) {
      right[j] = load(b + j * b_stride + k);
      if constexpr (Fetch == prefetch::next_rows) prefetch_element(b, (Cols + j) * b_stride + k);
    }
#pragma GCC unroll 8
    for (index_t i = 0; i < Rows; ++i) {
      float_vector left = load(a + i * a_stride + k);
      keep_in_register(left);
#pragma GCC unroll 4
      for (index_t j = 0; j < Cols; ++j) lanes[i][j] = multiply_add(left, right[j], lanes[i][j]);
    }
  }
  if (k < depth) {
    for (index_t i = 0; i < Rows; ++i) {
      const float_vector left = load_first(a + i * a_stride + k, depth - k);
      for (index_t j = 0; j < Cols; ++j)
        lanes[i][j] = multiply_add(left, load_first(b + j * b_stride + k, depth - k), lanes[i][j]);
    }
  }
#pragma GCC unroll 8
  for (index_t i = 0; i < Rows; ++i) sums_of_lanes<Cols>(lanes[i], sums[i]);
}

template <index_t Rows, index_t Cols, prefetch Fetch, element A, element B, element C>
void dot_tile(matrix_view<const A> a, matrix_view<const B> b, matrix_view<C> c, index_t row, index_t col,
              bool accumulate, float alpha) {
  float sums[Rows][Cols];
  dot_products<Rows, Cols, Fetch>(&a(row, 0), a.stride, &b(col, 0), b.stride, a.cols, sums);
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
  // The first rows wait for memory; what follows multiplies from the cache, so it fetches what comes next.
  constexpr auto no = prefetch::no;
  constexpr auto next = prefetch::next_rows;
  index_t row = 0;
  if (c.rows > dot_rows) {
    dot_tile<dot_rows, Cols, no>(a, b, c, row, col, accumulate, alpha);
    for (row = dot_rows; row + dot_rows <= c.rows; row += dot_rows)
      dot_tile<dot_rows, Cols, next>(a, b, c, row, col, accumulate, alpha);
  }
  for (; row + 4 <= c.rows; row += 4) dot_tile<4, Cols, no>(a, b, c, row, col, accumulate, alpha);
  if (c.rows - row == 3) dot_tile<3, Cols, no>(a, b, c, row, col, accumulate, alpha);
  if (c.rows - row == 2) dot_tile<2, Cols, no>(a, b, c, row, col, accumulate, alpha);
  if (c.rows - row == 1) dot_tile<1, Cols, no>(a, b, c, row, col, accumulate, alpha);
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
