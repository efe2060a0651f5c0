// Attention of one query for each row over keys and values of a cache: a step of a generation. Also the copy
// of a step's keys and values into that cache.
//
// decode_attention: context [rows, n_heads * d_kv] = softmax(q k^T + bias) v, overwritten; keys and values
// are rows of any matrix, named by decode_keys (backend/backend.hpp), whose arrays are the device's. d_kv: a
// multiple of 8, at most 128; rows aligned to 16 bytes. No aliasing. Rows without keys get zeros. fp32
// arithmetic. A block takes a (row, head): eight lanes share a key's product, so that a warp reads four keys
// at a time by 16-byte accesses; the scores stay in shared memory; then threads share the values' columns,
// each over every few keys. Deterministic: sums in an order that depends on the number of keys alone. One
// launch each, no workspace. Bytes: a row's keys and values once. t5-small, 16 rows, 64 keys, fp16: 2.1 MB
// from the L2, floor 0.4 us, target 2.5.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include <t5zero/backend/backend.hpp>
#include <t5zero/backend/cuda/check.hpp>
#include <t5zero/backend/cuda/execution.hpp>
#include <t5zero/backend/cuda/kernels/element.cuh>
#include <t5zero/backend/cuda/kernels/relative_bias.cuh>
#include <t5zero/backend/cuda/operations.hpp>

