// A step of generation: rows of a cache are written, and each row's one query attends to its keys.
//
// scatter_rows: to[rows[t]] = from[t]. decode_attention: context [rows, n_heads * d_kv] = softmax(q k^T +
// bias) v, row by row, the keys named by a table or a range (decode_keys, backend/backend.hpp); the query's
// position is that of its last key. One pass over keys and values: groups of lanes that span a key's columns
// take keys in turn and keep a running softmax (Milakov and Gimelshein 2018), which a block of one (row,
// head) brings together at the end.
//
// d_kv: a multiple of 8, at most 128. Rows of all matrices are aligned to 16 bytes. No aliasing. Overwrites;
// deterministic; fp32 arithmetic. A row without keys has context 0.
// One stream, no workspace; may overlap the kernels before, which must not write the bias; keys that they do
// not write are read while those still run.
// Measured on an H200, in a step of t5-small (how much later it ends than the kernel in front), fp32, 4 and
// 16 rows, some 40 keys: self-attention 2.6 and 2.1 us, cross-attention 2.8 and 2.0. Floor of 64 rows, 16
// heads, 1024 keys, fp16: 268 MB, 63 us; less where beams share their keys in the cache.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <type_traits>

#include <t5zero/backend/backend.hpp>
#include <t5zero/backend/cuda/check.hpp>
#include <t5zero/backend/cuda/execution.hpp>
#include <t5zero/backend/cuda/kernels/element.cuh>
#include <t5zero/backend/cuda/kernels/grid_overlap.cuh>
#include <t5zero/backend/cuda/kernels/relative_bias.cuh>
#include <t5zero/backend/cuda/kernels/tensor_core.cuh>
#include <t5zero/backend/cuda/operations.hpp>

namespace t5zero::cuda {

namespace detail {

template <element T>
__global__ void scatter_rows_kernel(matrix_view<const T> from, const index_t* rows, matrix_view<T> to) {
  constexpr int unit = 16 / static_cast<int>(sizeof(T));
  const index_t units = from.cols / unit;
  const index_t i = static_cast<index_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= from.rows * units) return;
  const index_t row = i / units;
  const index_t column = i % units * unit;
  *reinterpret_cast<uint4*>(to.data + rows[row] * to.stride + column) =
      *reinterpret_cast<const uint4*>(from.data + row * from.stride + column);
}

/// The softmax of some keys: scores times log2(e), relative to `maximum`.
template <int Columns>
struct running_softmax {
  float maximum = -INFINITY;
  float total = 0.0F;
  float sums[Columns] = {};

