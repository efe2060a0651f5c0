// A search in the device's memory (backend/search.hpp), advanced by one token.
//
// rank_tokens: scores fp32 and ids int32 [rows, count] get the count best next tokens of rows of logits fp32
// [rows, vocabulary], descending, ties to the lower id, by log probability; the end is forbidden while a row
// is shorter than the rules' min_length. count <= 128, overwrites. In a search without beams (count 1, by
// logit) the row goes on with its best token at once: scores and ids stay as they are.
// The eight blocks of a cluster take a row of up to 32768 tokens, in registers: each picks the best of its
// part as top_candidates does, by logit, and the first ranks what all have picked by counting what is before
// each.
// Longer rows, more candidates, or a GPU without clusters: a block takes a row.
//
// advance_search, of beams: a block takes a sentence. Its beams' candidates are ranked by counting those
// before each; one thread makes the choices, as the host does; then each thread moves positions of the key
// table, whose entries of all beams it holds at a time. Sentences that are closed change nothing.
//
// Deterministic; one launch each, which may overlap the kernel before; no workspace.
// On an H200, in a step of t5-small (how much later it ends than the kernel in front): rank_tokens of 4 rows
// of 32128, 1 candidate 2.4 us, of 16 rows, 8 candidates 12 us; advance_search of 4 sentences 1.1 us, with 4
// beams each 3.7 us.
#pragma once

#include <cmath>
#include <cstdint>

#include <t5zero/backend/cuda/execution.hpp>
#include <t5zero/backend/cuda/kernels/block_row.cuh>
#include <t5zero/backend/cuda/kernels/cluster.cuh>
#include <t5zero/backend/cuda/kernels/grid_overlap.cuh>
#include <t5zero/backend/cuda/kernels/row_access.cuh>
#include <t5zero/backend/cuda/kernels/top_candidates.cuh>
#include <t5zero/backend/cuda/operations.hpp>
#include <t5zero/backend/search.hpp>

