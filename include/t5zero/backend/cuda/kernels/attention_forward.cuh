// context = dropout(softmax(q k^T + bias)) v and the scores' log-sum-exp, in one launch: key tiles go through
// shared memory, the softmax is kept as a running maximum and sum (Dao et al. 2022, "FlashAttention";
// Milakov and Gimelshein 2018, "Online normalizer calculation for softmax"), in powers of two.
//
// Shapes: attention_inputs<T> (backend/backend.hpp); context [query tokens, n_heads * d_kv], log_sum_exp
// [query tokens, n_heads]. d_kv: a multiple of 8, at most 128; 64 and 128 are tuned, others are padded to
// them in shared memory. Rows of the matrices are aligned to 16 bytes; they may be columns of wider ones. No
// aliasing. Overwrites; deterministic: who adds what in which order depends on the batch's host-side extents
// and the lengths alone. A query without keys has context 0 and log-sum-exp 0. Products run on tensor cores
// with fp32 sums; in fp32 each is three in TF32. One stream, no workspace.
//
// Measured on an H200, in a chain of graph nodes: t5-small, fp16, 48 tokens: 2.7 us (a launch, three
// dependent reads of the second-level cache, one tile); t5-large, fp32, 4 sequences of 35 to 80: 7.9. Floor
// of 4 x 1024 tokens, 16 heads, fp16 with dropout: 75 us, Philox and the exponentials of 67 million scores.
#pragma once

#include <cmath>

#include <t5zero/backend/backend.hpp>
#include <t5zero/backend/cuda/attention_blocking.hpp>
#include <t5zero/backend/cuda/execution.hpp>
#include <t5zero/backend/cuda/kernels/attention_sums.cuh>
#include <t5zero/backend/cuda/kernels/attention_tiles.cuh>
#include <t5zero/backend/cuda/kernels/distance_table.cuh>
#include <t5zero/backend/cuda/kernels/dropout_mask.cuh>
#include <t5zero/backend/cuda/kernels/grid_overlap.cuh>
#include <t5zero/backend/cuda/operations.hpp>
#include <t5zero/core/error.hpp>

namespace t5zero::cuda {

namespace detail {

/// Shared memory of a block: tiles, weights that are handed over, the warps' maxima (later the sums) of their
/// rows, the bias.
template <element T, int D, class Blocking>
struct attention_forward_memory {
  static constexpr int row_bytes = attention_tile<T, D>::row_bytes;
  static constexpr int tile_bytes =
      (Blocking::own_rows + Blocking::stages * 2 * Blocking::other_rows) * row_bytes;
  static constexpr int weights = tile_bytes;
  static constexpr int rows = weights + handed_weights<T, Blocking>::bytes;
  static constexpr int table = rows + (Blocking::hands_over ? Blocking::warps * 16 * 4 : 0);

  [[nodiscard]] static constexpr int bytes(bool has_bias, int reach) {
    return table + (has_bias ? distance_table::floats(reach) * 4 : 0);
  }
};

template <element T, int D, class Blocking>
__global__ __launch_bounds__(Blocking::threads) void attention_forward_kernel(
    const __grid_constant__ attention_inputs<T> in, matrix_view<T> context, matrix_view<float> log_sum_exp,
    const __grid_constant__ relative_buckets buckets, int reach) {
  using tile = attention_tile<T, D>;
  using memory_layout = attention_forward_memory<T, D, Blocking>;
  constexpr int own_rows = Blocking::own_rows;
  constexpr int other_rows = Blocking::other_rows;
  constexpr int chunks = Blocking::chunks;
  const attention_place<T> place(in);
  // The last queries see most keys: their blocks start first.
  const int block_query = static_cast<int>(gridDim.x - 1 - blockIdx.x) * own_rows;
  if (block_query >= place.n_queries) return wait_before_attention<T>();
  const int rows = min(own_rows, place.n_queries - block_query);
  const int end_key = place.causal ? min(place.n_keys, block_query + rows) : place.n_keys;
  const int d_kv = static_cast<int>(in.d_kv);

  unsigned char* const memory = dynamic_shared_memory();
  T* const query_tile = reinterpret_cast<T*>(memory);
  T* const other_tiles = query_tile + own_rows * D;  // [stages][key, value][other_rows, D]
  const auto copy_keys = [&](int stage, int first) {
    T* const to = other_tiles + stage * 2 * other_rows * D;
    const int count = min(other_rows, end_key - first);
    tile::template copy<other_rows, Blocking::threads>(to, place.row(in.key, place.first_key, first, d_kv),
                                                       in.key.stride, count, d_kv);
    tile::template copy<other_rows, Blocking::threads>(
        to + other_rows * D, place.row(in.value, place.first_key, first, d_kv), in.value.stride, count, d_kv);
  };
  const bool has_bias = in.relative_bias != nullptr;
  const distance_table bias{reinterpret_cast<float*>(memory + memory_layout::table), reach};
  if (has_bias) {
    bias.fill<Blocking::threads>(
        bias.occurring(block_query, block_query + own_rows, 0, (end_key + 15) / 16 * 16), in.relative_bias,
        static_cast<int>(in.n_heads), place.head, buckets);
  }

  wait_before_attention<T>();  // the bias is a weight: it was there before
  tile::template copy<own_rows, Blocking::threads>(
      query_tile, place.row(in.query, place.first_query, block_query, d_kv), in.query.stride, rows, d_kv);
  if (end_key > 0) copy_keys(0, 0);

  const int lane = static_cast<int>(threadIdx.x) % warp_size;
  const int warp = static_cast<int>(threadIdx.x) / warp_size;
  const int other_warp = warp % Blocking::other_warps;
  const int own_row = warp / Blocking::other_warps * 16;
  const int warp_query = block_query + own_row;
  // Keys before warp_end are seen by a query of this warp, those before visible[h] by row h of this lane.
  const int warp_end = own_row >= rows ? 0 : (place.causal ? min(end_key, warp_query + 16) : end_key);
  int visible[2];
  std::uint32_t token_row[2] = {};
  std::uint32_t token_position[2] = {};
  const dropout_mask dropout(in.dropout.for_head(place.head));
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const int query = warp_query + lane / 4 + 8 * h;
    visible[h] = place.causal ? min(end_key, query + 1) : end_key;
    if (dropout.active && query < place.n_queries) {
      token_row[h] = in.queries.rows[place.first_query + query];
      token_position[h] = in.queries.positions[place.first_query + query];
    }
  }

