// A step of generation: rows of a cache are written, and each row's one query attends to its keys.
//
// scatter_rows: to[rows[t]] = from[t]. decode_attention: context [rows, n_heads * d_kv] = softmax(q k^T +
// bias) v, row by row, the keys named by a table or a range (decode_keys, backend/backend.hpp); the query's
// position is that of its last key. A block takes one head of a row (attending_row.cuh).
//
// d_kv: a multiple of 8, at most 128. Rows of all matrices are aligned to 16 bytes. No aliasing. Overwrites;
// deterministic; fp32 arithmetic. A row without keys has context 0.
// One stream, no workspace; may overlap the kernels before, which must not write the bias; keys that they do
// not write are read while those still run.
// Measured on an H200, in a step of t5-small (how much later it ends than the kernel in front), fp32, 4 and
// 16 rows, some 40 keys: self-attention 2.0 and 1.9 us, cross-attention 1.7 and 1.9. Floor of 64 rows, 16
// heads, 1024 keys, fp16: 268 MB, 63 us; less where beams share their keys in the cache.
#pragma once

#include <cstdint>
#include <type_traits>

#include <t5zero/backend/backend.hpp>
#include <t5zero/backend/cuda/check.hpp>
#include <t5zero/backend/cuda/execution.hpp>
#include <t5zero/backend/cuda/kernels/attending_row.cuh>
#include <t5zero/backend/cuda/kernels/element.cuh>
#include <t5zero/backend/cuda/kernels/grid_overlap.cuh>
#include <t5zero/backend/cuda/kernels/relative_bias.cuh>
#include <t5zero/backend/cuda/kernels/softmax.cuh>
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

/// Grid: heads x rows. LastIsLate: early_keys::all_but_last.
template <element T, int Lanes, int Keys, bool LastIsLate>
__global__ __launch_bounds__(attending_threads) void decode_attention_kernel(
    const __grid_constant__ decode_attention_inputs<T> in, const __grid_constant__ matrix_view<T> context,
    const __grid_constant__ relative_buckets buckets) {
  using attending = attending_row<T, Lanes, Keys, LastIsLate>;
  extern __shared__ float bias[];
  __shared__ typename attending::exchange shared;
  let_next_grid_start();
  const index_t head = blockIdx.x;
  const index_t row = blockIdx.y;
  const bool has_bias = in.relative_bias != nullptr;
  if (has_bias) fill_bias_by_distance(in, head, buckets, bias);
  if (in.early == early_keys::none) wait_for_previous_grid();
  attending block(in, static_cast<int>(head), static_cast<int>(row));
  block.begin();
  if (in.early != early_keys::none) wait_for_previous_grid();
  if constexpr (LastIsLate) block.read_last();
  float query[attending::unit] = {};
  if (block.inside()) load_pack(in.query.data + row * in.query.stride + block.own_columns(), query);
#pragma unroll
  for (float& q : query) q *= log2_e;
  if (has_bias) __syncthreads();
  block.attend(query, has_bias ? bias : nullptr, buckets.reach());
  block.store(shared, context);
}

template <element T, int Lanes>
void launch_decode_attention(execution& e, const decode_attention_inputs<T>& in, matrix_view<T> context) {
  const auto bias = bias_by_distance::of(in);
  const dim3 grid(static_cast<unsigned>(in.n_heads), static_cast<unsigned>(in.query.rows));
  const auto submit = [&](auto keys, auto last_is_late) {
    launch(
        e, decode_attention_kernel<T, Lanes, keys(), last_is_late()>,
        {.blocks = grid, .threads = attending_threads, .shared_bytes = bias.bytes, .overlap = overlap_of(e)},
        in, context, bias.buckets);
  };
  const auto with_keys = [&](auto keys) {
    if (in.early == early_keys::all_but_last)
      submit(keys, std::true_type{});
    else
      submit(keys, std::false_type{});
  };
  if (in.keys.max_count <= long_row)
    with_keys(std::integral_constant<int, many_keys<T> / 2>{});
  else
    with_keys(std::integral_constant<int, many_keys<T>>{});
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
  detail::check_attending(in, context);
  detail::check_cache_rows(in.query, in.n_heads * in.d_kv);
  require(context.rows >= in.query.rows && in.query.rows <= 65535,
          "cuda::decode_attention: a row of context for each query, at most 65535");
  if (in.query.rows == 0 || in.n_heads == 0) return;
  detail::with_lanes<T>(in.d_kv,
                        [&](auto lanes) { detail::launch_decode_attention<T, lanes()>(e, in, context); });
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
