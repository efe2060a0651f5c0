// A block of attention_backward that owns queries and passes over the keys; it also sums its part of the
// gradient of the relative bias.
#pragma once

#include <cstdint>

#include <t5zero/backend/backend.hpp>
#include <t5zero/backend/cuda/kernels/attention_gradients.cuh>
#include <t5zero/backend/cuda/kernels/attention_sums.cuh>
#include <t5zero/backend/cuda/kernels/attention_tiles.cuh>
#include <t5zero/backend/cuda/kernels/distance_table.cuh>
#include <t5zero/backend/cuda/kernels/dropout_mask.cuh>
#include <t5zero/backend/cuda/kernels/grid_overlap.cuh>
#include <t5zero/backend/cuda/kernels/relative_bias.cuh>

namespace t5zero::cuda::detail {

/// Adds the 31 diagonals of a warp's 16 x 16 scores (rows: queries, columns: keys) to its sums by distance,
/// of which diagonals[15] is that of the first key and the first query.
__device__ inline void add_diagonals(const float (&scores)[8], float* scratch, float* diagonals) {
  const int lane = static_cast<int>(threadIdx.x) % warp_size;
  __syncwarp();
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    *reinterpret_cast<float4*>(scratch + (lane / 4 + 8 * h) * score_stride + lane % 4 * 4) =
        float4{scores[4 * h], scores[4 * h + 1], scores[4 * h + 2], scores[4 * h + 3]};
  }
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
    wait_before_attention<T>(to.bucket_sums != nullptr);
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

  wait_before_attention<T>(to.bucket_sums != nullptr);  // the bias is a weight: it was there before
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
  const attention_rows<T, D, false> gradients(own_tiles + (own_rows + own_row) * D);
  float* const scratch = reinterpret_cast<float*>(memory + memory_layout::scratch) + warp * score_floats;
  const handed_weights<T, Blocking> handed{reinterpret_cast<uint4*>(memory + memory_layout::weights)};
  share_of_sums<T, D, Blocking> sums;
  const int first_column = other_warp * share_columns<D, Blocking>;
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
      const attention_weights<T> weights(grad_scores);
      if constexpr (Blocking::hands_over)
        weights.store(handed.at(row / 16));
      else
        sums.add_product(weights, keys + row * D, first_column);
      if (has_bias) add_diagonals(grad_scores, scratch, diagonals + base - 15);
    }
    if constexpr (Blocking::hands_over) {
      __syncthreads();
      handed.template add_products<2, D>(sums, keys, first, warp_end, first_column);
    }
    if constexpr (Blocking::stages == 2) {
      stage = 1 - stage;
    } else if (first + other_rows < end_key) {
      __syncthreads();
      copy_keys(0, first + other_rows);
    }
  }
  store_columns(sums, place.row(to.grad_query, place.first_query, warp_query, d_kv), to.grad_query.stride,
                rows - own_row, first_column, d_kv);
  if (has_bias) {
    __syncthreads();
    store_bucket_sums<T, Blocking>(place, to, buckets, occurring, reach, all_diagonals, block_sums);
  }
}

}  // namespace t5zero::cuda::detail