  __device__ void rescale(float next) {
    const float factor = next == -INFINITY ? 0.0F : power_of_two(maximum - next);
    maximum = next;
    total *= factor;
#pragma unroll
    for (float& sum : sums) sum *= factor;
  }
};

/// Grid: heads x rows. Lanes: of the group that takes a key, 16 bytes of its columns each. Keys: that a group
/// has under way at a time. LastIsLate: early_keys::all_but_last.
template <element T, int Lanes, int Threads, int Keys, bool LastIsLate>
__global__ __launch_bounds__(Threads) void decode_attention_kernel(
    const __grid_constant__ decode_attention_inputs<T> in, matrix_view<T> context,
    const __grid_constant__ relative_buckets buckets) {
  constexpr int unit = 16 / static_cast<int>(sizeof(T));
  constexpr int groups = Threads / Lanes;
  constexpr int warps = Threads / warp_size;
  extern __shared__ float bias_by_distance[];  // [reach + 1], times log2(e)
  __shared__ float2 shared_softmax[warps];     // maximum and total
  __shared__ __align__(16) float shared_sums[warps][Lanes * unit];

  const auto head = static_cast<index_t>(blockIdx.x);
  const auto row = static_cast<index_t>(blockIdx.y);
  const int lane = static_cast<int>(threadIdx.x) % Lanes;
  const int group = static_cast<int>(threadIdx.x) / Lanes;
  const int column = lane * unit;
  const bool inside = column < static_cast<int>(in.d_kv);
  const index_t own_columns = head * in.d_kv + (inside ? column : 0);
  const auto max_count = static_cast<int>(in.keys.max_count);
  constexpr int places = Keys + (LastIsLate ? 1 : 0);  // the last key has one of its own where it comes late
  let_next_grid_start();

  const int reach = buckets.reach();
  const bool has_bias = in.relative_bias != nullptr;
  if (has_bias) {
    for (int d = static_cast<int>(threadIdx.x); d <= reach; d += Threads) {
      bias_by_distance[d] =
          to_float(in.relative_bias[buckets.distance_bucket(d) * in.n_heads + head]) * log2_e;
    }
  }
  if (in.early == early_keys::none) wait_for_previous_grid();

  // What is read before the wait comes from the L2: the first-level cache may hold it as it was before
  // kernels that this one has not waited for.
  const bool has_table = in.keys.table != nullptr;
  const index_t* const table = in.keys.table + (has_table ? row * in.keys.stride : 0);
  const index_t first_key = has_table ? 0 : __ldcg(in.keys.first + row);
  // Names of keys are read before it is known how many count: they are there up to max_count.
  std::uint32_t at[Keys] = {};
  const auto find_keys = [&](int first) {
#pragma unroll
    for (int i = 0; i < Keys; ++i) {
      const int j = min(first + group + i * groups, max_count - 1);
      at[i] = static_cast<std::uint32_t>(has_table ? __ldcg(table + j) : first_key + j);
    }
  };
  if (max_count > 0) find_keys(0);
  const int count = in.keys.counts == nullptr ? max_count : static_cast<int>(__ldcg(in.keys.counts + row));
  // Keys that do not count are zeros and weigh nothing: branches would keep others from being under way.
  pack<T, unit> keys[places] = {};
  pack<T, unit> values[places] = {};
  const auto load = [&](const matrix_view<const T>& from, std::uint32_t key, bool counts) {
    const T* const place =
        from.data + static_cast<index_t>(std::uint64_t{key} * static_cast<std::uint32_t>(from.stride)) +
        own_columns;
    pack<T, unit> result{};
    if (counts) result = std::bit_cast<pack<T, unit>>(__ldcg(reinterpret_cast<const uint4*>(place)));
    return result;
  };
  const auto read_key = [&](int i, std::uint32_t key, bool counts) {
    keys[i] = load(in.key, key, counts);
    values[i] = load(in.value, key, counts);
  };
  const int early_count = LastIsLate ? max(0, count - 1) : count;
  const auto read_keys = [&](int first) {
#pragma unroll
    for (int i = 0; i < Keys; ++i) read_key(i, at[i], first + group + i * groups < early_count);
  };
  read_keys(0);
  const bool has_last = LastIsLate && group == 0 && count > 0;
  std::uint32_t last = 0;
  if (has_last)
    last = static_cast<std::uint32_t>(has_table ? __ldcg(table + count - 1) : first_key + count - 1);
  if (in.early != early_keys::none) wait_for_previous_grid();
  if constexpr (LastIsLate) read_key(Keys, last, has_last);
  float query[unit] = {};
  if (inside) load_pack(in.query.data + row * in.query.stride + own_columns, query);
#pragma unroll
  for (float& q : query) q *= log2_e;

  running_softmax<unit> softmax;
  if (has_bias) __syncthreads();
  for (int first = 0; first == 0 ? count > 0 : first < early_count; first += groups * Keys) {
    if (first > 0) read_keys(first);
    if (first + groups * Keys < early_count) find_keys(first + groups * Keys);
    float scores[places];
    float next = softmax.maximum;
#pragma unroll
    for (int i = 0; i < places; ++i) {
      const int j = i < Keys ? first + group + i * groups : count - 1;
      const bool counts = i < Keys ? j < early_count : has_last && first == 0;
      float dot = 0.0F;
#pragma unroll
      for (int c = 0; c < unit; ++c) dot += query[c] * to_float(keys[i].values[c]);
#pragma unroll
      for (int offset = Lanes / 2; offset > 0; offset /= 2) dot += __shfl_xor_sync(all_lanes, dot, offset);
      if (has_bias) dot += bias_by_distance[max(0, min(count - 1 - j, reach))];
      scores[i] = counts ? dot : -INFINITY;
      next = fmaxf(next, scores[i]);
    }
    softmax.rescale(next);
#pragma unroll
    for (int i = 0; i < places; ++i) {
      const float p = next == -INFINITY ? 0.0F : power_of_two(scores[i] - next);
      softmax.total += p;
#pragma unroll
      for (int c = 0; c < unit; ++c) softmax.sums[c] += p * to_float(values[i].values[c]);
    }
  }

  // Groups of a warp, then warps.
#pragma unroll
  for (int offset = Lanes; offset < warp_size; offset *= 2) {
    softmax.rescale(fmaxf(softmax.maximum, __shfl_xor_sync(all_lanes, softmax.maximum, offset)));
    softmax.total += __shfl_xor_sync(all_lanes, softmax.total, offset);
#pragma unroll
    for (float& sum : softmax.sums) sum += __shfl_xor_sync(all_lanes, sum, offset);
  }
  const int warp = static_cast<int>(threadIdx.x) / warp_size;
  if (static_cast<int>(threadIdx.x) % warp_size < Lanes) {
    if (lane == 0) shared_softmax[warp] = float2{softmax.maximum, softmax.total};
    store_pack(shared_sums[warp] + column, softmax.sums);
  }
  __syncthreads();
  if (static_cast<int>(threadIdx.x) >= Lanes || !inside) return;
  float maximum = -INFINITY;
#pragma unroll
  for (int w = 0; w < warps; ++w) maximum = fmaxf(maximum, shared_softmax[w].x);
  float total = 0.0F;
  float sums[unit] = {};
#pragma unroll
  for (int w = 0; w < warps; ++w) {
    const float factor = maximum == -INFINITY ? 0.0F : power_of_two(shared_softmax[w].x - maximum);
    total += shared_softmax[w].y * factor;
    float part[unit];
    load_pack(shared_sums[w] + column, part);
#pragma unroll
    for (int c = 0; c < unit; ++c) sums[c] += part[c] * factor;
  }
  const float inverse = total > 0.0F ? 1.0F / total : 0.0F;
#pragma unroll
  for (float& sum : sums) sum *= inverse;
  store_pack(context.data + row * context.stride + own_columns, sums);
}

template <class T>
void check_cache_rows(const matrix_view<T>& view, index_t cols) {
  require(view.cols == cols && (view.rows == 0 || (view.stride * static_cast<index_t>(sizeof(T)) % 16 == 0 &&
                                                   reinterpret_cast<std::uintptr_t>(view.data) % 16 == 0)),
          "cuda::decode_attention: matrices are [rows, n_heads * d_kv], rows aligned to 16 bytes");
}

template <element T, int Lanes>
void launch_decode_attention(execution& e, const decode_attention_inputs<T>& in, matrix_view<T> context) {
  relative_buckets buckets;
  index_t bytes = 0;
  if (in.relative_bias != nullptr) {
    buckets = find_relative_buckets(/*bidirectional=*/false, in.n_buckets, in.max_distance);
    bytes = index_t{buckets.reach() + 1} * 4;
  }
  const dim3 grid(static_cast<unsigned>(in.n_heads), static_cast<unsigned>(in.query.rows));
  const auto submit = [&](auto keys, auto last_is_late) {
    constexpr int threads = 256;
    launch(e, decode_attention_kernel<T, Lanes, threads, keys(), last_is_late()>,
           {.blocks = grid, .threads = threads, .shared_bytes = bytes, .overlap = overlap_of(e)}, in, context,
           buckets);
  };
  const auto with_keys = [&](auto keys) {
    if (in.early == early_keys::all_but_last)
      submit(keys, std::true_type{});
    else
      submit(keys, std::false_type{});
  };
  // A key costs instructions, there or not; long rows are worth more of them under way.
  constexpr int many = 32 * static_cast<int>(sizeof(T)) / 16;
  if (in.keys.max_count <= 256)
    with_keys(std::integral_constant<int, many / 2>{});
  else
    with_keys(std::integral_constant<int, many>{});
}

}  // namespace detail

