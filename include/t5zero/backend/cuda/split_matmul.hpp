// Matrix products of fp32 operands on the tensor cores of 16-bit types, as accurate as fp32 arithmetic: which
// shapes, how they are cut into blocks, and the launch. kernels/split_matmul.cuh has the method; the library
// t5zero::kernels holds the kernels. The rest is plain arithmetic that the host, tests and planners read.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <optional>

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

/// The part of a result that a block computes, as many rows always, and what that takes, in nanoseconds as
/// measured on an H200 (matmul_bench_cuda, launches that did not overlap).
inline constexpr index_t split_tile_rows = 128;
struct split_tile {
  int cols = 0;
  index_t start_ns = 0;     ///< until the first slab is there and split, and storing the result
  index_t slab_ns = 0;      ///< a slab
  index_t exchange_ns = 0;  ///< adding up what the blocks of a cluster have
};

/// The tiles that are compiled, small ones first.
inline constexpr std::array<split_tile, 3> split_tiles{
    {{32, 2200, 582, 1150}, {64, 2650, 800, 1700}, {128, 5200, 1205, 1900}}};

/// Blocks, a cluster, that divide the depth of a tile, and the percentage of multiprocessors that clusters of
/// so many blocks find: each lies in one of the GPU's parts, whose sizes differ.
inline constexpr int split_max_parts = 8;
inline constexpr std::array<index_t, split_max_parts> split_cluster_share{100, 100, 93, 85, 85, 75, 70, 80};

/// Pieces of the depth that are tried, and the least slabs of one.
inline constexpr std::array<int, 9> split_pieces{2, 3, 4, 6, 8, 12, 16, 24, 32};
inline constexpr int split_max_pieces = split_pieces.back();
inline constexpr index_t split_least_slabs_of_piece = 8;

/// How a product is cut. `parts`: blocks of a cluster, which exchange their sums in shared memory. `pieces`:
/// of the depth, whose sums go through the workspace; a second launch adds them up.
struct split_division {
  int tile = -1;  ///< of split_tiles; -1: to be chosen
  int parts = 1;
  int pieces = 1;
};

/// Workspace that a division borrows.
[[nodiscard]] constexpr index_t split_workspace_bytes(index_t rows, index_t cols, split_division division) {
  return division.pieces > 1 ? division.pieces * rows * cols * 4 : 0;
}

/// Time that a division takes, about: tiles take turns on the multiprocessors.
[[nodiscard]] constexpr index_t split_matmul_ns(index_t rows, index_t cols, index_t depth,
                                                split_division division, int multiprocessors) {
  constexpr index_t launch_ns = 400;
  // Of pieces: a launch more. Alone in a chain it takes 0.5 us; beside other work (a step on an H100) this is
  // what brings the shortest step.
  constexpr index_t sum_ns = 2500;
  constexpr index_t sum_bytes_per_ns = 2000;
  const split_tile& tile = split_tiles[static_cast<std::size_t>(division.tile)];
  const index_t share = split_cluster_share[static_cast<std::size_t>(division.parts - 1)];
  const index_t at_once = std::max<index_t>(1, multiprocessors * share / 100 / division.parts);
  const index_t tiles = ceil_div(rows, split_tile_rows) * ceil_div(cols, tile.cols);
  const index_t turns = ceil_div(tiles * division.pieces, at_once);
  const index_t slabs =
      ceil_div(std::max<index_t>(1, ceil_div(depth, split_slab)), index_t{division.parts} * division.pieces);
  const index_t slab_ns = rows > split_tile_rows / 2 ? tile.slab_ns : tile.slab_ns * 7 / 10;
  const index_t adding_ns =
      division.pieces > 1 ? sum_ns + split_workspace_bytes(rows, cols, division) / sum_bytes_per_ns : 0;
  return launch_ns + turns * (tile.start_ns + slabs * slab_ns + (division.parts > 1 ? tile.exchange_ns : 0)) +
         adding_ns;
}

