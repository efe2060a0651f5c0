// Which products of few tokens token_matmul.hpp takes, and how they are cut into blocks: plain arithmetic
// that the host, tests and planners read.
#pragma once

#include <algorithm>
#include <array>

#include <t5zero/backend/backend.hpp>
#include <t5zero/backend/cuda/device_limits.hpp>
#include <t5zero/core/integers.hpp>

namespace t5zero::cuda {

/// The part of a result that a block computes: 16 * row_tiles tokens, 8 * column_tiles features.
struct token_tile {
  int row_tiles = 0;
  int column_tiles = 0;

  [[nodiscard]] constexpr index_t rows() const { return 16 * row_tiles; }
  [[nodiscard]] constexpr index_t cols() const { return 8 * column_tiles; }
};

/// The tiles that are compiled, small ones first.
inline constexpr std::array<token_tile, 5> token_tiles{{{1, 2}, {1, 4}, {1, 6}, {1, 8}, {2, 8}}};

/// Warps of a block; they divide the depth of its tile.
inline constexpr int token_warps = 8;
/// Rows that are computed before a product (norms, gradients) have at most this many features.
inline constexpr index_t token_max_features = 1024;
/// Blocks along the features that compute such rows for each other.
inline constexpr int token_row_cluster = 4;
/// Products that one launch of weight_gradients takes, and norms beside them.
inline constexpr index_t max_weight_gradients = 4;

/// How the depth of a product with given rows is divided: among the blocks of a cluster, or, where a GPU has
/// none, in time. Depends on the depth alone, so that no result depends on the number of tokens.
struct depth_division {
  int parts = 1;  ///< 1, 2, 4 or 8
  index_t depth =
      0;  ///< of one piece, a multiple of 16 if there are several; part i has pieces i, i + parts..

  [[nodiscard]] static constexpr depth_division of(index_t depth) {
    if (depth <= 1024) return {1, depth};
    const int parts = depth <= 2048 ? 4 : 8;
    return {parts, std::min<index_t>(512, round_up(ceil_div(depth, parts), 16))};
  }
};

/// Shared memory of a block that holds `depth` of the depth at a time.
[[nodiscard]] constexpr index_t token_matmul_bytes(token_tile tile, transpose weight, index_t depth,
                                                   int parts) {
  const index_t padded = round_up(depth, 16);
  const index_t weights =
      weight == transpose::yes ? tile.cols() * (padded + 8) : padded * (tile.cols() + 8);  // elements
  const index_t operands = 2 * (weights + tile.rows() * (padded + 8));
  const index_t sums = 4 * token_warps * tile.rows() * (tile.cols() + 8);
  const index_t exchange = parts > 1 ? 4 * tile.rows() * tile.cols() + 16 * parts : 0;
  return std::max(operands, sums) + exchange;
}

/// The smallest tile whose blocks all run at once, each on a multiprocessor of its own; else the largest.
/// `group`: blocks along the features come in multiples of it. row_tiles is 0 where no tile fits.
[[nodiscard]] constexpr token_tile choose_token_tile(index_t rows, index_t cols, transpose weight,
                                                     index_t depth, int parts, int group,
                                                     const device_limits& device) {
  token_tile largest{};
  for (const token_tile tile : token_tiles) {
    if (token_matmul_bytes(tile, weight, depth, parts) > device.shared_bytes) continue;
    if (tile.row_tiles > 1 && rows <= 16) continue;
    largest = tile;
    const index_t blocks = ceil_div(rows, tile.rows()) * round_up(ceil_div(cols, tile.cols()), group) * parts;
    if (blocks <= device.multiprocessors) return tile;
  }
  return largest;
}

/// Can norm_matmul and grad_matmul take rows of `features` features on a GPU whose blocks may have that much
/// shared memory (64 KiB on compute capability 7.5, 99 on 8.6 to 8.9 and 12.0, 227 on 9.0)?
[[nodiscard]] constexpr bool computes_token_rows(index_t features, index_t cols, index_t shared_bytes) {
  return features % 8 == 0 && cols % 8 == 0 && features <= token_max_features &&
         token_matmul_bytes(token_tiles[0], transpose::yes, features, 1) <= shared_bytes &&
         token_matmul_bytes(token_tiles[0], transpose::no, features, 1) <= shared_bytes;
}
/// Can matmul_residual and plain_matmul take this depth?
[[nodiscard]] constexpr bool copies_token_rows(index_t depth, index_t cols, index_t shared_bytes) {
  const depth_division division = depth_division::of(depth);
  return depth % 8 == 0 && cols % 8 == 0 &&
         token_matmul_bytes(token_tiles[0], transpose::yes, division.depth, division.parts) <= shared_bytes &&
         token_matmul_bytes(token_tiles[0], transpose::no, division.depth, division.parts) <= shared_bytes;
}

// t5-small, t5-base and t5-large on every GPU but those of 64 KiB, where d_model = 1024 does not fit.
static_assert(computes_token_rows(1024, 4096, index_t{99} << 10) &&
              computes_token_rows(768, 3072, index_t{64} << 10) &&
              copies_token_rows(4096, 1024, index_t{64} << 10));
// 48 tokens of t5-small on an H100: feed-forward, attention, and back.
static_assert(choose_token_tile(48, 2048, transpose::yes, 512, 1, 4, {132, 232448}).column_tiles == 6);
static_assert(choose_token_tile(48, 512, transpose::yes, 512, 4, 1, {132, 232448}).column_tiles == 6);
static_assert(choose_token_tile(48, 512, transpose::yes, 512, 1, 1, {132, 232448}).column_tiles == 2);

}  // namespace t5zero::cuda
