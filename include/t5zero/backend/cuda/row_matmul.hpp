// The few rows of a generation step: their embedding, their products with a weight and what stands before and
// after those, in one launch each: declarations that a plain C++ compiler reads. kernels/row_matmul.cuh
// defines them; the library t5zero::kernels holds them.
//
// Products to 2^-21 (fp32; infinities, and numbers that TF32 rounds to them, give NaN) or exact (16-bit
// elements), fp32 sums, in an order that depends on the depth alone. The depth is a multiple of 8; rows of
// weights are aligned to 16 bytes, others to four elements, and features are multiples of 4, but for
// norm_rows_logits, which takes any number. Everything overwrites and is deterministic.
#pragma once

#include <cstdint>

#include <t5zero/backend/backend.hpp>
#include <t5zero/backend/cuda/execution.hpp>
#include <t5zero/core/integers.hpp>
#include <t5zero/tensor/tensor_view.hpp>

namespace t5zero::cuda {

/// Rows that one launch takes.
inline constexpr index_t most_matmul_rows = 16;
/// Features that rows which are normed have at most; other depths are divided into parts.
inline constexpr index_t most_row_depth = 1024;
inline constexpr index_t most_part_depth = 512;

/// The depth of a product, divided among the blocks of a cluster.
struct row_division {
  int parts = 1;      ///< 1, 2, 4 or 8
  index_t depth = 0;  ///< of each part but, perhaps, the last ones

  [[nodiscard]] static constexpr row_division of(index_t depth) {
    row_division result;
    while (result.parts < 8 && ceil_div(depth, result.parts) > most_part_depth) result.parts *= 2;
    result.depth = round_up(ceil_div(depth, result.parts), 8);
    return result;
  }
};
static_assert(row_division::of(2048).parts == 4 && row_division::of(512).parts == 1);

/// Can rows of this depth be multiplied by a weight of so many features? `is_normed`: they are normed first.
[[nodiscard]] constexpr bool multiplies_rows(index_t depth, index_t features, bool is_normed) {
  return depth > 0 && depth % 8 == 0 && features % 4 == 0 &&
         (is_normed ? depth <= most_row_depth : row_division::of(depth).depth <= most_part_depth);
}

/// Shared memory of a block of norm_rows_logits: two tiles of 16 features, sums of the warps.
[[nodiscard]] constexpr index_t row_logits_bytes(index_t element_bytes, index_t depth, index_t rows) {
  const index_t tile_depth = depth <= most_part_depth ? most_part_depth : most_row_depth;
  const index_t tile_rows = rows <= 8 ? 8 : 16;
  return 2 * 16 * (tile_depth + 16) * element_bytes + tile_rows * (2 * 8 * 20 + 8) * 4 + 1024;
}
static_assert(row_logits_bytes(4, 512, 16) <= index_t{98} << 10 &&
              row_logits_bytes(4, 1024, 16) <= index_t{226} << 10);

/// What becomes of norm_rows_matmul's product.
template <element T>
struct rows_target {
  matrix_view<T> y;                         ///< [rows, the first features]
  bool relu = false;                        ///< of all features
  matrix_view<T> scattered{};               ///< [any, the other features]; no data: there are no others
  const index_t* scattered_rows = nullptr;  ///< [rows]: which of `scattered` they go to
};

/// y = rms_norm(x) weight^T.
template <element T>
struct norm_rows_matmul_arguments {
  matrix_view<const float> x;        ///< [rows, d_model]
  vector_view<const T> norm_weight;  ///< [d_model]
  float epsilon = 0.0F;
  matrix_view<const T> weight;  ///< [features, d_model]
  rows_target<T> target;
  launch_overlap overlap = launch_overlap::none;
};
/// out = x + a weight^T.
template <element T>
struct rows_residual_arguments {
  matrix_view<const T> a;       ///< [rows, depth]
  matrix_view<const T> weight;  ///< [d_model, depth]
  matrix_view<const float> x;   ///< [rows, d_model]
  matrix_view<float> out;       ///< [rows, d_model]; not x
  launch_overlap overlap = launch_overlap::none;
};
/// y = scale * rms_norm(x) weight^T.
template <element T>
struct norm_rows_logits_arguments {
  matrix_view<const float> x;        ///< [rows, d_model]
  vector_view<const T> norm_weight;  ///< [d_model]
  float epsilon = 0.0F;
  matrix_view<const T> weight;  ///< [features, d_model]
  float scale = 1.0F;
  matrix_view<float> y;  ///< [rows, features]
  launch_overlap overlap = launch_overlap::none;
};

/// Does norm_rows_attention (row_attention.hpp) take a cache? A block has three tiles of weights then; of
/// fp32 ones, more blocks bring them faster.
template <element T>
inline constexpr bool adds_rows_keys = sizeof(T) == 2;
/// Are there the clusters of blocks that a divided depth and norm_rows_attention need: compute capability 9.0
/// or above, on the execution's GPU?
template <element T>
[[nodiscard]] bool row_clusters_work(const execution& e);

/// out = table[ids]; a row of NaN for an id outside the table. With adds_rows_keys it waits before it lets
/// the next launch begin.
template <element T>
struct rows_embedding_arguments {
  const std::int32_t* ids = nullptr;  ///< [rows]
  matrix_view<const T> table;         ///< [vocab_size, d_model]
  matrix_view<float> out;             ///< [rows, d_model]
  launch_overlap overlap = launch_overlap::none;
};

// Each throws contract_error where shapes or alignments do not fit, and is one launch.
template <element T>
void rows_embedding(execution& e, const rows_embedding_arguments<T>& arguments);
template <element T>
void norm_rows_matmul(execution& e, const norm_rows_matmul_arguments<T>& arguments);
template <element T>
void rows_residual(execution& e, const rows_residual_arguments<T>& arguments);
template <element T>
void norm_rows_logits(execution& e, const norm_rows_logits_arguments<T>& arguments);

}  // namespace t5zero::cuda