/// to[rows[t]] = from[t]; columns are whole units of 16 bytes. Throws contract_error.
template <element T>
void scatter_rows(execution& e, matrix_view<const T> from, const index_t* rows, matrix_view<T> to) {
  detail::check_cache_rows(from, from.cols);
  detail::check_cache_rows(to, from.cols);
  constexpr index_t unit = 16 / static_cast<index_t>(sizeof(T));
  require(from.cols % unit == 0, "cuda::scatter_rows: rows are whole units of 16 bytes");
  const index_t count = from.rows * from.cols / unit;
  if (count == 0) return;
  constexpr int threads = 128;
  detail::scatter_rows_kernel<T>
      <<<static_cast<unsigned>(ceil_div(count, threads)), threads, 0, e.stream()>>>(from, rows, to);
  check(cudaGetLastError());
}

/// See the head of this file. Throws contract_error where shapes do not agree.
template <element T>
void decode_attention(execution& e, const decode_attention_inputs<T>& in, matrix_view<T> context) {
  const index_t inner_dim = in.n_heads * in.d_kv;
  require(in.d_kv > 0 && in.d_kv <= 128 && in.d_kv % 8 == 0,
          "cuda::decode_attention: d_kv is a multiple of 8, at most 128");
  detail::check_cache_rows(in.query, inner_dim);
  detail::check_cache_rows(in.key, inner_dim);
  detail::check_cache_rows(in.value, inner_dim);
  detail::check_cache_rows(context, inner_dim);
  require(context.rows >= in.query.rows && in.query.rows <= 65535,
          "cuda::decode_attention: a row of context for each query, at most 65535");
  constexpr auto most = index_t{std::numeric_limits<std::uint32_t>::max()};
  require(in.key.rows <= most && in.key.stride <= most && in.value.stride <= most,
          "cuda::decode_attention: a cache of fewer than 2^32 rows, and strides below that");
  require(in.relative_bias == nullptr || in.max_distance <= 4096,
          "cuda::decode_attention: a max_distance of at most 4096");
  if (in.query.rows == 0 || in.n_heads == 0) return;
  const index_t units = in.d_kv * static_cast<index_t>(sizeof(T)) / 16;
  if (units <= 8) {
    detail::launch_decode_attention<T, 8>(e, in, context);
  } else if (units <= 16) {
    detail::launch_decode_attention<T, 16>(e, in, context);
  } else {
    detail::launch_decode_attention<T, 32>(e, in, context);
  }
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
