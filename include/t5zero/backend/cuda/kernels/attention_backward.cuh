// Gradients of attention. With s = q k^T + bias, p = exp(s - log_sum_exp) and the dropout multipliers m:
//   grad_value = (m p)^T g,  ds = p (m (g v^T) - rowsum(g context)),  grad_query = ds k,  grad_key = ds^T q,
//   grad_bias[bucket] += sum of ds over the pairs whose distance is in the bucket
// (Dao et al. 2022, "FlashAttention", appendix B.4, with T5's bias). Probabilities are computed again.
//
// One launch makes all three gradients: some blocks own keys and pass over the queries, others own queries
// and pass over the keys, so nothing is added across blocks but the bias's gradient: each block of queries
// leaves a sum for each bucket in the workspace, and a second small kernel adds them up in a fixed order (a
// single block of queries for each head adds its own, without a second launch). For long sequences a kernel
// before them computes the row sums of g context.
//
// Shapes: attention_inputs<T> (backend/backend.hpp); context, grad_context and grad_query [query tokens,
// n_heads * d_kv], grad_key and grad_value [key tokens, n_heads * d_kv], log_sum_exp [query tokens, n_heads],
// grad_bias [n_buckets, n_heads]. d_kv and alignment as for attention_forward. No aliasing. Overwrites
// grad_query, grad_key and grad_value; accumulates to grad_bias. Deterministic. In 16-bit types m p and ds
// are rounded to T before their products; sums are fp32. One stream; workspace: attention_workspace_bytes.
// Targets on an H100, to be measured: t5-small, batch 1, 40 tokens, fp16: 5 us; t5-large, 4 sequences of 57,
// 16 heads: fp16 8 us, fp32 18 us (and 1.5 us for the bias); 4 x 1024 tokens, 16 heads: fp16 260 us with
// dropout (seven products, and Philox twice), fp32 2.4 ms.
#pragma once

#include <algorithm>

#include <t5zero/backend/backend.hpp>
#include <t5zero/backend/cuda/attention_workspace.hpp>
#include <t5zero/backend/cuda/check.hpp>
#include <t5zero/backend/cuda/execution.hpp>
#include <t5zero/backend/cuda/kernels/attention_tiles.cuh>
#include <t5zero/backend/cuda/kernels/dropout_mask.cuh>
#include <t5zero/backend/cuda/kernels/grid_overlap.cuh>
#include <t5zero/backend/cuda/operations.hpp>

namespace t5zero::cuda {

namespace detail {

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

/// Shared memory of a block: tiles (later the warps' sums), facts of queries, the warps' scratch, the bias by
/// distance, the warps' bias gradients by distance.
template <element T, int D, class Blocking>
struct attention_backward_memory {
  static constexpr int row_bytes = attention_tile<T, D>::row_bytes;
  static constexpr int tile_bytes =
      (2 * Blocking::own_rows + Blocking::stages * 2 * Blocking::other_rows) * row_bytes;
  static constexpr int facts_count =
      Blocking::own_rows > Blocking::other_rows ? Blocking::own_rows : Blocking::other_rows;
  using facts = query_facts<facts_count>;
  static constexpr int facts_at = tile_bytes > sums_bytes<D, Blocking> ? tile_bytes : sums_bytes<D, Blocking>;
  static constexpr int scratch = facts_at + Blocking::stages * static_cast<int>(sizeof(facts));
  static constexpr int table = scratch + Blocking::warps * score_floats * 4;