namespace t5zero::cuda {

namespace detail {

inline constexpr int decode_threads = 128;
inline constexpr int decode_lanes = 8;  ///< that share a key
inline constexpr index_t decode_most_keys = 8192;

template <element T>
__global__ void __launch_bounds__(decode_threads)
    decode_attention_kernel(const __grid_constant__ decode_attention_inputs<T> in, matrix_view<T> context,
                            const __grid_constant__ relative_buckets buckets) {
  constexpr int width = 16 / static_cast<int>(sizeof(T));  // elements of an access
  constexpr int most_packs = 128 / width / decode_lanes;
  extern __shared__ float scores[];  // [max_count rounded up to 4, then width * decode_threads]
  __shared__ float reduced[decode_threads / warp_size];
  const index_t row = blockIdx.x;
  const int head = static_cast<int>(blockIdx.y);
  const int d = static_cast<int>(in.d_kv);
  const int packs = d / width;
  const int n = static_cast<int>(in.keys.count(row));
  const int lane = static_cast<int>(threadIdx.x) % decode_lanes;

  float query[most_packs][width] = {};
  const T* const from = in.query.data + row * in.query.stride + head * d;
#pragma unroll
  for (int p = 0; p < most_packs; ++p) {
    if (lane + p * decode_lanes < packs) load_pack(from + (lane + p * decode_lanes) * width, query[p]);
  }
  float largest = -INFINITY;
  constexpr int keys_at_a_time = decode_threads / decode_lanes;
  for (int first = 0; first < n; first += keys_at_a_time) {  // all lanes of a warp stay together
    const int j = first + static_cast<int>(threadIdx.x) / decode_lanes;
    float dot = 0.0F;
    if (j < n) {
      const T* const key = in.key.data + in.keys.at(row, j) * in.key.stride + head * d;
#pragma unroll
      for (int p = 0; p < most_packs; ++p) {
        if (lane + p * decode_lanes >= packs) continue;
        float values[width];
        load_pack(key + (lane + p * decode_lanes) * width, values);
#pragma unroll
        for (int i = 0; i < width; ++i) dot += query[p][i] * values[i];
      }
    }
#pragma unroll
    for (int offset = decode_lanes / 2; offset > 0; offset /= 2)
      dot += __shfl_xor_sync(all_lanes, dot, offset);
    if (j >= n) continue;
    if (in.relative_bias != nullptr)
      dot += to_float(in.relative_bias[buckets.bucket(j - (n - 1)) * in.n_heads + head]);
    if (lane == 0) scores[j] = dot;
    largest = fmaxf(largest, dot);
  }
  largest = block_max<decode_threads>(largest, reduced);
  float sum = 0.0F;
  for (int j = static_cast<int>(threadIdx.x); j < n; j += decode_threads) {
    const float p = __expf(scores[j] - largest);
    scores[j] = p;
    sum += p;
  }
  sum = block_sum<decode_threads>(sum, reduced);  // its barriers also make the scores visible

  // Each thread: one access of columns, every few keys.
  float* const partial = scores + round_up(in.keys.max_count, 4);
  const int sharers = decode_threads / packs;
  const int column = static_cast<int>(threadIdx.x) % packs;
  const int share = static_cast<int>(threadIdx.x) / packs;
  float result[width] = {};
  if (share < sharers) {
    for (int j = share; j < n; j += sharers) {
      float values[width];
      load_pack(in.value.data + in.keys.at(row, j) * in.value.stride + head * d + column * width, values);
      const float p = scores[j];
#pragma unroll
      for (int i = 0; i < width; ++i) result[i] += p * values[i];
    }
#pragma unroll
    for (int i = 0; i < width; ++i) partial[(share * packs + column) * width + i] = result[i];
  }
  __syncthreads();
  if (share != 0) return;
  const float scale = n > 0 ? 1.0F / sum : 0.0F;
#pragma unroll
  for (int i = 0; i < width; ++i) {
    float total = 0.0F;
    for (int s = 0; s < sharers; ++s) total += partial[(s * packs + column) * width + i];
    result[i] = total * scale;
  }
  store_pack(context.data + row * context.stride + head * d + column * width, result);
}

template <element T>
__global__ void scatter_rows_kernel(matrix_view<const T> from, const index_t* rows, matrix_view<T> to) {
  constexpr int width = 16 / static_cast<int>(sizeof(T));
  const index_t column = (static_cast<index_t>(blockIdx.y) * blockDim.x + threadIdx.x) * width;
  if (column >= from.cols) return;
  const index_t row = blockIdx.x;
  *reinterpret_cast<pack<T, width>*>(to.data + rows[row] * to.stride + column) =
      *reinterpret_cast<const pack<T, width>*>(from.data + row * from.stride + column);
}

/// Do rows and columns of `width` elements begin at multiples of 16 bytes?
template <class U>
[[nodiscard]] bool has_aligned_rows(const matrix_view<U>& m) {
  return reinterpret_cast<std::uintptr_t>(m.data) % 16 == 0 &&
         m.stride * static_cast<index_t>(sizeof(U)) % 16 == 0;
}

}  // namespace detail

template <element T>
void decode_attention(execution& e, const decode_attention_inputs<T>& in, matrix_view<T> context) {
  const index_t inner = in.n_heads * in.d_kv;
  require(in.d_kv % 8 == 0 && in.d_kv > 0 && in.d_kv <= 128,
          "cuda::decode_attention: d_kv is a multiple of 8, at most 128");
  require(in.query.cols == inner && in.key.cols == inner && in.value.cols == inner && context.cols == inner &&
              context.rows == in.query.rows,
          "cuda::decode_attention: the shapes do not agree");
  require(detail::has_aligned_rows(in.query) && detail::has_aligned_rows(in.key) &&
              detail::has_aligned_rows(in.value) && detail::has_aligned_rows(context),
          "cuda::decode_attention: rows begin at multiples of 16 bytes");
  require(in.keys.max_count <= detail::decode_most_keys, "cuda::decode_attention: more than 8192 keys");
  if (in.query.rows == 0) return;
  constexpr index_t width = 16 / static_cast<index_t>(sizeof(T));
  const relative_buckets buckets =
      in.relative_bias == nullptr
          ? relative_buckets{}
          : find_relative_buckets(/*bidirectional=*/false, in.n_buckets, in.max_distance);
  const index_t floats = round_up(in.keys.max_count, 4) + width * detail::decode_threads;
  const dim3 blocks(static_cast<unsigned>(in.query.rows), static_cast<unsigned>(in.n_heads));
  detail::decode_attention_kernel<T>
      <<<blocks, detail::decode_threads, static_cast<std::size_t>(floats) * 4, e.stream()>>>(in, context,
                                                                                             buckets);
  check(cudaGetLastError());
}

/// to[rows[t]] = from[t]; cols a multiple of 8, rows aligned to 16 bytes.
template <element T>
void scatter_rows(execution& e, matrix_view<const T> from, const index_t* rows, matrix_view<T> to) {
  require(from.cols == to.cols && from.cols % 8 == 0 && detail::has_aligned_rows(from) &&
              detail::has_aligned_rows(to),
          "cuda::scatter_rows: rows of equal length, a multiple of 8, aligned to 16 bytes");
  if (from.rows == 0 || from.cols == 0) return;
  constexpr index_t width = 16 / static_cast<index_t>(sizeof(T));
  constexpr index_t threads = 128;
  const dim3 blocks(static_cast<unsigned>(from.rows),
                    static_cast<unsigned>(ceil_div(from.cols, threads * width)));
  detail::scatter_rows_kernel<T><<<blocks, threads, 0, e.stream()>>>(from, rows, to);
  check(cudaGetLastError());
}

template <element T>
void operations<T>::scatter_rows(execution& e, matrix_view<const T> from, const index_t* rows,
                                 matrix_view<T> to) {
  cuda::scatter_rows<T>(e, from, rows, to);
}
template <element T>
void operations<T>::decode_attention(execution& e, const decode_attention_inputs<T>& inputs,
                                     matrix_view<T> context) {
  cuda::decode_attention<T>(e, inputs, context);
}

}  // namespace t5zero::cuda