  wait_for_copies();
  __syncthreads();
  const attention_rows<T, D, true> queries(query_tile + own_row * D);
  const handed_weights<T, Blocking> handed{reinterpret_cast<uint4*>(memory + memory_layout::weights)};
  float* const of_rows = reinterpret_cast<float*>(memory + memory_layout::rows);  // [warps][16]
  share_of_sums<T, D, Blocking> sums;
  const int first_column = other_warp * share_columns<D, Blocking>;
  float maximum[2] = {-INFINITY, -INFINITY};  // of the scores times log2(e), those of all warps of the rows
  float total[2] = {0.0F, 0.0F};              // of this lane's columns
  int stage = 0;
  for (int first = 0; first < end_key; first += other_rows) {
    if (first > 0) {
      wait_for_copies();
      __syncthreads();
    }
    if (Blocking::stages == 2 && first + other_rows < end_key) copy_keys(1 - stage, first + other_rows);
    const T* const keys = other_tiles + stage * 2 * other_rows * D;
    const T* const values = keys + other_rows * D;
    const int warp_first = first + other_warp * 16;
    if (Blocking::hands_over || warp_first < warp_end) {
      float scores[chunks][8];
      float tile_maximum[2] = {-INFINITY, -INFINITY};
#pragma unroll
      for (int c = 0; c < chunks; ++c) {
        const int row = c * Blocking::other_warps * 16;
        const int key = warp_first + row;
        if (key >= warp_end) continue;
        multiply_rows(queries, keys + (other_warp * 16 + row) * D, scores[c]);
        const int column = key + lane % 4 * 4;
        const int base = has_bias ? bias.base(key, warp_query) + lane % 4 * 4 - lane / 4 : 0;
#pragma unroll
        for (int e = 0; e < 8; ++e) {
          const float b = has_bias ? bias.values[base + e % 4 - e / 4 * 8] : 0.0F;
          scores[c][e] = column + e % 4 < visible[e / 4] ? fmaf(scores[c][e], log2_e, b) : -INFINITY;
          tile_maximum[e / 4] = fmaxf(tile_maximum[e / 4], scores[c][e]);
        }
      }
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        tile_maximum[h] = fmaxf(tile_maximum[h], __shfl_xor_sync(all_lanes, tile_maximum[h], 1));
        tile_maximum[h] = fmaxf(tile_maximum[h], __shfl_xor_sync(all_lanes, tile_maximum[h], 2));
      }
      if constexpr (Blocking::hands_over) {
#pragma unroll
        for (int h = 0; h < 2; ++h) {
          if (lane % 4 == 0) of_rows[warp * 16 + lane / 4 + 8 * h] = tile_maximum[h];
        }
        __syncthreads();
#pragma unroll
        for (int h = 0; h < 2; ++h) {
#pragma unroll
          for (int w = 0; w < Blocking::other_warps; ++w)
            tile_maximum[h] = fmaxf(tile_maximum[h], of_rows[w * 16 + lane / 4 + 8 * h]);
        }
      }
      float subtrahend[2];
      float rescale[2];
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const float next = fmaxf(maximum[h], tile_maximum[h]);
        subtrahend[h] = next == -INFINITY ? 0.0F : next;  // no visible key so far: all powers are 0
        rescale[h] = power_of_two(maximum[h] - subtrahend[h]);
        maximum[h] = next;
        total[h] *= rescale[h];
      }
      if (first > 0) sums.scale(rescale);
#pragma unroll
      for (int c = 0; c < chunks; ++c) {
        const int row = c * Blocking::other_warps * 16;
        const int key = warp_first + row;
        if (key >= warp_end) continue;
#pragma unroll
        for (int e = 0; e < 8; ++e) {
          scores[c][e] = power_of_two(scores[c][e] - subtrahend[e / 4]);
          total[e / 4] += scores[c][e];
        }
        if (dropout.active) {
#pragma unroll
          for (int h = 0; h < 2; ++h) {
            float multipliers[4];
            dropout.multipliers(token_row[h], token_position[h],
                                static_cast<std::uint32_t>(key / 4 + lane % 4), multipliers);
#pragma unroll
            for (int i = 0; i < 4; ++i) scores[c][4 * h + i] *= multipliers[i];
          }
        }
        const attention_weights<T> weights(scores[c]);
        if constexpr (Blocking::hands_over)
          weights.store(handed.at(c * Blocking::other_warps + other_warp));
        else
          sums.add_product(weights, values + row * D, first_column);
      }
      if constexpr (Blocking::hands_over) {
        __syncthreads();
        handed.template add_products<4, D>(sums, values, first, warp_end, first_column);
      }
    }
    if constexpr (Blocking::stages == 2) {
      stage = 1 - stage;
    } else if (first + other_rows < end_key) {
      __syncthreads();
      copy_keys(0, first + other_rows);
    }
  }