  [[nodiscard]] static constexpr int bytes(bool has_bias, int reach) {
    return table + (has_bias ? (1 + Blocking::warps) * distance_table::floats(reach) * 4 : 0);
  }
};

/// Registers decide how many blocks share a multiprocessor: of wide heads, or in fp32, one block's sums fill
/// it.
template <element T, int D, class Blocking>
inline constexpr int attention_backward_blocks = D > 64           ? 1
                                                 : sizeof(T) == 4 ? (Blocking::own_warps == 1 ? 3 : 1)
                                                 : Blocking::own_warps == 1   ? 4
                                                 : Blocking::other_warps == 1 ? 3
                                                                              : 1;
/// Is there room to keep the fragments of one of the block's own tiles? A dense block would spill.
template <int D, class Blocking>
inline constexpr bool keeps_fragments = D <= 64 && Blocking::own_warps > 1 && Blocking::other_warps > 1;

/// sums[i] = grad_context . context of queries [first, first + Count), i < Count; 0 from `rows` on.
template <int Count, int Threads, int D, element T>
__device__ void row_products(const attention_gradients<T>& to, const attention_place<T>& place, int d_kv,
                             int first, int rows, float* sums) {
  using tile = attention_tile<T, D>;
  static_assert(Count * tile::units % Threads == 0);
#pragma unroll 2
  for (int i = static_cast<int>(threadIdx.x); i < Count * tile::units; i += Threads) {
    const int row = i / tile::units;
    const int column = i % tile::units * tile::unit;
    float dot = 0.0F;
    if (row < rows && column < d_kv) {
      float a[tile::unit];
      float b[tile::unit];
      load_pack(place.row(to.grad_context, place.first_query, first + row, d_kv) + column, a);
      load_pack(place.row(to.context, place.first_query, first + row, d_kv) + column, b);
#pragma unroll
      for (int c = 0; c < tile::unit; ++c) dot += a[c] * b[c];
    }
#pragma unroll
    for (int offset = tile::units / 2; offset > 0; offset /= 2)
      dot += __shfl_xor_sync(all_lanes, dot, offset);
    if (column == 0) sums[row] = dot;
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

/// grad_key and grad_value of the block's keys. Scores are transposed: rows are keys, columns queries.
template <element T, int D, class Blocking>
__device__ void attention_key_gradients(const attention_inputs<T>& in, const attention_gradients<T>& to,
                                        const relative_buckets& buckets, int reach) {
  using memory_layout = attention_backward_memory<T, D, Blocking>;
  using facts_type = typename memory_layout::facts;
  constexpr int own_rows = Blocking::own_rows;
  constexpr int other_rows = Blocking::other_rows;
  const attention_place<T> place(in);
  const int block_key = static_cast<int>(blockIdx.x) * own_rows;
  if (block_key >= place.n_keys) return wait_for_previous_grid();
  const int rows = min(own_rows, place.n_keys - block_key);
  const int first_query = place.causal ? block_key : 0;  // earlier ones do not see these keys
  const int d_kv = static_cast<int>(in.d_kv);

  unsigned char* const memory = dynamic_shared_memory();
  T* const own_tiles = reinterpret_cast<T*>(memory);    // [key, value][own_rows, D]
  T* const other_tiles = own_tiles + 2 * own_rows * D;  // [stages][query, grad_context][other_rows, D]
  auto* const facts = reinterpret_cast<facts_type*>(memory + memory_layout::facts_at);  // [stages]
  const auto copy_queries = [&](int stage, int first) {
    const int count = min(other_rows, place.n_queries - first);
    copy_pair<Blocking, other_rows, D>(other_tiles + stage * 2 * other_rows * D, place, in.query,
                                       to.grad_context, place.first_query, first, count, d_kv);
    load_facts<other_rows, Blocking, D>(in, to, place, first, count, facts[stage]);
  };
  const bool has_bias = in.relative_bias != nullptr;
  const distance_table bias{reinterpret_cast<float*>(memory + memory_layout::table), reach};
  if (has_bias) {
    bias.fill<Blocking::threads>(
        bias.occurring(first_query, (place.n_queries + 15) / 16 * 16, block_key, block_key + own_rows),
        in.relative_bias, static_cast<int>(in.n_heads), place.head, buckets);
  }

  wait_for_previous_grid();  // the bias is a weight: it was there before
  copy_pair<Blocking, own_rows, D>(own_tiles, place, in.key, in.value, place.first_key, block_key, rows,
                                   d_kv);
  if (first_query < place.n_queries) copy_queries(0, first_query);

  const int lane = static_cast<int>(threadIdx.x) % warp_size;
  const int warp = static_cast<int>(threadIdx.x) / warp_size;
  const int other_warp = warp % Blocking::other_warps;
  const int own_row = warp / Blocking::other_warps * 16;
  const int warp_key = block_key + own_row;
  const dropout_mask dropout(in.dropout.for_head(place.head));

  wait_for_copies();
  __syncthreads();
  const attention_rows<T, D, false> keys(own_tiles + own_row * D);
  const attention_rows<T, D, keeps_fragments<D, Blocking>> values(own_tiles + (own_rows + own_row) * D);
  float* const scratch = reinterpret_cast<float*>(memory + memory_layout::scratch) + warp * score_floats;
  attention_sums<T, D> key_sums;
  attention_sums<T, D> value_sums;
  int stage = 0;
  for (int first = first_query; first < place.n_queries; first += other_rows) {
    if (first > first_query) {
      wait_for_copies();
      __syncthreads();
    }
    if (Blocking::stages == 2 && first + other_rows < place.n_queries)
      copy_queries(1 - stage, first + other_rows);
    const T* const queries = other_tiles + stage * 2 * other_rows * D;
    const T* const gradients = queries + other_rows * D;
    const facts_type& known = facts[stage];
#pragma unroll 1
    for (int c = 0; c < Blocking::chunks; ++c) {
      const int row = (c * Blocking::other_warps + other_warp) * 16;
      const int query = first + row;
      if (own_row >= rows || query >= place.n_queries || (place.causal && query + 15 < warp_key)) continue;
      float scores[8];
      float grad_scores[8];
      multiply_rows(keys, queries + row * D, scores);
      multiply_rows(values, gradients + row * D, grad_scores);
      const int column = row + lane % 4 * 4;
      float log_sum_exp[4];
      float row_sum[4];
      load_pack(known.log_sum_exp + column, log_sum_exp);
      load_pack(known.row_sum + column, row_sum);
      // Lane l draws for query l % 16 and the keys of quads l / 16 and l / 16 + 2.
      unsigned kept = 0;
      if (dropout.active) {
        const std::uint32_t token_row = known.row[row + lane % 16];
        const std::uint32_t token_position = known.position[row + lane % 16];
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          kept |= dropout.kept(token_row, token_position,
                               static_cast<std::uint32_t>(warp_key / 4 + lane / 16 + 2 * half))
                  << (4 * half);
        }
      }
      const int base = has_bias ? bias.base(warp_key, query) + lane / 4 - lane % 4 * 4 : 0;
      unsigned kept_by_query[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        kept_by_query[i] =
            dropout.active ? __shfl_sync(all_lanes, kept, lane / 16 * 16 + lane % 4 * 4 + i) >> (lane / 4 % 4)
                           : 0U;
      }
#pragma unroll
      for (int e = 0; e < 8; ++e) {
        const int key = warp_key + lane / 4 + e / 4 * 8;
        const int own_query = query + lane % 4 * 4 + e % 4;
        const bool visible =
            key < place.n_keys && own_query < place.n_queries && (!place.causal || key <= own_query);
        const float b = has_bias ? bias.values[base + e / 4 * 8 - e % 4] : 0.0F;
        const float p =
            visible ? power_of_two(fmaf(scores[e], log2_e, b) - log_sum_exp[e % 4] * log2_e) : 0.0F;
        const float multiplier =
            dropout.active ? ((kept_by_query[e % 4] >> (e / 4 * 4) & 1U) != 0U ? dropout.scale : 0.0F) : 1.0F;
        scores[e] = p * multiplier;
        grad_scores[e] = p * (grad_scores[e] * multiplier - row_sum[e % 4]);
      }
      value_sums.add_product(scores, gradients + row * D, scratch);
      key_sums.add_product(grad_scores, queries + row * D, scratch);
    }
    if constexpr (Blocking::stages == 2) {
      stage = 1 - stage;
    } else if (first + other_rows < place.n_queries) {
      __syncthreads();
      copy_queries(0, first + other_rows);
    }
  }
  store_sums<Blocking>(key_sums, place.row(to.grad_key, place.first_key, block_key, d_kv), to.grad_key.stride,
                       rows, d_kv, reinterpret_cast<float*>(memory));
  store_sums<Blocking>(value_sums, place.row(to.grad_value, place.first_key, block_key, d_kv),
                       to.grad_value.stride, rows, d_kv, reinterpret_cast<float*>(memory));
}

/// Adds the 31 diagonals of a warp's 16 x 16 scores (rows: queries, columns: keys) to its sums by distance,
/// of which diagonals[15] is that of the first key and the first query.
__device__ inline void add_diagonals(const float (&scores)[8], float* scratch, float* diagonals) {
  const int lane = static_cast<int>(threadIdx.x) % warp_size;
  __syncwarp();
  store_scores(scratch, scores);
  __syncwarp();
  float sum = 0.0F;
#pragma unroll
  for (int row = 0; row < 16; ++row) {
    const int column = row + lane - 15;
    if (column >= 0 && column < 16) sum += scratch[row * score_stride + column];
  }
  if (lane < 31) diagonals[lane] += sum;
}

/// Sums the warps' diagonals by bucket.
template <element T, class Blocking>
__device__ void store_bucket_sums(const attention_place<T>& place, const attention_gradients<T>& to,
                                  const relative_buckets& buckets, distance_table::range occurring, int reach,
                                  const float* diagonals, float* block_sums) {
  constexpr int lanes = 4;  // of a bucket
  const int width = distance_table::floats(reach);
  const int lane = static_cast<int>(threadIdx.x) % lanes;
  for (int first = 0; first < to.n_buckets; first += Blocking::threads / lanes) {
    const int bucket = first + static_cast<int>(threadIdx.x) / lanes;
    // The bucket's distances, [begin, end).
    int begin = 0;
    int end = 0;
    if (bucket < buckets.per_direction) {
      end = 1 - (bucket == 0 ? 0 : buckets.starts[bucket]);
      begin = bucket + 1 < buckets.per_direction ? 1 - buckets.starts[bucket + 1] : occurring.first;
      if (!buckets.bidirectional && bucket == 0) end = occurring.end;  // later keys, were there any
    } else if (buckets.bidirectional && bucket < 2 * buckets.per_direction) {
      const int i = bucket - buckets.per_direction;
      begin = i == 0 ? 1 : buckets.starts[i];
      end = i + 1 < buckets.per_direction ? buckets.starts[i + 1] : occurring.end;
    }
    begin = max(begin, occurring.first);
    end = min(end, occurring.end);
    float sum = 0.0F;
    for (int d = begin + lane; d < end; d += lanes) {
#pragma unroll
      for (int w = 0; w < Blocking::warps; ++w) sum += diagonals[w * width + d + reach + 30];
    }
#pragma unroll
    for (int offset = lanes / 2; offset > 0; offset /= 2) sum += __shfl_xor_sync(all_lanes, sum, offset);
    if (lane != 0 || bucket >= to.n_buckets) continue;
    if (block_sums != nullptr) {
      block_sums[bucket] = sum;
    } else {
      to.grad_bias(bucket, place.head) += sum;
    }
  }
}

/// grad_query of the block's queries and their part of the bias's gradient.
template <element T, int D, class Blocking>
__device__ void attention_query_gradients(const attention_inputs<T>& in, const attention_gradients<T>& to,
                                          const relative_buckets& buckets, int reach) {
  using memory_layout = attention_backward_memory<T, D, Blocking>;
  using facts_type = typename memory_layout::facts;
  constexpr int own_rows = Blocking::own_rows;
  constexpr int other_rows = Blocking::other_rows;
  const attention_place<T> place(in);
  const int query_blocks = static_cast<int>(gridDim.x) - to.key_blocks;
  const int block = static_cast<int>(gridDim.x - 1 - blockIdx.x);  // the last queries see most keys
  const int block_query = block * own_rows;
  const bool has_bias = in.relative_bias != nullptr;
  float* const block_sums =
      to.bucket_sums == nullptr
          ? nullptr
          : to.bucket_sums +
                ((static_cast<index_t>(place.head) * gridDim.z + place.sequence) * query_blocks + block) *
                    to.n_buckets;
  if (block_query >= place.n_queries) {
    wait_for_previous_grid();
    if (has_bias && block_sums != nullptr) {
      for (int i = static_cast<int>(threadIdx.x); i < to.n_buckets; i += Blocking::threads)
        block_sums[i] = 0.0F;
    }
    return;
  }
  const int rows = min(own_rows, place.n_queries - block_query);
  const int end_key = place.causal ? min(place.n_keys, block_query + rows) : place.n_keys;
  const int d_kv = static_cast<int>(in.d_kv);

  unsigned char* const memory = dynamic_shared_memory();
  T* const own_tiles = reinterpret_cast<T*>(memory);    // [query, grad_context][own_rows, D]
  T* const other_tiles = own_tiles + 2 * own_rows * D;  // [stages][key, value][other_rows, D]
  auto& facts = *reinterpret_cast<facts_type*>(memory + memory_layout::facts_at);
  const auto copy_keys = [&](int stage, int first) {
    copy_pair<Blocking, other_rows, D>(other_tiles + stage * 2 * other_rows * D, place, in.key, in.value,
                                       place.first_key, first, min(other_rows, end_key - first), d_kv);
  };
  const int lane = static_cast<int>(threadIdx.x) % warp_size;
  const int warp = static_cast<int>(threadIdx.x) / warp_size;
  const distance_table bias{reinterpret_cast<float*>(memory + memory_layout::table), reach};
  float* const all_diagonals = bias.values + distance_table::floats(reach);
  float* const diagonals = all_diagonals + warp * distance_table::floats(reach);
  const distance_table::range occurring =
      bias.occurring(block_query, block_query + own_rows, 0, (end_key + 15) / 16 * 16);
  if (has_bias) {
    bias.fill<Blocking::threads>(occurring, in.relative_bias, static_cast<int>(in.n_heads), place.head,
                                 buckets);
    for (int d = occurring.first + lane; d < occurring.end; d += warp_size) diagonals[d + reach + 30] = 0.0F;
  }

  wait_for_previous_grid();  // the bias is a weight: it was there before
  copy_pair<Blocking, own_rows, D>(own_tiles, place, in.query, to.grad_context, place.first_query,
                                   block_query, rows, d_kv);
  if (end_key > 0) copy_keys(0, 0);
  load_facts<own_rows, Blocking, D>(in, to, place, block_query, rows, facts);

  const int other_warp = warp % Blocking::other_warps;
  const int own_row = warp / Blocking::other_warps * 16;
  const int warp_query = block_query + own_row;
  const int warp_end = own_row >= rows ? 0 : (place.causal ? min(end_key, warp_query + 16) : end_key);
  const dropout_mask dropout(in.dropout.for_head(place.head));

  wait_for_copies();
  __syncthreads();
  int visible[2];
  float log_sum_exp[2];
  float row_sum[2];
  std::uint32_t token_row[2] = {};
  std::uint32_t token_position[2] = {};
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const int row = own_row + lane / 4 + 8 * h;
    visible[h] = row >= rows ? 0 : (place.causal ? min(end_key, block_query + row + 1) : end_key);
    log_sum_exp[h] = facts.log_sum_exp[row] * log2_e;
    row_sum[h] = facts.row_sum[row];
    if (dropout.active) {
      token_row[h] = facts.row[row];
      token_position[h] = facts.position[row];
    }
  }
  const attention_rows<T, D, false> queries(own_tiles + own_row * D);
  const attention_rows<T, D, keeps_fragments<D, Blocking>> gradients(own_tiles + (own_rows + own_row) * D);
  float* const scratch = reinterpret_cast<float*>(memory + memory_layout::scratch) + warp * score_floats;
  attention_sums<T, D> sums;
  int stage = 0;
  for (int first = 0; first < end_key; first += other_rows) {
    if (first > 0) {
      wait_for_copies();
      __syncthreads();
    }
    if (Blocking::stages == 2 && first + other_rows < end_key) copy_keys(1 - stage, first + other_rows);
    const T* const keys = other_tiles + stage * 2 * other_rows * D;
    const T* const values = keys + other_rows * D;
#pragma unroll 1
    for (int c = 0; c < Blocking::chunks; ++c) {
      const int row = (c * Blocking::other_warps + other_warp) * 16;
      const int key = first + row;
      if (key >= warp_end) break;
      float scores[8];
      float grad_scores[8];
      multiply_rows(queries, keys + row * D, scores);
      multiply_rows(gradients, values + row * D, grad_scores);
      const int column = key + lane % 4 * 4;
      if (dropout.active) {
#pragma unroll
        for (int h = 0; h < 2; ++h) {
          float multipliers[4];
          dropout.multipliers(token_row[h], token_position[h], static_cast<std::uint32_t>(column / 4),
                              multipliers);
#pragma unroll
          for (int i = 0; i < 4; ++i) grad_scores[4 * h + i] *= multipliers[i];
        }
      }
      const int base = has_bias ? bias.base(key, warp_query) : 0;
      const int own_base = base + lane % 4 * 4 - lane / 4;
#pragma unroll
      for (int e = 0; e < 8; ++e) {
        const float b = has_bias ? bias.values[own_base + e % 4 - e / 4 * 8] : 0.0F;
        const float p = column + e % 4 < visible[e / 4]
                            ? power_of_two(fmaf(scores[e], log2_e, b) - log_sum_exp[e / 4])
                            : 0.0F;
        grad_scores[e] = p * (grad_scores[e] - row_sum[e / 4]);
      }
      sums.add_product(grad_scores, keys + row * D, scratch);
      if (has_bias) add_diagonals(grad_scores, scratch, diagonals + base - 15);
    }
    if constexpr (Blocking::stages == 2) {
      stage = 1 - stage;
    } else if (first + other_rows < end_key) {
      __syncthreads();
      copy_keys(0, first + other_rows);
    }
  }
  store_sums<Blocking>(sums, place.row(to.grad_query, place.first_query, block_query, d_kv),
                       to.grad_query.stride, rows, d_kv, reinterpret_cast<float*>(memory));
  if (has_bias) {
    __syncthreads();
    store_bucket_sums<T, Blocking>(place, to, buckets, occurring, reach, all_diagonals, block_sums);
  }
}

template <element T, int D, class Blocking>
__global__ __launch_bounds__(
    Blocking::threads,
    attention_backward_blocks<
        T, D, Blocking>) void attention_backward_kernel(const __grid_constant__ attention_inputs<T> in,
                                                        const __grid_constant__ attention_gradients<T> to,
                                                        const __grid_constant__ relative_buckets buckets,
                                                        int reach) {
  if (static_cast<int>(blockIdx.x) < to.key_blocks) {
    attention_key_gradients<T, D, Blocking>(in, to, buckets, reach);
  } else {
    attention_query_gradients<T, D, Blocking>(in, to, buckets, reach);
  }
}

/// sums [tokens, n_heads] of grad_context context, over each head's columns: a warp a token.
template <element T>
__global__ void attention_row_sums_kernel(matrix_view<const T> context, matrix_view<const T> grad_context,
                                          int d_kv, int n_heads, index_t tokens, float* sums) {
  constexpr int unit = 16 / static_cast<int>(sizeof(T));
  const index_t token = static_cast<index_t>(blockIdx.x) * (blockDim.x / warp_size) + threadIdx.x / warp_size;
  if (token >= tokens) return;
  const int lane = static_cast<int>(threadIdx.x) % warp_size;
  // A group of lanes takes a head: the least power of two that spans its columns.
  int group = 1;
  while (group * unit < d_kv) group *= 2;
  const int column = lane % group * unit;
  for (int first = 0; first < n_heads; first += warp_size / group) {
    const int head = first + lane / group;
    float dot = 0.0F;
    if (head < n_heads && column < d_kv) {
      float a[unit];
      float b[unit];
      load_pack(context.data + token * context.stride + head * d_kv + column, a);
      load_pack(grad_context.data + token * grad_context.stride + head * d_kv + column, b);
#pragma unroll
      for (int c = 0; c < unit; ++c) dot += a[c] * b[c];
    }
    for (int offset = group / 2; offset > 0; offset /= 2) dot += __shfl_xor_sync(all_lanes, dot, offset);
    if (column == 0 && head < n_heads) sums[token * n_heads + head] = dot;
  }
}

/// grad_bias[bucket, head] += the sums of all blocks of queries: one block a head, eight lanes a bucket.
inline constexpr int bucket_sum_threads = 256;
template <int Threads>
__global__ __launch_bounds__(Threads) void add_bucket_sums_kernel(const float* bucket_sums, int blocks,
                                                                  int n_buckets,
                                                                  matrix_view<float> grad_bias) {
  constexpr int parts = 8;
  constexpr int buckets = Threads / parts;
  __shared__ float shared[parts][buckets];
  wait_for_previous_grid();
  const int head = static_cast<int>(blockIdx.x);
  const int part = static_cast<int>(threadIdx.x) / buckets;
  const float* const from = bucket_sums + static_cast<index_t>(head) * blocks * n_buckets;
  for (int first = 0; first < n_buckets; first += buckets) {
    const int bucket = first + static_cast<int>(threadIdx.x) % buckets;
    float sum = 0.0F;
    if (bucket < n_buckets) {
#pragma unroll 4
      for (int block = part; block < blocks; block += parts) {
        sum += from[static_cast<index_t>(block) * n_buckets + bucket];
      }
    }
    __syncthreads();
    shared[part][bucket - first] = sum;
    __syncthreads();
    if (part != 0 || bucket >= n_buckets) continue;
    for (int i = 1; i < parts; ++i) sum += shared[i][bucket - first];
    grad_bias(bucket, head) += sum;
  }
}

template <element T, int D>
void launch_attention_backward(execution& e, const attention_inputs<T>& in, attention_gradients<T> to) {
  const bool has_bias = in.relative_bias != nullptr;
  const relative_buckets buckets =
      has_bias ? find_relative_buckets(in.mask == attention_mask::full, in.n_buckets, in.max_distance)
               : relative_buckets{};
  const int reach = bias_reach(in, buckets);
  const index_t longest = std::max(in.queries.max_length, in.keys.max_length);
  const auto shared_bytes = [&]<class Blocking>(Blocking) {
    return attention_backward_memory<T, D, Blocking>::bytes(has_bias, reach);
  };
  auto* const workspace = reinterpret_cast<float*>(
      e.workspace(attention_workspace_bytes(in.queries.batch, in.queries.max_length, in.keys.max_length,
                                            in.n_heads, in.d_kv, has_bias ? in.n_buckets : 0)));
  choose_blocking<attention_tile<T, D>::row_bytes, true>(
      longest, in.queries.batch, in.n_heads, /*prefers_whole=*/has_bias, shared_bytes,
      [&]<class Blocking>(Blocking blocking) {
        const index_t query_blocks = ceil_div(in.queries.max_length, Blocking::own_rows);
        to.key_blocks = static_cast<int>(ceil_div(in.keys.max_length, Blocking::own_rows));
        const index_t sums_of_head = in.queries.batch * query_blocks;
        if (Blocking::other_warps == 1 && in.queries.tokens > 0) {
          // Blocks of keys pass over long sequences of queries: row sums once, not once for each of them.
          float* const row_sums = workspace + sums_of_head * in.n_heads * (has_bias ? in.n_buckets : 0);
          constexpr int threads = 256;
          attention_row_sums_kernel<T>
              <<<static_cast<unsigned>(ceil_div(in.queries.tokens, threads / warp_size)), threads, 0,
                 e.stream()>>>(to.context, to.grad_context, static_cast<int>(in.d_kv),
                               static_cast<int>(in.n_heads), in.queries.tokens, row_sums);
          check(cudaGetLastError());
          to.row_sums = row_sums;
        }
        if (has_bias && sums_of_head > 1) to.bucket_sums = workspace;
        const int bytes = shared_bytes(blocking);
        const auto kernel = attention_backward_kernel<T, D, Blocking>;
        const dim3 grid(static_cast<unsigned>(to.key_blocks + query_blocks),
                        static_cast<unsigned>(in.n_heads), static_cast<unsigned>(in.queries.batch));
        launch(
            e, kernel,
            {.blocks = grid, .threads = Blocking::threads, .shared_bytes = bytes, .overlap = overlap_of(e)},
            in, to, buckets, reach);
        if (to.bucket_sums == nullptr) return;
        launch(e, add_bucket_sums_kernel<bucket_sum_threads>,
               {.blocks = dim3(static_cast<unsigned>(in.n_heads)),
                .threads = bucket_sum_threads,
                .overlap = launch_overlap::previous},
               static_cast<const float*>(to.bucket_sums), static_cast<int>(sums_of_head), to.n_buckets,
               to.grad_bias);
      });
}

}  // namespace detail

/// See the head of this file; grad_bias is not touched where there is no bias. Throws contract_error where
/// shapes do not agree.
template <element T>
void attention_backward(execution& e, const attention_inputs<T>& in, matrix_view<const T> context,
                        matrix_view<const float> log_sum_exp, matrix_view<const T> grad_context,
                        matrix_view<T> grad_query, matrix_view<T> grad_key, matrix_view<T> grad_value,
                        matrix_view<float> grad_bias) {
  detail::check_attention(in);
  const index_t inner_dim = in.n_heads * in.d_kv;
  const auto fits = [&](const auto& view, index_t tokens) {
    detail::check_rows(view, "cuda::attention_backward: rows are aligned to 16 bytes");
    return view.rows >= tokens && view.cols == inner_dim;
  };
  require(fits(context, in.queries.tokens) && fits(grad_context, in.queries.tokens) &&
              fits(grad_query, in.queries.tokens) && fits(grad_key, in.keys.tokens) &&
              fits(grad_value, in.keys.tokens),
          "cuda::attention_backward: contexts and gradients are [tokens, n_heads * d_kv]");
  require(log_sum_exp.rows >= in.queries.tokens && log_sum_exp.cols == in.n_heads,
          "cuda::attention_backward: log_sum_exp is [query tokens, n_heads]");
  require(in.relative_bias == nullptr || (grad_bias.rows == in.n_buckets && grad_bias.cols == in.n_heads),
          "cuda::attention_backward: grad_bias is [n_buckets, n_heads]");
  if (in.queries.batch == 0 || in.queries.tokens + in.keys.tokens == 0 || in.n_heads == 0) return;
  detail::attention_gradients<T> to;
  to.context = context;
  to.grad_context = grad_context;
  to.log_sum_exp = log_sum_exp;
  to.grad_query = grad_query;
  to.grad_key = grad_key;
  to.grad_value = grad_value;
  to.grad_bias = grad_bias;
  to.n_buckets = static_cast<int>(in.n_buckets);
  if (in.d_kv <= 64) {
    detail::launch_attention_backward<T, 64>(e, in, to);
  } else {
    detail::launch_attention_backward<T, 128>(e, in, to);
  }
}

template <element T>
void operations<T>::attention_backward(execution& e, const attention_inputs<T>& inputs,
                                       matrix_view<const T> context, matrix_view<const float> log_sum_exp,
                                       matrix_view<const T> grad_context, matrix_view<T> grad_query,
                                       matrix_view<T> grad_key, matrix_view<T> grad_value,
                                       matrix_view<float> grad_bias) {
  cuda::attention_backward<T>(e, inputs, context, log_sum_exp, grad_context, grad_query, grad_key, grad_value,
                              grad_bias);
}

}  // namespace t5zero::cuda
