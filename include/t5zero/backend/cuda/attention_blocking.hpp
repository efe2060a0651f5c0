// How the attention kernels divide rows among blocks and warps.
#pragma once

#include <string>

#include <t5zero/backend/cuda/current_device.hpp>
#include <t5zero/core/error.hpp>
#include <t5zero/core/integers.hpp>

namespace t5zero::cuda::detail {

/// Either OwnWarps warps have 16 rows of the block's own each, or OtherWarps warps share 16: each then makes
/// the scores of some of the other side's rows, hands them over as weights, and multiplies all of them for
/// columns of its own. Of the other side, 16 * OtherWarps * Chunks rows are in shared memory at a time, in
/// one of Stages buffers.
template <int OwnWarps, int OtherWarps, int Chunks, int Stages>
struct attention_blocking {
  static_assert(OwnWarps == 1 || OtherWarps == 1);
  static constexpr bool hands_over = OtherWarps > 1;
  static constexpr int own_warps = OwnWarps;
  static constexpr int other_warps = OtherWarps;
  static constexpr int chunks = Chunks;
  static constexpr int stages = Stages;
  static constexpr int warps = OwnWarps * OtherWarps;
  static constexpr int threads = warps * 32;
  static constexpr int own_rows = 16 * OwnWarps;
  static constexpr int other_rows = 16 * OtherWarps * Chunks;
};

/// By the bytes of a head's columns. spread: few rows a block, so that a small batch is on many
/// multiprocessors; dense: for many rows, which then read the other side less often.
template <int RowBytes>
struct attention_blockings;
template <>
struct attention_blockings<128> {
  using spread = attention_blocking<1, 4, 2, 1>;
  using dense = attention_blocking<4, 1, 4, 2>;
};
template <>
struct attention_blockings<256> {
  using spread = attention_blocking<1, 4, 1, 1>;
  using dense = attention_blocking<4, 1, 2, 2>;
};
template <>
struct attention_blockings<512> {
  using spread = attention_blocking<1, 2, 1, 1>;
  using dense = attention_blocking<2, 1, 1, 2>;
};

/// Are there enough rows for dense blocks of so many? tokens: of all sequences, none longer than max_rows.
[[nodiscard]] constexpr bool fills_dense_blocks(index_t own_rows, index_t max_rows, index_t tokens,
                                                index_t sequences, index_t n_heads) {
  // Two for each multiprocessor of a large GPU; short sequences leave most warps of a dense block idle.
  constexpr index_t enough_blocks = 256;
  return max_rows > 64 && tokens > 48 * sequences && ceil_div(tokens, own_rows) * n_heads >= enough_blocks;
}

/// Calls launch(blocking) with the faster blocking whose shared_bytes(blocking) a block may have. Throws
/// capacity_error where it may have those of neither.
template <int RowBytes, class SharedBytes, class Launch>
void choose_blocking(index_t max_rows, index_t tokens, index_t sequences, index_t n_heads,
                     const SharedBytes& shared_bytes, const Launch& launch) {
  using blockings = attention_blockings<RowBytes>;
  typename blockings::spread spread;
  typename blockings::dense dense;
  const index_t limit = current_device_limits().shared_bytes;
  if (fills_dense_blocks(dense.own_rows, max_rows, tokens, sequences, n_heads) &&
      shared_bytes(dense) <= limit) {
    launch(dense);
    return;
  }
  if (shared_bytes(spread) > limit) {
    throw capacity_error("the CUDA backend: attention with the relative biases of these distances takes " +
                         std::to_string(shared_bytes(spread)) +
                         " bytes of shared memory a block, of which this GPU gives " + std::to_string(limit) +
                         ": use shorter sequences, a model with a smaller relative_attention_max_distance, "
                         "another GPU or the CPU");
  }
  launch(spread);
}

}  // namespace t5zero::cuda::detail
