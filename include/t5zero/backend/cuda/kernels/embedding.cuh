// Embedding rows and their gradient.
//
// forward: out[t] = mask(table[ids[t]]), T [V, d] to fp32 [tokens, d]; overwrites. An id outside the table,
// which nothing here can throw for, gives a row of NaN, so that the loss shows it. backward:
// grad_table[ids[t]] += mask(grad[t]), fp32; ids outside the table add nothing. Nothing overlaps.
// Deterministic without sorting: the block of a token looks for its id among the tokens before it. If the id
// is there, the block is done; otherwise it adds up all tokens of this id, in the order of the batch. Looking
// costs tokens^2 reads of 4 bytes from the L2 at worst: nothing for a batch of 1024, about 0.2 ms for one of
// 16384.
//
// Any row stride and alignment; one launch on the execution's stream.
//
// Floors at 4.27 TB/s (H200) and targets, 1024 tokens of 512 features, fp16 table: forward 3.1 MB, 0.7 us,
// target 2.5 us; backward at most 6.3 MB, 1.5 us, target 5 us.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include <t5zero/backend/cuda/check.hpp>
#include <t5zero/backend/cuda/execution.hpp>
#include <t5zero/backend/cuda/kernels/row_access.cuh>
#include <t5zero/backend/cuda/operations.hpp>

