// Scratch memory that reductions borrow, as the memory plan counts it, and the geometry behind the numbers.
// What a reduction sums in parts it sums in a number of parts that depends on the shape alone: the same bits
// on every GPU.
#pragma once

#include <algorithm>

#include <t5zero/core/config.hpp>
#include <t5zero/core/integers.hpp>

namespace t5zero::cuda {

namespace detail {

/// Up to here columns are summed over the rows directly, beyond over partial sums of row blocks.
inline constexpr index_t norm_direct_rows = 2048;
inline constexpr index_t norm_row_blocks = 1024;

/// How Adafactor's passes over a matrix divide it: `chunks` parts of a row by `row_blocks` blocks of rows.
struct adafactor_grid {
  static constexpr index_t columns_per_chunk = 512;
  static constexpr index_t parts_per_chunk = 4;  ///< of a row's sum of squares: one for each warp
  static constexpr index_t rows_per_sum = 256;   ///< row moments whose sum is one partial

  index_t chunks = 0;
  index_t rows_per_block = 0;
  index_t row_blocks = 0;
  index_t row_sums = 0;

  T5ZERO_HOST_DEVICE constexpr adafactor_grid(index_t rows, index_t cols)
      : chunks(ceil_div(cols, columns_per_chunk)) {
    // About 1024 blocks where there is work for them, none of fewer than 8 rows.
    const index_t even = ceil_div(rows * chunks, 1024);
    rows_per_block = even < 8 ? 8 : even;
    row_blocks = ceil_div(rows, rows_per_block);
    row_sums = ceil_div(rows, rows_per_sum);
  }
  [[nodiscard]] T5ZERO_HOST_DEVICE constexpr index_t blocks() const { return chunks * row_blocks; }
};

/// Where the parts of Adafactor's scratch begin, in bytes; each at a multiple of 16.
struct adafactor_scratch {
  index_t squares = 0;         ///< double [blocks]: squares of the step before clipping
  index_t moment_sums = 0;     ///< double [row_sums]: sums of row moments
  index_t row_parts = 0;       ///< float [chunks * parts_per_chunk, rows]: sums of parts of a row's squares
  index_t column_parts = 0;    ///< float [row_blocks, cols]: sums of a column's squares in one row block
  index_t column_factors = 0;  ///< float [cols]: 1 / sqrt(column moment)
  index_t bytes = 0;

  T5ZERO_HOST_DEVICE constexpr adafactor_scratch(index_t rows, index_t cols) {
    const adafactor_grid grid(rows, cols);
    moment_sums = squares + round_up(grid.blocks() * 8, 16);
    row_parts = moment_sums + round_up(grid.row_sums * 8, 16);
    column_parts = row_parts + round_up(grid.chunks * adafactor_grid::parts_per_chunk * rows * 4, 16);
    column_factors = column_parts + round_up(grid.row_blocks * cols * 4, 16);
    bytes = column_factors + round_up(cols * 4, 16);
  }
};

/// What the library that sorts needs beside keys and ids: next to nothing, as it has both twice.
inline constexpr index_t sort_scratch_bytes = 4096;
/// Up to here candidates are picked one after another, beyond the rows are sorted.
inline constexpr index_t most_picked_candidates = 128;

}  // namespace detail

/// Bytes that rms_norm_backward borrows: partial sums of the weight's gradient, where there are many rows.
[[nodiscard]] constexpr index_t rms_norm_workspace_bytes(index_t rows, index_t cols) {
  return rows <= detail::norm_direct_rows ? 0 : detail::norm_row_blocks * cols * 4;
}

/// Bytes that adafactor borrows for a matrix [rows, cols]; a vector borrows none.
[[nodiscard]] constexpr index_t adafactor_workspace_bytes(index_t rows, index_t cols) {
  return detail::adafactor_scratch(rows, cols).bytes;
}

/// Bytes that top_candidates borrows where rows are sorted, so many at a time: keys and ids, each twice.
[[nodiscard]] constexpr index_t top_candidates_workspace_bytes(index_t rows, index_t cols) {
  return 4 * round_up(rows * cols * 4, 256) + detail::sort_scratch_bytes;
}

}  // namespace t5zero::cuda
