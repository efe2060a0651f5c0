// The attention of a generation step's few rows with the product in front of it, in one launch: declarations
// that a plain C++ compiler reads. kernels/row_attention.cuh defines them; the library t5zero::kernels holds
// them. Products as row_matmul.hpp says, attention as kernels/decode_attention.cuh does. Rows of keys, values
// and the context are aligned to 16 bytes. Overwrites; deterministic.
#pragma once

#include <t5zero/backend/backend.hpp>
#include <t5zero/backend/cuda/execution.hpp>
#include <t5zero/backend/cuda/row_matmul.hpp>
#include <t5zero/core/integers.hpp>
#include <t5zero/tensor/tensor_view.hpp>

namespace t5zero::cuda {

inline constexpr index_t most_attending_rows = 8;   ///< the blocks of a cluster
inline constexpr index_t most_attended_keys = 256;  ///< of a row; of more, blocks of their own read faster

/// Where the keys and values of rows go.
template <element T>
struct rows_cache {
  matrix_view<T> data{};          ///< [any, 2 * n_heads * d_kv], keys beside values
  const index_t* rows = nullptr;  ///< [rows]: which of `data`
};
/// context = attention of the queries rms_norm(x) weight^T (attention.query and .early are not looked at).
/// Without a cache, over keys that were there before the step began. With one, the rows' keys and values are
/// stored there, and each row's last key is its own. All others, their names and counts are read early: what
/// wrote them must be in front of a launch that waits before it lets the next begin, and that one in front of
/// this. rows_embedding does so, and another of these with a cache.
template <element T>
struct norm_rows_attention_arguments {
  matrix_view<const float> x;        ///< [rows, d_model]
  vector_view<const T> norm_weight;  ///< [d_model]
  float epsilon = 0.0F;
  matrix_view<const T> weight;  ///< [n_heads * d_kv, d_model]; with a cache q's, k's and v's, one by one
  rows_cache<T> cache;          ///< no data: none
  decode_attention_inputs<T> attention;  ///< a bias only with a cache
  matrix_view<T> context;                ///< [rows, n_heads * d_kv]
  launch_overlap overlap = launch_overlap::none;
};
/// Does norm_rows_attention take them? adds_keys: with a cache.
template <element T>
[[nodiscard]] constexpr bool attends_with_rows(index_t rows, index_t d_model, bool adds_keys,
                                               const decode_attention_inputs<T>& in) {
  return rows <= most_attending_rows && multiplies_rows(d_model, in.n_heads * in.d_kv, true) && in.d_kv > 0 &&
         in.d_kv % 8 == 0 && in.d_kv <= 128 && in.keys.max_count <= most_attended_keys &&
         (!adds_keys || (adds_rows_keys<T> && d_model <= most_part_depth));
}

/// Throws contract_error where shapes or alignments do not fit; one launch.
template <element T>
void norm_rows_attention(execution& e, const norm_rows_attention_arguments<T>& arguments);

}  // namespace t5zero::cuda