namespace t5zero::cuda {

namespace detail {

/// The value of ordered_bits.
[[nodiscard]] __device__ inline float value_of_ordered_bits(std::uint32_t bits) {
  return __uint_as_float((bits & 0x80000000U) != 0 ? bits ^ 0x80000000U : ~bits);
}

/// Greedy search: sentence b, which is not closed, goes on with the token of this key, or fails if there is
/// none. By one thread.
__device__ inline void extend_with_key(const search_arrays& search, const search_rules& rules, index_t b,
                                       std::uint64_t key) {
  const float score = key == 0 ? NAN : value_of_ordered_bits(static_cast<std::uint32_t>(key >> 32));
  t5zero::detail::extend_greedy(search, rules, b, score, id_of_candidate(key));
}

template <bool Resident, bool Packs>
__global__ void __launch_bounds__(block_row_threads, 1)
    rank_tokens_kernel(const __grid_constant__ search_arrays search, index_t first_row,
                       matrix_view<const float> logits, matrix_view<float> scores,
                       matrix_view<std::int32_t> ids) {
  constexpr int threads = block_row_threads;
  __shared__ float shared[threads / warp_size];
  let_next_grid_start();
  wait_for_previous_grid();
  const index_t r = blockIdx.x;
  const int cols = static_cast<int>(logits.cols);
  block_row<Resident, Packs> row(logits.data + r * logits.stride, cols);
  const bool ends = search.key_counts[first_row + r] >= search.rules->min_length;
  const int forbidden = ends ? -1 : search.rules->end_id;
  const bool is_closed = search.beams == 1 && search.states[first_row + r].closed != 0;
  const float shift = search.beams > 1 ? log_sum_of_exponentials(row, shared) : 0.0F;
  const auto ordered = [&](float value, int column) {
    return ordered_bits(column == forbidden ? -INFINITY : value - shift);
  };
  if constexpr (Resident) {
    row.for_each([&](int first, float(&loaded)[4]) {
#pragma unroll
      for (int i = 0; i < 4; ++i) loaded[i] = __uint_as_float(ordered(loaded[i], first + i));
    });
  }
  pick_best<Packs>(
      row, cols, static_cast<int>(scores.cols),
      [&](float loaded, int column) { return Resident ? __float_as_uint(loaded) : ordered(loaded, column); },
      [&](int i, std::uint64_t key) {
        if (search.beams == 1) {
          if (!is_closed) extend_with_key(search, *search.rules, first_row + r, key);
          return;
        }
        ids.data[r * ids.stride + i] = id_of_candidate(key);
        scores.data[r * scores.stride + i] = value_of_ordered_bits(static_cast<std::uint32_t>(key >> 32));
      });
}

inline constexpr int rank_parts = 8;
inline constexpr int rank_threads = 256;
inline constexpr int rank_packs = 4;
/// Of a row that is divided.
inline constexpr index_t most_divided_tokens = index_t{4} * rank_parts * rank_threads * rank_packs;
inline constexpr int most_divided_candidates = rank_threads / rank_parts;

/// Grid: a cluster of rank_parts blocks for each row.
template <bool Packs>
__global__ void __launch_bounds__(rank_threads)
    rank_divided_kernel(const __grid_constant__ search_arrays search, index_t first_row,
                        matrix_view<const float> logits, matrix_view<float> scores,
                        matrix_view<std::int32_t> ids) {
  constexpr int warps = rank_threads / warp_size;
  __shared__ float shared[warps];
  __shared__ std::uint64_t best_of_warps[2][warps];
  // Written by the cluster's blocks: maxima and sums of exponentials of the parts; the keys that they picked.
  __shared__ __align__(8) float statistics[rank_parts][2];
  __shared__ std::uint64_t picked[rank_parts * most_divided_candidates];
  __shared__ std::uint64_t exchanged;
  let_next_grid_start();
  const int part = static_cast<int>(blockIdx.x) % rank_parts;
  const int count = static_cast<int>(scores.cols);
  expect_stores(&exchanged,
                part == 0 ? rank_parts * static_cast<int>(sizeof(std::uint64_t)) * (1 + count) : 0);
  arrive_at_cluster();
  const auto r = static_cast<index_t>(blockIdx.x / rank_parts);
  const int cols = static_cast<int>(logits.cols);
  const int part_cols = (cols + 4 * rank_parts - 1) / (4 * rank_parts) * 4;
  const int begin = part * part_cols;
  const int available = max(0, min(part_cols, cols - begin));
  const int thread = static_cast<int>(threadIdx.x);
  const auto column = [&](int p) { return (p * rank_threads + thread) * 4; };
  wait_for_previous_grid();

  pack<float, 4> loaded[rank_packs];
  const float* const from = logits.data + r * logits.stride + begin;
#pragma unroll
  for (int p = 0; p < rank_packs; ++p)
    loaded[p] = load_features<4, Packs>(from + column(p), available - column(p));
  const search_rules rules = *search.rules;
  const bool is_closed = search.beams == 1 && part == 0 && search.states[first_row + r].closed != 0;
  const bool ends = search.key_counts[first_row + r] >= rules.min_length;
  const int forbidden = ends ? -1 : rules.end_id - begin;
  float values[rank_packs][4];
#pragma unroll
  for (int p = 0; p < rank_packs; ++p) {
#pragma unroll
    for (int i = 0; i < 4; ++i) values[p][i] = column(p) + i < available ? loaded[p].values[i] : -INFINITY;
  }
  float maximum = -INFINITY;
  float sum = 0.0F;
  if (search.beams > 1) {
#pragma unroll
    for (const auto& four : values) {
#pragma unroll
      for (const float value : four) maximum = fmaxf(maximum, value);
    }
    maximum = block_max<rank_threads>(maximum, shared);
    if (maximum > -INFINITY) {
#pragma unroll
      for (const auto& four : values) {
#pragma unroll
        for (const float value : four) sum += expf(value - maximum);
      }
    }
    sum = block_sum<rank_threads>(sum, shared);
  }
  wait_for_cluster();
  if (thread == 0)
    send_to_peer(&statistics[part], 0, uint2{__float_as_uint(maximum), __float_as_uint(sum)}, &exchanged);
  std::uint32_t bits[rank_packs][4];  // 0: none
#pragma unroll
  for (int p = 0; p < rank_packs; ++p) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float value = column(p) + i == forbidden ? -INFINITY : values[p][i];
      bits[p][i] = column(p) + i < available ? ordered_bits(value) : 0;
    }
  }

