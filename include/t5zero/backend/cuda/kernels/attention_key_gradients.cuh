// A block of attention_backward that owns keys and passes over the queries.
#pragma once

#include <cstdint>

#include <t5zero/backend/backend.hpp>
#include <t5zero/backend/cuda/kernels/attention_gradients.cuh>
#include <t5zero/backend/cuda/kernels/attention_sums.cuh>
#include <t5zero/backend/cuda/kernels/attention_tiles.cuh>
#include <t5zero/backend/cuda/kernels/distance_table.cuh>
#include <t5zero/backend/cuda/kernels/dropout_mask.cuh>
#include <t5zero/backend/cuda/kernels/grid_overlap.cuh>

namespace t5zero::cuda::detail {

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
  if (block_key >= place.n_keys) return wait_before_attention<T>(to.bucket_sums != nullptr);
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

  wait_before_attention<T>(to.bucket_sums != nullptr);  // the bias is a weight: it was there before
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
  const attention_rows<T, D, false> values(own_tiles + (own_rows + own_row) * D);
  using weights_type = handed_weights<T, Blocking>;
  const weights_type value_weights{reinterpret_cast<uint4*>(memory + memory_layout::scratch)};
  const weights_type key_weights{reinterpret_cast<uint4*>(memory + memory_layout::weights)};
  share_of_sums<T, D, Blocking> key_sums;
  share_of_sums<T, D, Blocking> value_sums;
  const int first_column = other_warp * share_columns<D, Blocking>;
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
    const auto counts = [&](int row) {
      return own_row < rows && first + row < place.n_queries &&
             (!place.causal || first + row + 15 >= warp_key);
    };
#pragma unroll 1
    for (int c = 0; c < Blocking::chunks; ++c) {
      const int row = (c * Blocking::other_warps + other_warp) * 16;
      const int query = first + row;
      if (!counts(row)) continue;
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
      if constexpr (Blocking::hands_over) {
        attention_weights<T>(scores).store(value_weights.at(row / 16));
        attention_weights<T>(grad_scores).store(key_weights.at(row / 16));
      } else {
        value_sums.add_product(attention_weights<T>(scores), gradients + row * D, first_column);
        key_sums.add_product(attention_weights<T>(grad_scores), queries + row * D, first_column);
      }
    }
    if constexpr (Blocking::hands_over) {
      __syncthreads();
#pragma unroll 2
      for (int i = 0; i < weights_type::tiles; ++i) {
        if (!counts(i * 16)) continue;
        attention_weights<T> weights;
        weights.load(value_weights.at(i));
        value_sums.add_product(weights, gradients + i * 16 * D, first_column);
        weights.load(key_weights.at(i));
        key_sums.add_product(weights, queries + i * 16 * D, first_column);
      }
    }
    if constexpr (Blocking::stages == 2) {
      stage = 1 - stage;
    } else if (first + other_rows < place.n_queries) {
      __syncthreads();
      copy_queries(0, first + other_rows);
    }
  }
  store_columns(key_sums, place.row(to.grad_key, place.first_key, warp_key, d_kv), to.grad_key.stride,
                rows - own_row, first_column, d_kv);
  store_columns(value_sums, place.row(to.grad_value, place.first_key, warp_key, d_kv), to.grad_value.stride,
                rows - own_row, first_column, d_kv);
}

}  // namespace t5zero::cuda::detail