namespace t5zero::cuda {

namespace detail {

template <int Features, bool Packs, element T>
__global__ void __launch_bounds__(row_threads)
    embedding_forward_kernel(const std::int32_t* ids, const std::uint32_t* rows,
                             const std::uint32_t* positions, matrix_view<const T> table, dropout_site site,
                             matrix_view<float> out) {
  const index_t t = blockIdx.x;
  const int first = first_feature<Features>();
  const int available = static_cast<int>(table.cols) - first;
  if (available <= 0) return;
  const index_t id = ids[t];
  const bool is_known = id >= 0 && id < table.rows;
  const auto loaded =
      load_features<Features, Packs>(table.data + (is_known ? id : 0) * table.stride + first, available);
  float multiplier[Features];
  feature_multipliers(dropout_mask(site), rows, positions, t, first, multiplier);
  float value[Features];
  unpack(loaded, value);
#pragma unroll
  for (int i = 0; i < Features; ++i)
    value[i] = is_known ? value[i] * multiplier[i] : __int_as_float(0x7fffffff);
  store_features<Features, Packs>(out.data + t * out.stride + first, available, value);
}

inline constexpr int embedding_threads = 256;
/// Features of one block: four a thread. The threads divide into groups that take the tokens in turn where a
/// row has fewer.
inline constexpr index_t embedding_features = 4 * embedding_threads;
/// Ids that a block looks at before it waits for its threads.
inline constexpr int ids_per_look = 4 * embedding_threads;

template <int Threads, bool Packs>
__global__ void __launch_bounds__(Threads)
    embedding_backward_kernel(const std::int32_t* ids, int tokens, const std::uint32_t* rows,
                              const std::uint32_t* positions, dropout_site site,
                              matrix_view<const float> grad, matrix_view<float> grad_table,
                              int threads_per_group) {
  constexpr int looks = ids_per_look / Threads;
  constexpr int warps = Threads / warp_size;
  static_assert(looks * warps == warp_size, "one warp orders the findings of a look");
  __shared__ unsigned found[looks * warps];  // one bit for each id of a look
  __shared__ int same[ids_per_look];         // the tokens of this id, in order
  __shared__ int same_count;
  __shared__ float group_sums[Threads][4];

  const int t = static_cast<int>(blockIdx.x);
  const int thread = static_cast<int>(threadIdx.x);
  const int lane = thread % warp_size;
  const std::int32_t id = ids[t];
  if (id < 0 || id >= grad_table.rows) return;
  for (int begin = 0; begin < t; begin += ids_per_look) {
    bool is_here = false;
#pragma unroll
    for (int k = 0; k < looks; ++k) {
      const int other = begin + k * Threads + thread;
      is_here |= other < t && ids[other] == id;
    }
    if (__syncthreads_or(static_cast<int>(is_here)) != 0) return;
  }

  const dropout_mask mask(site);
  const int groups = Threads / threads_per_group;
  const int group = thread / threads_per_group;
  const int first = static_cast<int>(blockIdx.y * embedding_features) + thread % threads_per_group * 4;
  const int available = static_cast<int>(grad.cols) - first;
  const bool works = group < groups && available > 0;
  float sum[4] = {};
  for (int begin = t; begin < tokens; begin += ids_per_look) {
#pragma unroll
    for (int k = 0; k < looks; ++k) {
      const int other = begin + k * Threads + thread;
      const unsigned bits = __ballot_sync(all_lanes, other < tokens && ids[other] == id);
      if (lane == 0) found[k * warps + thread / warp_size] = bits;
    }
    __syncthreads();
    if (thread < warp_size) {
      unsigned bits = found[lane];
      int before = 0;  // tokens of this id in the words of the lanes before
      int count = __popc(bits);
#pragma unroll
      for (int offset = 1; offset < warp_size; offset *= 2) {
        const int other = __shfl_up_sync(all_lanes, count, offset);
        if (lane >= offset) count += other;
      }
      before = count - __popc(bits);
      for (; bits != 0; bits &= bits - 1) same[before++] = begin + lane * warp_size + __ffs(bits) - 1;
      if (lane == warp_size - 1) same_count = count;
    }
    __syncthreads();
    if (works) {
#pragma unroll 4
      for (int i = group; i < same_count; i += groups) {
        const index_t other = same[i];
        const auto value = load_features<4, Packs>(grad.data + other * grad.stride + first, available);
        float multiplier[4];
        feature_multipliers(mask, rows, positions, other, first, multiplier);
#pragma unroll
        for (int j = 0; j < 4; ++j) sum[j] += multiplier[j] * value.values[j];
      }
    }
    __syncthreads();  // before the next look overwrites `found` and `same`
  }
#pragma unroll
  for (int j = 0; j < 4; ++j) group_sums[thread][j] = sum[j];
  __syncthreads();
  if (group != 0 || !works) return;
  float* const to = grad_table.data + id * grad_table.stride + first;
  float total[4];
  unpack(load_features<4, Packs>(to, available), total);
  for (int g = 0; g < groups; ++g) {
#pragma unroll
    for (int j = 0; j < 4; ++j) total[j] += group_sums[g * threads_per_group + thread][j];
  }
  store_features<4, Packs>(to, available, total);
}

}  // namespace detail

template <element T>
void embedding_forward(execution& e, const std::int32_t* ids, const ragged_view& tokens,
                       matrix_view<const T> table, const dropout_site& site, matrix_view<float> out) {
  require(out.rows == tokens.tokens && out.cols == table.cols,
          "cuda::embedding_forward: the shapes do not agree");
  if (out.rows == 0 || out.cols == 0) return;
  constexpr int features = 4;
  const detail::row_grid grid(out.rows, out.cols, features);
  const bool packs = detail::takes_packs(table, features) && detail::takes_packs(out, features);
  detail::with_packs(packs, [&](auto whole) {
    detail::embedding_forward_kernel<features, whole()>
        <<<grid.blocks, grid.threads, 0, e.stream()>>>(ids, tokens.rows, tokens.positions, table, site, out);
  });
  check(cudaGetLastError());
}

inline void embedding_backward(execution& e, const std::int32_t* ids, const ragged_view& tokens,
                               const dropout_site& site, matrix_view<const float> grad,
                               matrix_view<float> grad_table) {
  require(grad.rows == tokens.tokens && grad.cols == grad_table.cols,
          "cuda::embedding_backward: the shapes do not agree");
  if (grad.rows == 0 || grad.cols == 0) return;
  constexpr int threads = detail::embedding_threads;
  const index_t threads_per_group = ceil_div(std::min(grad.cols, detail::embedding_features), 4);
  const dim3 blocks(static_cast<unsigned>(grad.rows),
                    static_cast<unsigned>(ceil_div(grad.cols, detail::embedding_features)));
  const bool packs = detail::takes_packs(grad, 4) && detail::takes_packs(grad_table, 4);
  detail::with_packs(packs, [&](auto whole) {
    detail::embedding_backward_kernel<threads, whole()>
        <<<blocks, threads, 0, e.stream()>>>(ids, static_cast<int>(grad.rows), tokens.rows, tokens.positions,
                                             site, grad, grad_table, static_cast<int>(threads_per_group));
  });
  check(cudaGetLastError());
}

template <element T>
void operations<T>::embedding_forward(execution& e, const std::int32_t* ids, const ragged_view& tokens,
                                      matrix_view<const T> table, const dropout_site& site,
                                      matrix_view<float> out) {
  cuda::embedding_forward<T>(e, ids, tokens, table, site, out);
}
template <element T>
void operations<T>::embedding_backward(execution& e, const std::int32_t* ids, const ragged_view& tokens,
                                       const dropout_site& site, matrix_view<const float> grad,
                                       matrix_view<float> grad_table) {
  cuda::embedding_backward(e, ids, tokens, site, grad, grad_table);
}

}  // namespace t5zero::cuda
