// c (+)= alpha * op(a) op(b) in fp32, for operands and results of any element type.
//
// The blocking is that of Goto and van de Geijn 2008 ("Anatomy of High-Performance Matrix Multiplication"),
// with the parts turned for T5's shapes: `a` is packed once for all threads, and each task packs its own
// columns of `b` and multiplies them with all of the block of `a`, because activations have few rows and the
// weights must be read (and packed) only once. Tasks split columns of c, never the depth, so the bits of a
// result do not depend on the number of threads. Packing buffers come from the execution's workspace.
#pragma once

#include <algorithm>
#include <array>
#include <utility>

#include <t5zero/backend/backend.hpp>
#include <t5zero/backend/cpu/execution.hpp>
#include <t5zero/backend/cpu/few_rows_matmul.hpp>
#include <t5zero/backend/cpu/packing.hpp>
#include <t5zero/backend/cpu/vector.hpp>
#include <t5zero/tensor/tensor_view.hpp>

namespace t5zero::cpu {

namespace detail {

inline constexpr index_t block_depth = 384;            ///< of packed b: a sliver stays in L1 and L2
inline constexpr index_t block_cols = 2 * tile_cols;   ///< of c in one task
inline constexpr index_t block_rows = 80 * tile_rows;  ///< of c, at most, for which a is packed at a time
/// Room for the packed block of a: one sliver of the whole depth at least, because a 16-bit result is rounded
/// once.
[[nodiscard]] constexpr index_t packed_a_floats(index_t depth) {
  return std::max(block_rows * block_depth, tile_rows * depth);
}
inline constexpr index_t packed_b_floats = block_cols * block_depth;

/// acc = a sliver [depth, Rows] x b sliver [depth, tile_cols]; then tile (+)= alpha * acc.
template <index_t Rows>
void micro_kernel(index_t depth, const float* a, const float* b, float alpha, float* tile, index_t stride,
                  bool accumulate) {
  float_vector acc[Rows][2] = {};
  for (index_t k = 0; k < depth; ++k) {
    const float_vector b0 = load(b + k * tile_cols);
    const float_vector b1 = load(b + k * tile_cols + vector_width);
#pragma GCC unroll 12
    for (index_t i = 0; i < Rows; ++i) {
      const float value = a[k * tile_rows + i];
      acc[i][0] += value * b0;
      acc[i][1] += value * b1;
    }
  }
#pragma GCC unroll 12
  for (index_t i = 0; i < Rows; ++i) {
    float* to = tile + i * stride;
    float_vector first = alpha * acc[i][0];
    float_vector second = alpha * acc[i][1];
    if (accumulate) {
      first += load(to);
      second += load(to + vector_width);
    }
    store(to, first);
    store(to + vector_width, second);
  }
}

using micro_kernel_pointer = void (*)(index_t, const float*, const float*, float, float*, index_t, bool);

template <index_t... Rows>
constexpr auto micro_kernels(std::integer_sequence<index_t, Rows...>) {
  return std::array<micro_kernel_pointer, sizeof...(Rows)>{&micro_kernel<Rows + 1>...};
}
/// [rows - 1]: the kernel for a tile of that many rows.
inline constexpr auto kernel_of_rows = micro_kernels(std::make_integer_sequence<index_t, tile_rows>{});

/// What a task needs to know of the whole product.
template <element A, element B, element C>
struct matmul_problem {
  transpose transpose_a;
  matrix_view<const A> a;
  transpose transpose_b;
  matrix_view<const B> b;
  matrix_view<C> c;
  float alpha;
  index_t depth;  ///< of the whole product
};

/// Packs rows [first, first + tile_rows) of op(a), depth [k, k + depth), to one sliver.
template <element A, element B, element C>
void pack_a_sliver(const matmul_problem<A, B, C>& p, index_t first, index_t k, index_t depth, float* out) {
  const index_t rows = std::min(tile_rows, p.c.rows - first);
  if (p.transpose_a == transpose::no) {
    pack_transposed(p.a.data + first * p.a.stride + k, p.a.stride, rows, depth, tile_rows, out);
  } else {
    pack_straight(p.a.data + k * p.a.stride + first, p.a.stride, rows, depth, tile_rows, out);
  }
}

template <element A, element B, element C>
void pack_b_sliver(const matmul_problem<A, B, C>& p, index_t first, index_t k, index_t depth, float* out) {
  const index_t cols = std::min(tile_cols, p.c.cols - first);
  if (p.transpose_b == transpose::yes) {
    pack_transposed(p.b.data + first * p.b.stride + k, p.b.stride, cols, depth, tile_cols, out);
  } else {
    pack_straight(p.b.data + k * p.b.stride + first, p.b.stride, cols, depth, tile_cols, out);
  }
}

/// c[row.., col..] (+)= tile, converted.
template <element C>
void write_tile(const float* tile, index_t rows, index_t cols, matrix_view<C> c, index_t row, index_t col,
                bool accumulate) {
  for (index_t i = 0; i < rows; ++i) {
    const float* from = tile + i * block_cols;
    C* to = &c(row + i, col);
    index_t j = 0;
    for (; j + vector_width <= cols; j += vector_width) {
      store(to + j, accumulate ? load(from + j) + load(to + j) : load(from + j));
    }
    for (; j < cols; ++j) {
      to[j] = static_cast<C>(accumulate ? from[j] + static_cast<float>(to[j]) : from[j]);
    }
  }
}

/// Columns [col, col + block_cols) of c, rows [row, row + rows): `a` is packed for depth [k0, k0 + depth).
template <element A, element B, element C>
void multiply_block(const matmul_problem<A, B, C>& p, const float* packed_a, index_t row, index_t rows,
                    index_t k0, index_t depth, index_t col, bool accumulate, float* packed_b, float* tile) {
  const index_t cols = std::min(block_cols, p.c.cols - col);
  // Tiles go straight to c where it is float and whole; else through `tile`, which also carries 16-bit
  // results over the blocks of the depth, so that they are rounded once.
  const bool direct = std::is_same_v<C, float> && cols == block_cols;
  for (index_t k = 0; k < depth; k += block_depth) {
    const index_t kc = std::min(block_depth, depth - k);
    for (index_t j = 0; j < cols; j += tile_cols) {
      pack_b_sliver(p, col + j, k0 + k, kc, packed_b + j * kc);
    }
    for (index_t i = 0; i < rows; i += tile_rows) {
      const index_t tile_height = std::min(tile_rows, rows - i);
      const float* a_sliver = packed_a + i * depth + k * tile_rows;
      for (index_t j = 0; j < cols; j += tile_cols) {
        float* to = tile + i * block_cols + j;
        index_t stride = block_cols;
        if constexpr (std::is_same_v<C, float>) {
          if (direct) {
            to = &p.c(row + i, col + j);
            stride = p.c.stride;
          }
        }
        kernel_of_rows[static_cast<std::size_t>(tile_height - 1)](
            kc, a_sliver, packed_b + j * kc, p.alpha, to, stride, k > 0 || (direct && accumulate));
      }
    }
  }
  if (!direct) write_tile(tile, rows, cols, p.c, row, col, accumulate);
}

inline constexpr index_t tile_buffer_floats = block_rows * block_cols;

}  // namespace detail

/// Bytes that a matmul whose 16-bit results have at most this depth borrows: one packed block of a, and for
/// each thread one of b and a tile buffer.
[[nodiscard]] constexpr index_t matmul_workspace_bytes(int threads, index_t depth = 0) {
  return (detail::packed_a_floats(depth) + threads * (detail::packed_b_floats + detail::tile_buffer_floats)) *
         4;
}

/// c [M, N] (+)= alpha * op(a) [M, K] op(b) [K, N]. Operands may have row strides; c may not overlap them.
template <element A, element B, element C>
void matmul(execution& execution, transpose transpose_a, matrix_view<const A> a, transpose transpose_b,
            matrix_view<const B> b, matrix_view<C> c, gradient_mode mode = gradient_mode::overwrite,
            float alpha = 1.0F) {
  const index_t depth = transpose_a == transpose::no ? a.cols : a.rows;
  require((transpose_a == transpose::no ? a.rows : a.cols) == c.rows, "matmul: rows of op(a) and c differ");
  require((transpose_b == transpose::no ? b.cols : b.rows) == c.cols,
          "matmul: columns of op(b) and c differ");
  require((transpose_b == transpose::no ? b.rows : b.cols) == depth,
          "matmul: depths of op(a) and op(b) differ");
  if (c.rows == 0 || c.cols == 0) return;
  if (depth == 0) {
    for (index_t i = 0; mode == gradient_mode::overwrite && i < c.rows; ++i)
      std::fill_n(c.row(i).data, c.cols, C{});
    return;
  }

  if (c.rows <= few_rows && transpose_a == transpose::no && transpose_b == transpose::yes) {
    few_rows_matmul(execution, a, b, c, mode, alpha);
    return;
  }

  const detail::matmul_problem<A, B, C> problem{transpose_a, a, transpose_b, b, c, alpha, depth};
  thread_pool& threads = execution.threads();
  // A 16-bit c is rounded once, so a is packed to its full depth, in as many rows as then fit the buffer.
  const index_t depth_step = std::is_same_v<C, float> ? detail::block_depth : depth;
  const index_t packed_a_floats = detail::packed_a_floats(depth_step);
  auto* packed_a =
      reinterpret_cast<float*>(execution.workspace(matmul_workspace_bytes(threads.size(), depth_step)));
  float* per_thread = packed_a + packed_a_floats;
  constexpr index_t floats_per_thread = detail::packed_b_floats + detail::tile_buffer_floats;
  const bool accumulates = mode == gradient_mode::accumulate;

  const index_t fitting = packed_a_floats / depth_step / tile_rows * tile_rows;
  const index_t row_step = std::min(detail::block_rows, fitting);
  for (index_t row = 0; row < c.rows; row += row_step) {
    const index_t rows = std::min(row_step, c.rows - row);
    for (index_t k = 0; k < depth; k += depth_step) {
      const index_t kc = std::min(depth_step, depth - k);
      threads.run(ceil_div(rows, tile_rows), [&](index_t sliver) {
        detail::pack_a_sliver(problem, row + sliver * tile_rows, k, kc, packed_a + sliver * tile_rows * kc);
      });
      threads.run(ceil_div(c.cols, detail::block_cols), [&](index_t block) {
        float* packed_b = per_thread + thread_pool::current_thread() * floats_per_thread;
        detail::multiply_block(problem, packed_a, row, rows, k, kc, block * detail::block_cols,
                               accumulates || k > 0, packed_b, packed_b + detail::packed_b_floats);
      });
    }
  }
}

/// The same into a gradient, whose element type is known at run time.
template <element A, element B>
void matmul(execution& execution, transpose transpose_a, matrix_view<const A> a, transpose transpose_b,
            matrix_view<const B> b, const gradient_view& c) {
  visit(c.type, [&](auto zero) {
    using stored = decltype(zero);
    if constexpr (std::is_same_v<stored, float> || std::is_same_v<stored, A>) {
      matmul<A, B, stored>(execution, transpose_a, a, transpose_b, b, c.template as<stored>(), c.mode);
    } else {
      require(false, "matmul: a gradient is fp32 or of the operands' type");
    }
  });
}

}  // namespace t5zero::cpu