/// The division that is done first, within a workspace. What the depth is divided into decides the order of a
/// sum: results of other shapes, workspaces or GPUs agree to rounding only.
[[nodiscard]] constexpr split_division choose_split_division(index_t rows, index_t cols, index_t depth,
                                                             int multiprocessors, index_t workspace_bytes) {
  const index_t slabs = std::max<index_t>(1, ceil_div(depth, split_slab));
  split_division best{};
  index_t best_ns = 0;
  const auto consider = [&](split_division division) {
    const index_t ns = split_matmul_ns(rows, cols, depth, division, multiprocessors);
    if (best.tile >= 0 && ns >= best_ns) return;
    best = division;
    best_ns = ns;
  };
  for (int i = 0; i < static_cast<int>(split_tiles.size()); ++i) {
    for (int parts = 1; parts <= split_max_parts && parts <= slabs; ++parts) consider({i, parts});
    for (const int pieces : split_pieces) {
      const split_division division{i, 1, pieces};
      if (slabs >= pieces * split_least_slabs_of_piece &&
          split_workspace_bytes(rows, cols, division) <= workspace_bytes)
        consider(division);
    }
  }
  return best;
}

/// The division that is done first, if that is before cuBLASLt's fp32. Of the library an H200 gave: 47
/// TFLOP/s over rows in steps of 64, and a start that grows with the depth. Fewer rows or columns were not
/// measured.
[[nodiscard]] constexpr std::optional<split_division> faster_split_division(index_t rows, index_t cols,
                                                                            index_t depth,
                                                                            int multiprocessors,
                                                                            index_t workspace_bytes) {
  constexpr index_t flops_per_ns = 47000;
  constexpr index_t min_side = 32;
  if (std::min(rows, cols) < min_side) return {};
  const index_t library_ns =
      2500 + 7 * std::min<index_t>(depth, 512) + 2 * round_up(rows, 64) * cols * depth / flops_per_ns;
  const split_division best = choose_split_division(rows, cols, depth, multiprocessors, workspace_bytes);
  if (split_matmul_ns(rows, cols, depth, best, multiprocessors) >= library_ns) return {};
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

/// The gradient of a relu's input: c = product where `activated`, the relu's result, is positive, times
/// scale; else 0. `activated` has c's shape and is not c. Without data: c = product.
struct relu_result {
  matrix_view<const float> activated{};
  float scale = 1.0F;  ///< of what dropout kept
};

/// Does the GPU in use have split_matmul's instructions, and is this program compiled for it?
template <class T = float>
[[nodiscard]] bool has_split_matmul();
/// How split_matmul cuts this product, if it takes it on the GPU in use and is faster than cuBLASLt; not
/// where TF32 is allowed.
template <class T = float>
[[nodiscard]] std::optional<split_division> preferred_split(const execution& e, transpose transpose_a,
                                                            matrix_view<const float> a, transpose transpose_b,
                                                            matrix_view<const float> b, matrix_view<float> c);

/// c (+)= alpha op(a) op(b), deterministic, in one launch or, where the depth is cut into pieces, two; these
/// borrow workspace. c may not overlap a or b. Throws contract_error where shapes do not agree,
/// takes_split_matmul says no, or the workspace is too small. `division`: how the product is cut; without a
/// tile choose_split_division says it. Through a relu, c is overwritten.
template <class T = float>
void split_matmul(execution& e, transpose transpose_a, matrix_view<const float> a, transpose transpose_b,
                  matrix_view<const float> b, matrix_view<float> c,
                  gradient_mode mode = gradient_mode::overwrite, float alpha = 1.0F,
                  split_division division = {}, const relu_result& relu = {});

// 120 tokens of t5-small on an H200: the projections of attention divide their depth to use its 132
// multiprocessors; the head need not; the gradient through it has few columns and the depth of a vocabulary.
// A generation's few rows are the library's.
static_assert(choose_split_division(120, 512, 512, 132, 0).parts >= 4 &&
              choose_split_division(120, 32128, 512, 132, 1 << 24).parts == 1 &&
              choose_split_division(120, 512, 32128, 132, 1 << 24).pieces >= 16 &&
              choose_split_division(120, 512, 32128, 132, 0).pieces == 1 &&
              faster_split_division(120, 512, 512, 132, 0) && !faster_split_division(16, 512, 512, 132, 0));

}  // namespace t5zero::cuda