  // Ids ascend with the place, so the first of a thread's equal values is its best.
  const auto best_left = [&] {
    std::uint32_t best_bits = 0;
    int best_column = 0;
#pragma unroll
    for (int p = 0; p < rank_packs; ++p) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        if (bits[p][i] <= best_bits) continue;
        best_bits = bits[p][i];
        best_column = column(p) + i;
      }
    }
    return best_bits == 0 ? std::uint64_t{0} : candidate_key(best_bits, begin + best_column);
  };
  const int warp = thread / warp_size;
  const int lane = thread % warp_size;
  std::uint64_t best = best_left();
  std::uint64_t best_of_warp = warp_max_key(best);
  for (int i = 0; i < count; ++i) {
    if (lane == 0) best_of_warps[i % 2][warp] = best_of_warp;
    __syncthreads();
    std::uint64_t key = 0;
#pragma unroll
    for (int w = 0; w < warps; ++w) key = max(key, best_of_warps[i % 2][w]);
    if (thread == 0)
      send_to_peer(&picked[part * count + i], 0,
                   uint2{static_cast<unsigned>(key), static_cast<unsigned>(key >> 32)}, &exchanged);
    if (i + 1 == count || key == 0 || best_of_warp != key) continue;
    if (best == key) {
      const int id = id_of_candidate(key) - begin;
#pragma unroll
      for (int p = 0; p < rank_packs; ++p) {
#pragma unroll
        for (int j = 0; j < 4; ++j)
          if (column(p) + j == id) bits[p][j] = 0;
      }
      best = best_left();
    }
    best_of_warp = warp_max_key(best);
  }
  if (part > 0) return;
  wait_for_stores(&exchanged);
  if (search.beams == 1) {
    if (thread > 0 || is_closed) return;
    best = 0;
#pragma unroll
    for (int i = 0; i < rank_parts; ++i) best = max(best, picked[i]);
    return extend_with_key(search, rules, first_row + r, best);
  }
  if (thread >= rank_parts * count) return;
  const std::uint64_t own = picked[thread];
  int place = 0;
  for (int i = 0; i < rank_parts * count; ++i) place += picked[i] > own ? 1 : 0;
  if (own == 0 || place >= count) return;
  float whole = -INFINITY;
#pragma unroll
  for (const auto& one : statistics) whole = fmaxf(whole, one[0]);
  float total = 0.0F;
#pragma unroll
  for (const auto& one : statistics) total += one[1] * expf(one[0] - whole);
  const float shift = whole + logf(total);
  ids.data[r * ids.stride + place] = id_of_candidate(own);
  scores.data[r * scores.stride + place] =
      value_of_ordered_bits(static_cast<std::uint32_t>(own >> 32)) - shift;
}

inline constexpr int search_threads = 128;

