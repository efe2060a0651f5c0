// What the blocks of attention_backward share: the arrays, the layout of shared memory, how tiles and what is
// known of queries get there.
#pragma once

#include <cstdint>

#include <t5zero/backend/backend.hpp>
#include <t5zero/backend/cuda/attention_blocking.hpp>
#include <t5zero/backend/cuda/kernels/attention_sums.cuh>
#include <t5zero/backend/cuda/kernels/attention_tiles.cuh>
#include <t5zero/backend/cuda/kernels/distance_table.cuh>

namespace t5zero::cuda::detail {

/// What the kernel reads and writes beside the inputs.
template <element T>
struct attention_gradients {
  matrix_view<const T> context;
  matrix_view<const T> grad_context;
  matrix_view<const float> log_sum_exp;
  const float* row_sums =
      nullptr;  ///< [query tokens, n_heads] of grad_context context; null: not computed yet
  matrix_view<T> grad_query;
  matrix_view<T> grad_key;
  matrix_view<T> grad_value;
  matrix_view<float> grad_bias;
  float* bucket_sums = nullptr;  ///< [n_heads][blocks of queries][n_buckets]; null: add to grad_bias
  int key_blocks = 0;            ///< blocks below this own keys, the others queries
  int n_buckets = 0;
};

/// What a block knows of queries: in shared memory, `Count` of each.
template <int Count>
struct query_facts {
  float log_sum_exp[Count];
  float row_sum[Count];
  std::uint32_t row[Count];
  std::uint32_t position[Count];
};

/// Floats of a warp's scratch for 16 x 16 scores; rows of 20 keep float4 accesses aligned and out of each
/// other's banks.
inline constexpr int score_stride = 20;
inline constexpr int score_floats = 16 * score_stride;

/// Shared memory of a block: tiles, facts of queries, the warps' scratch (a block of keys has a second set of
/// weights there), weights that are handed over, the bias by distance, the warps' bias gradients by distance.
template <element T, int D, class Blocking>
struct attention_backward_memory {
  static constexpr int row_bytes = attention_tile<T, D>::row_bytes;
  static constexpr int tile_bytes =
      (2 * Blocking::own_rows + Blocking::stages * 2 * Blocking::other_rows) * row_bytes;
  static constexpr int facts_count =
      Blocking::own_rows > Blocking::other_rows ? Blocking::own_rows : Blocking::other_rows;
  using facts = query_facts<facts_count>;
  static constexpr int facts_at = tile_bytes;
  static constexpr int scratch = facts_at + Blocking::stages * static_cast<int>(sizeof(facts));
  static constexpr int weights = scratch + Blocking::warps * score_floats * 4;
  static constexpr int table = weights + handed_weights<T, Blocking>::bytes;
  static_assert(weights - scratch >= handed_weights<T, Blocking>::bytes);

  [[nodiscard]] static constexpr int bytes(bool has_bias, int reach) {
    return table + (has_bias ? (1 + Blocking::warps) * distance_table::floats(reach) * 4 : 0);
  }
};

/// Registers decide how many blocks share a multiprocessor: of wide heads, and of dense blocks in fp32, whose
/// sums fill it, the compiler has all that it asks for.
template <element T, int D, class Blocking>
inline constexpr int attention_backward_blocks = D > 64                 ? 1
                                                 : Blocking::hands_over ? 4
                                                 : sizeof(T) == 4       ? 1
                                                                        : 3;

/// sums[i] = grad_context . context of queries [first, first + Count), i < Count; 0 from `rows` on.
template <int Count, int Threads, int D, element T>
__device__ void row_products(const attention_gradients<T>& to, const attention_place<T>& place, int d_kv,
                             int first, int rows, float* sums) {
  using tile = attention_tile<T, D>;
  constexpr int rows_at_once = Threads / tile::units;
  static_assert(Threads % tile::units == 0 && Count % rows_at_once == 0);
  const int column = static_cast<int>(threadIdx.x % tile::units) * tile::unit;
  const int thread_row = static_cast<int>(threadIdx.x / tile::units);
  const T* gradient = place.row(to.grad_context, place.first_query, first + thread_row, d_kv) + column;
  const T* context = place.row(to.context, place.first_query, first + thread_row, d_kv) + column;
  float dots[Count / rows_at_once] = {};
#pragma unroll
  for (int i = 0; i < Count / rows_at_once; ++i) {
    if (column < d_kv && thread_row + i * rows_at_once < rows) {
      float a[tile::unit];
      float b[tile::unit];
      load_pack(gradient, a);
      load_pack(context, b);
#pragma unroll
      for (int c = 0; c < tile::unit; ++c) dots[i] += a[c] * b[c];
    }
    gradient += rows_at_once * to.grad_context.stride;
    context += rows_at_once * to.context.stride;
  }
#pragma unroll
  for (int i = 0; i < Count / rows_at_once; ++i) {
#pragma unroll
    for (int offset = tile::units / 2; offset > 0; offset /= 2)
      dots[i] += __shfl_xor_sync(all_lanes, dots[i], offset);
    if (column == 0) sums[thread_row + i * rows_at_once] = dots[i];
  }
}

/// Fills the facts of queries [first, first + Count), of which `rows` exist. Asynchronous but for row sums
/// that were not computed yet.
template <int Count, class Blocking, int D, element T, class Facts>
__device__ void load_facts(const attention_inputs<T>& in, const attention_gradients<T>& to,
                           const attention_place<T>& place, int first, int rows, Facts& facts) {
  const bool has_dropout = in.dropout.active();
  for (int i = static_cast<int>(threadIdx.x); i < Count; i += Blocking::threads) {
    const bool inside = i < rows;
    const index_t token = place.first_query + (inside ? first + i : 0);
    copy_4_bytes_async(facts.log_sum_exp + i, &to.log_sum_exp(token, place.head), inside);
    if (to.row_sums != nullptr) {
      copy_4_bytes_async(facts.row_sum + i, to.row_sums + token * in.n_heads + place.head, inside);
    }
    if (has_dropout) {
      copy_4_bytes_async(facts.row + i, in.queries.rows + token, inside);
      copy_4_bytes_async(facts.position + i, in.queries.positions + token, inside);
    }
  }
  if (to.row_sums == nullptr) {
    row_products<Count, Blocking::threads, D>(to, place, static_cast<int>(in.d_kv), first, rows,
                                              facts.row_sum);
  }
}

/// Starts to copy `count` rows of two matrices, one tile after the other.
template <class Blocking, int Rows, int D, element T>
__device__ void copy_pair(T* tiles, const attention_place<T>& place, const matrix_view<const T>& a,
                          const matrix_view<const T>& b, index_t sequence_first, int first, int count,
                          int d_kv) {
  using tile = attention_tile<T, D>;
  tile::template copy<Rows, Blocking::threads>(tiles, place.row(a, sequence_first, first, d_kv), a.stride,
                                               count, d_kv);
  tile::template copy<Rows, Blocking::threads>(tiles + Rows * D, place.row(b, sequence_first, first, d_kv),
                                               b.stride, count, d_kv);
}

}  // namespace t5zero::cuda::detail