#pragma unroll
  for (int h = 0; h < 2; ++h) {
    total[h] += __shfl_xor_sync(all_lanes, total[h], 1);
    total[h] += __shfl_xor_sync(all_lanes, total[h], 2);
  }
  if constexpr (Blocking::hands_over) {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      if (lane % 4 == 0) of_rows[warp * 16 + lane / 4 + 8 * h] = total[h];
    }
    __syncthreads();
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      total[h] = 0.0F;
#pragma unroll
      for (int w = 0; w < Blocking::other_warps; ++w) total[h] += of_rows[w * 16 + lane / 4 + 8 * h];
    }
  }
  float factor[2];
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const int row = own_row + lane / 4 + 8 * h;
    factor[h] = total[h] > 0.0F ? 1.0F / total[h] : 0.0F;
    if (other_warp == 0 && lane % 4 == 0 && row < rows) {
      log_sum_exp(place.first_query + block_query + row, place.head) =
          total[h] > 0.0F ? fmaf(maximum[h], ln_2, logf(total[h])) : 0.0F;
    }
  }
  sums.scale(factor);
  store_columns(sums, place.row(context, place.first_query, warp_query, d_kv), context.stride, rows - own_row,
                first_column, d_kv);
}

template <element T, int D>
void launch_attention_forward(execution& e, const attention_inputs<T>& in, matrix_view<T> context,
                              matrix_view<float> log_sum_exp) {
  const bool has_bias = in.relative_bias != nullptr;
  const relative_buckets buckets =
      has_bias ? find_relative_buckets(in.mask == attention_mask::full, in.n_buckets, in.max_distance)
               : relative_buckets{};
  const int reach = bias_reach(in, buckets);
  const auto shared_bytes = [&]<class Blocking>(Blocking) {
    return attention_forward_memory<T, D, Blocking>::bytes(has_bias, reach);
  };
  choose_blocking<attention_tile<T, D>::row_bytes>(
      in.queries.max_length, in.queries.tokens, in.queries.batch, in.n_heads, shared_bytes,
      [&]<class Blocking>(Blocking blocking) {
        const int bytes = shared_bytes(blocking);
        const auto kernel = attention_forward_kernel<T, D, Blocking>;
        const dim3 grid(static_cast<unsigned>(ceil_div(in.queries.max_length, Blocking::own_rows)),
                        static_cast<unsigned>(in.n_heads), static_cast<unsigned>(in.queries.batch));
        launch(
            e, kernel,
            {.blocks = grid, .threads = Blocking::threads, .shared_bytes = bytes, .overlap = overlap_of(e)},
            in, context, log_sum_exp, buckets, reach);
      });
}

}  // namespace detail

/// See the head of this file. Throws contract_error where shapes do not agree.
template <element T>
void attention_forward(execution& e, const attention_inputs<T>& in, matrix_view<T> context,
                       matrix_view<float> log_sum_exp) {
  detail::check_attention(in);
  require(context.rows >= in.queries.tokens && context.cols == in.n_heads * in.d_kv &&
              log_sum_exp.rows >= in.queries.tokens && log_sum_exp.cols == in.n_heads,
          "cuda::attention_forward: context is [query tokens, n_heads * d_kv], log_sum_exp [.., n_heads]");
  detail::check_rows(context, "cuda::attention_forward: rows of context are aligned to 16 bytes");
  if (in.queries.batch == 0 || in.queries.tokens == 0 || in.n_heads == 0) return;
  if (in.d_kv <= 64) {
    detail::launch_attention_forward<T, 64>(e, in, context, log_sum_exp);
  } else {
    detail::launch_attention_forward<T, 128>(e, in, context, log_sum_exp);
  }
}

template <element T>
void operations<T>::attention_forward(execution& e, const attention_inputs<T>& inputs, matrix_view<T> context,
                                      matrix_view<float> log_sum_exp) {
  cuda::attention_forward<T>(e, inputs, context, log_sum_exp);
}

}  // namespace t5zero::cuda