template <int Threads>
__global__ void __launch_bounds__(Threads)
    advance_search_kernel(const __grid_constant__ search_arrays search, matrix_view<const float> scores,
                          matrix_view<const std::int32_t> ids) {
  constexpr int most_merged = 2 * most_search_beams;
  __shared__ std::uint64_t keys[most_search_beams * most_merged];
  __shared__ beam_candidate merged[most_merged];
  __shared__ std::int32_t chosen[most_search_beams];
  __shared__ std::int32_t parents[most_search_beams];
  __shared__ index_t held[most_search_beams * Threads];
  __shared__ search_hypothesis finished[most_search_beams];
  __shared__ search_sentence state;
  let_next_grid_start();
  wait_for_previous_grid();
  const index_t b = blockIdx.x;
  const int thread = static_cast<int>(threadIdx.x);
  const search_rules rules = *search.rules;
  const search_sentence before = search.states[b];
  const auto beams = static_cast<int>(search.beams);
  const auto cols = static_cast<int>(scores.cols);
  const int count = beams * cols;
  const auto candidate = [&](int i) {
    const int k = i / cols;
    const index_t row = b * beams + k;
    const float score = search.scores[row] + scores.data[row * scores.stride + i % cols];
    return beam_candidate{isnan(score) ? -INFINITY : score, k, ids.data[row * ids.stride + i % cols]};
  };
  beam_candidate own{};  // read before it is known whether the sentence is closed
  if (thread < count) own = candidate(thread);
  if (before.closed != 0) return;
  // One number in the candidates' order: by score, then the lower beam and id.
  for (int i = thread; i < count; i += Threads) {
    if (i > thread) own = candidate(i);
    keys[i] = candidate_key(ordered_bits(own.score), own.beam << 27 | own.id);
  }
  if (thread < beams) finished[thread] = search.finished[b * beams + thread];
  const index_t length = before.length;
  const search_penalties penalties = search_penalties::of(rules, length);
  __syncthreads();
  const int wanted = min(2 * beams, count);
  for (int i = thread; i < count; i += Threads) {
    const std::uint64_t key = keys[i];
    int place = 0;
#pragma unroll 8
    for (int j = 0; j < count; ++j) place += keys[j] > key ? 1 : 0;
    if (place >= wanted) continue;
    const int id = id_of_candidate(key);
    merged[place] = {value_of_ordered_bits(static_cast<std::uint32_t>(key >> 32)), id >> 27,
                     id & ((1 << 27) - 1)};
  }
  __syncthreads();
  if (thread == 0) {
    state = before;
    choose_beams(rules, length, penalties, merged, wanted, state, finished, chosen,
                 t5zero::detail::keep_end{search, b});
    if (state.closed == 0) {
      ++state.length;
      for (int k = 0; k < beams; ++k) parents[k] = merged[chosen[k]].beam;
    } else {
      search.tell_closed(b);
    }
    search.states[b] = state;
  }
  __syncthreads();
  if (thread < beams) search.finished[b * beams + thread] = finished[thread];
  if (state.closed != 0) return;
  for (index_t j = thread; j < length; j += Threads)
    t5zero::detail::inherit_keys(search, b, parents, j, held + thread, Threads);
  if (thread >= beams) return;
  const beam_candidate next = merged[chosen[thread]];
  search.scores[b * beams + thread] = next.score;
  t5zero::detail::extend_row(search, b, thread, length, next.beam, next.id);
}

}  // namespace detail

template <element T>
void operations<T>::rank_tokens(execution& e, const search_arrays& search, index_t first_row,
                                matrix_view<float> logits, matrix_view<float> scores,
                                matrix_view<std::int32_t> ids) {
  require(scores.rows == logits.rows && ids.rows == logits.rows && ids.cols == scores.cols &&
              scores.cols <= logits.cols && scores.cols <= detail::most_picked_candidates &&
              (search.beams > 1 || scores.cols == 1) && first_row + logits.rows <= search.rows(),
          "cuda::rank_tokens: the shapes do not agree");
  if (scores.rows == 0 || scores.cols == 0) return;
  if (logits.cols <= detail::most_divided_tokens && scores.cols <= detail::most_divided_candidates &&
      detail::takes_clusters(e, detail::rank_divided_kernel<false>)) {
    detail::with_packs(detail::takes_packs(logits, 4), [&](auto whole) {
      detail::launch(e, detail::rank_divided_kernel<whole()>,
                     {.blocks = dim3(static_cast<unsigned>(logits.rows * detail::rank_parts)),
                      .threads = detail::rank_threads,
                      .cluster = detail::rank_parts,
                      .overlap = overlap_of(e)},
                     search, first_row, matrix_view<const float>(logits), scores, ids);
    });
    return;
  }
  detail::with_block_row(logits.cols, detail::takes_packs(logits, 4), [&](auto resident, auto whole) {
    detail::launch(e, detail::rank_tokens_kernel<resident(), whole()>,
                   {.blocks = dim3(static_cast<unsigned>(logits.rows)),
                    .threads = detail::block_row_threads,
                    .overlap = overlap_of(e)},
                   search, first_row, matrix_view<const float>(logits), scores, ids);
  });
}

template <element T>
void operations<T>::advance_search(execution& e, const search_arrays& search, matrix_view<const float> scores,
                                   matrix_view<const std::int32_t> ids) {
  require(scores.rows == search.rows() && ids.rows == search.rows() && ids.cols == scores.cols &&
              scores.cols >= 1 && search.beams > 1 && search.beams <= most_search_beams &&
              scores.cols <= 2 * most_search_beams,
          "cuda::advance_search: the shapes do not agree");
  if (search.sentences == 0) return;
  detail::launch(e, detail::advance_search_kernel<detail::search_threads>,
                 {.blocks = dim3(static_cast<unsigned>(search.sentences)),
                  .threads = detail::search_threads,
                  .overlap = overlap_of(e)},
                 search, scores, ids);
}

}  // namespace t5zero::cuda
