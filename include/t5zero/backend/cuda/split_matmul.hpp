// Matrix products of fp32 operands on the tensor cores of 16-bit types, as accurate as fp32 arithmetic: which
// shapes, how they are cut into blocks, and the launch. kernels/split_matmul.cuh has the method; the library
// t5zero::kernels holds the kernels. The rest is plain arithmetic that the host, tests and planners read.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>

#include <t5zero/backend/backend.hpp>
#include <t5zero/backend/cuda/execution.hpp>
#include <t5zero/core/integers.hpp>
#include <t5zero/tensor/tensor_view.hpp>

namespace t5zero::cuda {

/// Depth that is copied to shared memory at a time, and how many such slabs are there at once.
inline constexpr int split_slab = 32;
inline constexpr int split_slabs_in_flight = 3;

/// The part of a result that a block of 8 warps computes.
struct split_tile {
  int rows = 0;
  int cols = 0;
  int depth_warps = 1;  ///< warps that divide the depth of the same results
  int resident = 1;     ///< blocks that a multiprocessor runs at once
  int slab_cycles = 0;  ///< of a block with a multiprocessor of its own, about

  [[nodiscard]] constexpr index_t slabs_bytes() const {
    return index_t{4} * split_slabs_in_flight * split_slab * (rows + cols);
  }
  /// Floats between rows of the sums that warps leave in shared memory.
  [[nodiscard]] constexpr int sums_stride() const { return cols + 4; }
  [[nodiscard]] constexpr index_t shared_bytes(int parts) const {
    return std::max(slabs_bytes(), index_t{4} * depth_warps * rows * sums_stride()) +
           (parts > 1 ? index_t{4} * rows * cols : 0);
  }
};

/// The tiles that are compiled, small ones first.
inline constexpr std::array<split_tile, 3> split_tiles{
    {{64, 64, 2, 1, 700}, {128, 64, 2, 1, 1330}, {128, 128, 1, 1, 2600}}};
/// Blocks, a cluster, that divide the depth of a tile: 1, 2, 4 or 8.
inline constexpr int split_max_parts = 8;

/// How a product is cut.
struct split_division {
  int tile = -1;  ///< of split_tiles; none fits: -1
  int parts = 1;
};

/// The cut that is done first, by an estimate: the blocks of a multiprocessor share its tensor cores. What
/// the depth is divided into decides the order of a sum: results of other shapes or GPUs agree to rounding
/// only.
[[nodiscard]] constexpr split_division choose_split_division(index_t rows, index_t cols, index_t depth,
                                                             int multiprocessors, index_t shared_bytes,
                                                             int max_parts = split_max_parts) {
  constexpr index_t start_cycles = 1200;    // until the first slab is there
  constexpr index_t exchange_cycles = 600;  // the cluster's barriers
  constexpr index_t exchange_bytes = 32;    // that a block sends to others in a cycle
  constexpr index_t warp_sums_per_cycle = 16;
  const index_t slabs = std::max<index_t>(1, ceil_div(depth, split_slab));
  split_division best{};
  index_t best_cycles = 0;
  for (int i = 0; i < static_cast<int>(split_tiles.size()); ++i) {
    const split_tile& tile = split_tiles[static_cast<std::size_t>(i)];
    for (int parts = 1; parts <= max_parts && parts <= slabs; parts *= 2) {
      if (tile.shared_bytes(parts) > shared_bytes) continue;
      const index_t blocks = ceil_div(rows, tile.rows) * ceil_div(cols, tile.cols) * parts;
      const index_t results = index_t{tile.rows} * tile.cols;
      const index_t fixed = start_cycles + results * tile.depth_warps / warp_sums_per_cycle +
                            (parts > 1 ? exchange_cycles + 4 * results / exchange_bytes : 0);
      const index_t turns = ceil_div(blocks, multiprocessors);
      const index_t cycles =
          turns * ceil_div(slabs, parts) * tile.slab_cycles + ceil_div(turns, tile.resident) * fixed;
      if (best.tile >= 0 && cycles >= best_cycles) continue;
      best = {i, parts};
      best_cycles = cycles;
    }
  }
  return best;
}

/// Which products split_matmul takes, of contiguous matrices: rows of memory are whole 16-byte quads. The
/// depth of a^T b may be any number, so may the rows of a. a^T b^T is in no training step.
[[nodiscard]] constexpr bool takes_split_matmul(transpose transpose_a, transpose transpose_b, index_t rows,
                                                index_t cols, index_t depth) noexcept {
  const bool ta = transpose_a == transpose::yes;
  const bool tb = transpose_b == transpose::yes;
  return !(ta && tb) && cols % 4 == 0 && (ta ? rows : depth) % 4 == 0 && (!tb || depth % 4 == 0) &&
         std::max({rows, cols, depth}) <= index_t{1} << 30;
}
/// The same for views: their strides and alignments too.
[[nodiscard]] inline bool takes_split_matmul(transpose transpose_a, matrix_view<const float> a,
                                             transpose transpose_b, matrix_view<const float> b,
                                             matrix_view<float> c) noexcept {
  const auto quads = [](const auto& view) {
    return view.stride % 4 == 0 && reinterpret_cast<std::uintptr_t>(view.data) % 16 == 0;
  };
  return takes_split_matmul(transpose_a, transpose_b, c.rows, c.cols,
                            transpose_a == transpose::yes ? a.rows : a.cols) &&
         quads(a) && quads(b) && quads(c);
}

/// c (+)= alpha op(a) op(b), one launch, deterministic, no workspace. c may not overlap a or b. Throws
/// contract_error where shapes do not agree or takes_split_matmul says no. `division`: how the product is
/// cut; without a tile choose_split_division says it.
void split_matmul(execution& e, transpose transpose_a, matrix_view<const float> a, transpose transpose_b,
                  matrix_view<const float> b, matrix_view<float> c,
                  gradient_mode mode = gradient_mode::overwrite, float alpha = 1.0F,
                  split_division division = {});

// 250 tokens of t5-small on an H100: the projections of attention divide their depth to use its 132
// multiprocessors; the head need not.
static_assert(choose_split_division(250, 512, 512, 132, 232448).parts >= 4 &&
              choose_split_division(250, 32128, 512, 132, 232448).parts == 1);

}  // namespace t5zero::cuda
