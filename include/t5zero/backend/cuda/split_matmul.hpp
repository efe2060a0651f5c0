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

/// Depth that is copied to shared memory at a time, and how many such slabs are there at once: as they are,
/// and split.
inline constexpr int split_slab = 32;
inline constexpr int split_slabs_in_flight = 4;
inline constexpr int split_parts_in_flight = 3;
/// Shared memory that a block has at most.
inline constexpr index_t split_shared_bytes = index_t{226} << 10;

/// The part of a result that a block computes: as many rows always.
inline constexpr index_t split_tile_rows = 128;
struct split_tile {
  int cols = 0;
  int slab_cycles = 0;  ///< that a slab takes a block, about
};

/// The tiles that are compiled, small ones first.
inline constexpr std::array<split_tile, 3> split_tiles{{{32, 500}, {64, 850}, {128, 1650}}};
/// Blocks, a cluster, that divide the depth of a tile.
inline constexpr int split_max_parts = 8;

/// How a product is cut.
struct split_division {
  int tile = -1;  ///< of split_tiles; -1: to be chosen
  int parts = 1;
};

/// Cycles that a division takes, about: blocks take turns on the multiprocessors.
[[nodiscard]] constexpr index_t split_cycles(index_t rows, index_t cols, index_t depth,
                                             split_division division, int multiprocessors) {
  constexpr index_t start_cycles = 2500;     // until the first slab is there and split
  constexpr index_t exchange_cycles = 1500;  // the cluster's barriers
  const split_tile& tile = split_tiles[static_cast<std::size_t>(division.tile)];
  const index_t slabs = ceil_div(std::max<index_t>(1, ceil_div(depth, split_slab)), division.parts);
  const index_t blocks = ceil_div(rows, split_tile_rows) * ceil_div(cols, tile.cols) * division.parts;
  return ceil_div(blocks, multiprocessors) * (start_cycles + slabs * tile.slab_cycles +
                                              (division.parts > 1 ? exchange_cycles + 8 * tile.cols : 0));
}

/// The division that is done first. What the depth is divided into decides the order of a sum: results of
/// other shapes or GPUs agree to rounding only.
[[nodiscard]] constexpr split_division choose_split_division(index_t rows, index_t cols, index_t depth,
                                                             int multiprocessors) {
  const index_t slabs = std::max<index_t>(1, ceil_div(depth, split_slab));
  split_division best{};
  index_t best_cycles = 0;
  for (int i = 0; i < static_cast<int>(split_tiles.size()); ++i) {
    for (int parts = 1; parts <= split_max_parts && parts <= slabs; ++parts) {
      const index_t cycles = split_cycles(rows, cols, depth, {i, parts}, multiprocessors);
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

/// Does the GPU in use have split_matmul's instructions, and is this program compiled for it?
[[nodiscard]] bool has_split_matmul();

/// Is split_matmul faster than cuBLASLt's fp32 for this product, on a GPU that has it? Tiles of fewer rows
/// are mostly padding.
[[nodiscard]] inline bool prefers_split_matmul(transpose transpose_a, matrix_view<const float> a,
                                               transpose transpose_b, matrix_view<const float> b,
                                               matrix_view<float> c) {
  constexpr index_t min_side = 64;
  return c.rows >= min_side && c.cols >= min_side && takes_split_matmul(transpose_a, a, transpose_b, b, c) &&
         has_split_matmul();
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
static_assert(choose_split_division(250, 512, 512, 132).parts >= 4 &&
              choose_split_division(250, 32128, 512, 132).parts == 1);

}  // namespace t5zero::cuda
