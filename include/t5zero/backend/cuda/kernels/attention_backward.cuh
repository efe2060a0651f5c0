// Gradients of attention. With s = q k^T + bias, p = exp(s - log_sum_exp) and the dropout multipliers m:
//   grad_value = (m p)^T g,  ds = p (m (g v^T) - rowsum(g context)),  grad_query = ds k,  grad_key = ds^T q,
//   grad_bias[bucket] += sum of ds over the pairs whose distance is in the bucket
// (Dao et al. 2022, "FlashAttention", appendix B.4, with T5's bias). Probabilities are computed again.
//
// One launch makes all three gradients: some blocks own keys and pass over the queries, others own queries
// and pass over the keys, so nothing is added across blocks but the bias's gradient: each block of queries
// leaves a sum for each bucket in the workspace, and a second small kernel adds them up in a fixed order (of
// one sequence of at most 16 queries a block adds its own, without a second launch). For long sequences a
// kernel before them computes the row sums of g context.
//
// Shapes: attention_inputs<T> (backend/backend.hpp); context, grad_context and grad_query [query tokens,
// n_heads * d_kv], grad_key and grad_value [key tokens, n_heads * d_kv], log_sum_exp [query tokens, n_heads],
// grad_bias [n_buckets, n_heads]. d_kv and alignment as for attention_forward. No aliasing. Overwrites
// grad_query, grad_key and grad_value; accumulates to grad_bias. Deterministic. In 16-bit types m p and ds
// are rounded to T before their products; sums are fp32. One stream; workspace: attention_workspace_bytes.
//
// Measured on an H200, in a chain of graph nodes: t5-small, fp16, 48 tokens: 4.2 us, and 1.4 for the bias's
// sums; t5-large, fp32, 4 sequences of 35 to 80: 16 and 1.6. Floor of 4 x 1024 tokens, 16 heads, fp16 with
// dropout: 260 us, seven products and Philox twice.
#pragma once

#include <algorithm>

#include <t5zero/backend/backend.hpp>
#include <t5zero/backend/cuda/attention_blocking.hpp>
#include <t5zero/backend/cuda/attention_workspace.hpp>
#include <t5zero/backend/cuda/check.hpp>
#include <t5zero/backend/cuda/execution.hpp>
#include <t5zero/backend/cuda/kernels/attention_gradients.cuh>
#include <t5zero/backend/cuda/kernels/attention_key_gradients.cuh>
#include <t5zero/backend/cuda/kernels/attention_query_gradients.cuh>
#include <t5zero/backend/cuda/kernels/attention_tiles.cuh>
#include <t5zero/backend/cuda/kernels/grid_overlap.cuh>
#include <t5zero/backend/cuda/operations.hpp>

namespace t5zero::cuda {

namespace detail {

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
  auto* const workspace = reinterpret_cast<float*>(e.workspace(attention_workspace_bytes(
      in.queries.batch, in.queries.max_length, in.n_heads, has_bias ? in.n_buckets : 0)));
  choose_blocking<attention_tile<T, D>::row_bytes>(
      longest, std::max(in.queries.tokens, in.keys.tokens), in.queries.batch, in.n_heads, shared_bytes,
      [&]<class Blocking>(Blocking blocking) {
        const index_t query_blocks = ceil_div(in.queries.max_length, Blocking::own_rows);
        to.key_blocks = static_cast<int>(ceil_div(in.keys.max_length, Blocking::own_rows));
        const index_t sums_of_head = in.queries.batch * query_blocks;
        if (!Blocking::hands_over && in.queries.tokens > 0) {
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
