// Products of few tokens with a weight, and what stands before and after them, in one launch each
// (token_matmul.hpp has the contracts; shapes: token_matmul_limits.hpp).
//
//   norm_matmul      y = epilogue(rms_norm(x) W^T)       grad_matmul   y = epilogue(dropout(g) W)
//   matmul_residual  out = x + dropout(a W^T)            plain_matmul  y = a W
//
// A batch of one sentence is bound by latency: a chain of launches, each of which waits for the one before
// and then for the memory. Weights do not depend on the chain, so a kernel starts while the one before runs
// (launch_overlap), brings its whole part of the weight to shared memory and only then waits. Tiles are 16
// tokens high, so that little of the activations is read after the wait; all of a block's depth is in shared
// memory at once and its eight warps divide it.
//
// computed_rows_kernel (norm_matmul, grad_matmul): the four blocks of a cluster lie along the features and
// need the same rows: each computes four of the sixteen and writes them, rounded to T, to the shared memory
// of all. What an L2 that all blocks ask at once would give at 25 bytes a cycle and multiprocessor so passes
// it once in four. copied_rows_kernel (matmul_residual, plain_matmul): few tiles and a long depth (d_model
// features out of d_ff): four or eight blocks of a cluster divide the depth, and each adds up its share of
// the tile.
//
// Deterministic: no atomics; a result's sum depends on the depth alone (token_tiles.cuh). fp32 sums of 16-bit
// products on tensor cores. No workspace.
//
// Measured on an H200 for 48 tokens of t5-small, fp16, in a chain of graph nodes that overlap
// (kernel_bench_cuda), microseconds:
//   norm_matmul  512 -> 1536: 3.2; 512 -> 2048, relu, dropout: 4.7
//   grad_matmul  512 -> 2048, relu, dropout: 5.2
//   matmul_residual, dropout  512 -> 512: 2.4; 2048 -> 512: 4.0
//   plain_matmul  1536 -> 512: 3.5; 2048 -> 512: 3.9
// The floor, their weights' bytes, is 0.1 to 0.5: what they take is the chain load, exchange, products, sums
// and stores.
#pragma once

#include <cstdint>
#include <type_traits>

#include <t5zero/backend/cuda/execution.hpp>
#include <t5zero/backend/cuda/kernels/cluster.cuh>
#include <t5zero/backend/cuda/kernels/grid_overlap.cuh>
#include <t5zero/backend/cuda/kernels/row_access.cuh>
#include <t5zero/backend/cuda/kernels/token_results.cuh>
#include <t5zero/backend/cuda/kernels/token_rows.cuh>
#include <t5zero/backend/cuda/kernels/token_tiles.cuh>
#include <t5zero/backend/cuda/token_matmul.hpp>
#include <t5zero/core/error.hpp>

namespace t5zero::cuda {

namespace detail {

/// Grid: x features (whole clusters of token_row_cluster blocks), y tokens. `cols`: features of the result.
template <class Block, token_element T, class Rows, class Result>
__global__ void __launch_bounds__(token_threads, 2)
    computed_rows_kernel(const __grid_constant__ matrix_view<const T> weight,
                         const __grid_constant__ Rows rows, const __grid_constant__ Result result, int cols) {
  constexpr int cluster = cluster_blocks(token_row_cluster);
  __shared__ std::uint64_t exchanged;
  const int depth = rows.cols();
  const int row_elements = (depth + 15) / 16 * 16;  // zeros behind the depth, up to a step of the products
  expect_stores(&exchanged, Block::rows * row_elements * static_cast<int>(sizeof(T)));
  arrive_at_cluster();
  const int first_column = static_cast<int>(blockIdx.x) * Block::cols;
  const index_t first_row = static_cast<index_t>(blockIdx.y) * Block::rows;
  auto* const weights = reinterpret_cast<T*>(dynamic_shared_memory());
  T* const operand = weights + Block::weight_elements(depth);
  copy_weights<Block>(weights, weight, first_column, 0, depth);
  const auto constants = rows.constants();
  wait_for_previous_grid();
  wait_for_cluster();

  constexpr int own_rows = Block::rows / cluster;
  static_assert(own_rows % token_row_teams == 0, "all warps come to the same barriers");
  __shared__ float team_sums[token_warps];
  const int first_own = static_cast<int>(blockIdx.x) % cluster * own_rows;
#pragma unroll 1
  for (int i = static_cast<int>(threadIdx.x) / token_row_threads; i < own_rows; i += token_row_teams) {
    T* const to = operand + (first_own + i) * Block::stride(depth);
    const auto put = [&](int p, const pack<T, 4>& values) {
      if (token_column(p) >= row_elements) return;
#pragma unroll
      for (int peer = 0; peer < cluster; ++peer)
        send_to_peer(to + token_column(p), peer, *reinterpret_cast<const uint2*>(&values), &exchanged);
    };
    rows.make(constants, first_row + first_own + i, static_cast<int>(blockIdx.x) < cluster, team_sums, put);
  }
  token_stores<Block, Result> stores(result, first_row, rows.count(), first_column, cols, 0, Block::quads);
  stores.prepare();
  wait_for_copies();
  wait_for_stores(&exchanged);
  __syncthreads();  // the copies of other threads

  token_sums<Block> sums;
  sums.multiply(operand, weights, depth);
  auto* const shared = reinterpret_cast<float*>(dynamic_shared_memory());
  sums.share(shared);
  stores.store([&](int quad, float(&sum)[4]) {
    add_quads(shared + quad_offset<Block>(quad), token_warps, Block::rows * Block::sums_stride, sum);
  });
}

/// Grid: x features, of which `parts` neighbours, a cluster, divide the depth; y tokens. Shared memory ends
/// with what the blocks of a cluster write to each other, at exchange_at.
template <class Block, token_element T, class Result>
__global__ void __launch_bounds__(token_threads, 2)
    copied_rows_kernel(const __grid_constant__ matrix_view<const T> a,
                       const __grid_constant__ matrix_view<const T> weight,
                       const __grid_constant__ Result result, int cols, int parts, int piece_depth,
                       int exchange_at) {
  const int cluster = cluster_blocks(parts);
  __shared__ std::uint64_t exchanged;
  const int rank = static_cast<int>(blockIdx.x) % cluster;
  const int first_column = static_cast<int>(blockIdx.x) / cluster * Block::cols;
  const index_t first_row = static_cast<index_t>(blockIdx.y) * Block::rows;
  const int depth = static_cast<int>(a.cols);
  auto* const weights = reinterpret_cast<T*>(dynamic_shared_memory());
  T* const operand = weights + Block::weight_elements(piece_depth);
  auto* const exchange = reinterpret_cast<float*>(dynamic_shared_memory() + exchange_at);
  const int share = (Block::quads + cluster - 1) / cluster;
  const int first_quad = rank * share;
  const int end_quad = min(first_quad + share, Block::quads);
  if (cluster > 1) {
    constexpr int quad_bytes = static_cast<int>(sizeof(float4));
    expect_stores(&exchanged, cluster * quad_bytes * max(0, end_quad - first_quad));
    arrive_at_cluster();
  }
  token_stores<Block, Result> stores(result, first_row, a.rows, first_column, cols, first_quad, end_quad);

  token_sums<Block> sums;
  bool first = true;
  for (int begin = rank * piece_depth; begin < depth || first; begin += cluster * piece_depth) {
    const int count = max(0, min(piece_depth, depth - begin));
    if (!first) __syncthreads();  // the piece before has been used
    copy_weights<Block>(weights, weight, first_column, begin, count);
    if (first) wait_for_previous_grid();
    copy_rows<Block>(operand, a, first_row, begin, count);
    if (first) stores.prepare();
    first = false;
    wait_for_copies();
    __syncthreads();
    sums.multiply(operand, weights, count);
  }

  auto* const shared = reinterpret_cast<float*>(dynamic_shared_memory());
  sums.share(shared);
  const auto add_warps = [&](int quad, float(&sum)[4]) {
    add_quads(shared + quad_offset<Block>(quad), token_warps, Block::rows * Block::sums_stride, sum);
  };
  if (cluster == 1) {
    stores.store(add_warps);
    return;
  }
  wait_for_cluster();
#pragma unroll
  for (int i = 0; i < Block::quads_per_thread; ++i) {
    const int quad = i * token_threads + static_cast<int>(threadIdx.x);
    if (quad >= Block::quads) continue;
    float sum[4] = {};
    add_warps(quad, sum);
    const int owner = quad / share;
    send_to_peer(exchange + (rank * share + quad - owner * share) * 4, owner,
                 float4{sum[0], sum[1], sum[2], sum[3]}, &exchanged);
  }
  wait_for_stores(&exchanged);
  stores.store([&](int quad, float(&sum)[4]) {
    add_quads(exchange + (quad - first_quad) * 4, cluster, share * 4, sum);
  });
}

/// Calls f with the block type of a tile.
template <transpose Weight, class F>
void with_token_block(token_tile tile, const F& f) {
  require(tile.row_tiles > 0, "cuda::token_matmul: a tile does not fit into the GPU's shared memory");
  if (tile.row_tiles == 2)
    f(token_block<2, 8, Weight>{});
  else if (tile.column_tiles == 2)
    f(token_block<1, 2, Weight>{});
  else if (tile.column_tiles == 4)
    f(token_block<1, 4, Weight>{});
  else if (tile.column_tiles == 6)
    f(token_block<1, 6, Weight>{});
  else
    f(token_block<1, 8, Weight>{});
}

/// Whole packs of 8 features, aligned; what has no data is not asked.
template <class... Views>
[[nodiscard]] bool takes_token_packs(const Views&... views) {
  return ((views.data == nullptr || takes_packs(views, 8)) && ...);
}
template <class A, class B>
[[nodiscard]] bool same_shape(const matrix_view<A>& a, const matrix_view<B>& b) {
  return a.rows == b.rows && a.cols == b.cols;
}
[[nodiscard]] inline bool masks(const dropout_site& site, const ragged_view& tokens, index_t rows) {
  return !site.active() || tokens.tokens == rows;
}

template <transpose Weight, token_element T, class Rows, class Result>
void computed_rows_matmul(execution& e, const matrix_view<const T>& weight, const Rows& rows,
                          index_t row_count, index_t depth, index_t cols, const Result& result,
                          launch_overlap overlap) {
  require(depth % 8 == 0 && depth > 0 && depth <= token_max_features && cols % 8 == 0,
          "cuda::token_matmul: more features than a row that is computed may have");
  const token_tile tile =
      choose_token_tile(row_count, cols, Weight, depth, 1, token_row_cluster, current_device_limits());
  with_token_block<Weight>(tile, [&](auto block) {
    using block_type = decltype(block);
    launch(e, computed_rows_kernel<block_type, T, Rows, Result>,
           {.blocks = dim3(static_cast<unsigned>(round_up(ceil_div(cols, tile.cols()), token_row_cluster)),
                           static_cast<unsigned>(ceil_div(row_count, tile.rows()))),
            .threads = token_threads,
            .shared_bytes = token_matmul_bytes(tile, Weight, depth, 1),
            .cluster = token_row_cluster,
            .overlap = overlap},
           weight, rows, result, static_cast<int>(cols));
  });
}

template <transpose Weight, token_element T, class Result>
void copied_rows_matmul(execution& e, const matrix_view<const T>& a, const matrix_view<const T>& weight,
                        index_t cols, const Result& result, launch_overlap overlap) {
  require(a.cols % 8 == 0 && a.cols > 0 && cols % 8 == 0,
          "cuda::token_matmul: features are not multiples of 8");
  const depth_division division = depth_division::of(a.cols);
  const token_tile tile =
      choose_token_tile(a.rows, cols, Weight, division.depth, division.parts, 1, current_device_limits());
  const index_t bytes = token_matmul_bytes(tile, Weight, division.depth, division.parts);
  const index_t exchange_at = token_matmul_bytes(tile, Weight, division.depth, 1);
  with_token_block<Weight>(tile, [&](auto block) {
    using block_type = decltype(block);
    const auto kernel = copied_rows_kernel<block_type, T, Result>;
    const int cluster = takes_clusters(e, kernel) ? division.parts : 1;
    launch(e, kernel,
           {.blocks = dim3(static_cast<unsigned>(ceil_div(cols, tile.cols()) * cluster),
                           static_cast<unsigned>(ceil_div(a.rows, tile.rows()))),
            .threads = token_threads,
            .shared_bytes = bytes,
            .cluster = cluster,
            .overlap = overlap},
           a, weight, result, static_cast<int>(cols), division.parts, static_cast<int>(division.depth),
           static_cast<int>(exchange_at));
  });
}

}  // namespace detail

template <token_element T>
void norm_matmul(execution& e, const norm_matmul_arguments<T>& in) {
  require(in.weight.cols == in.x.cols && in.norm_weight.size == in.x.cols && in.y.rows == in.x.rows &&
              in.y.cols == in.weight.rows &&
              (in.normed.data == nullptr || detail::same_shape(in.normed, in.x)) &&
              (in.inverse_rms.data == nullptr || in.inverse_rms.size >= in.x.rows) &&
              (!in.relu || detail::masks(in.dropout, in.tokens, in.x.rows)) &&
              detail::takes_token_packs(in.x, in.norm_weight, in.weight, in.y, in.normed),
          "cuda::norm_matmul: the shapes do not agree");
  if (in.y.rows == 0 || in.y.cols == 0) return;
  detail::computed_rows_matmul<transpose::yes>(
      e, in.weight,
      detail::norm_rows<T>{in.x, in.norm_weight.data, in.epsilon, in.normed, in.inverse_rms.data}, in.x.rows,
      in.x.cols, in.y.cols,
      detail::forward_result<T>{in.y, in.relu, in.relu ? in.dropout : dropout_site{}, in.tokens.rows,
                                in.tokens.positions},
      in.overlap);
}

template <token_element T>
void grad_matmul(execution& e, const grad_matmul_arguments<T>& in) {
  const bool finishes = in.grad_normed.data != nullptr;
  require(
      in.weight.rows == in.grad.cols && in.y.rows == in.grad.rows && in.y.cols == in.weight.cols &&
          detail::masks(in.dropout, in.tokens, in.grad.rows) &&
          (!finishes || (detail::same_shape(in.grad_normed, in.grad) && detail::same_shape(in.x, in.grad) &&
                         in.norm_weight.size == in.grad.cols && in.inverse_rms.size >= in.grad.rows)) &&
          (in.gradient.data == nullptr || detail::same_shape(in.gradient, in.grad)) &&
          (in.dropped.data == nullptr || detail::same_shape(in.dropped, in.grad)) &&
          (in.activated.data == nullptr || detail::same_shape(in.activated, in.y)) &&
          detail::takes_token_packs(in.grad, in.grad_normed, in.x, in.norm_weight, in.gradient, in.dropped,
                                    in.weight, in.activated, in.y),
      "cuda::grad_matmul: the shapes do not agree");
  if (in.y.rows == 0 || in.y.cols == 0) return;
  detail::computed_rows_matmul<transpose::no>(
      e, in.weight,
      detail::gradient_rows<T>{in.grad, in.grad_normed, in.x, in.norm_weight.data, in.inverse_rms.data,
                               in.gradient, in.dropout, in.tokens.rows, in.tokens.positions, in.dropped},
      in.grad.rows, in.grad.cols, in.y.cols,
      detail::backward_result<T>{in.y, in.activated, in.activated_dropout.scale()}, in.overlap);
}

template <token_element T>
void matmul_residual(execution& e, const matmul_residual_arguments<T>& in) {
  require(in.weight.cols == in.a.cols && in.out.rows == in.a.rows && in.out.cols == in.weight.rows &&
              detail::same_shape(in.x, in.out) && detail::masks(in.dropout, in.tokens, in.a.rows) &&
              detail::takes_token_packs(in.a, in.weight, in.x, in.out),
          "cuda::matmul_residual: the shapes do not agree");
  if (in.out.rows == 0 || in.out.cols == 0) return;
  detail::copied_rows_matmul<transpose::yes>(
      e, in.a, in.weight, in.out.cols,
      detail::residual_result{in.out, in.x, in.dropout, in.tokens.rows, in.tokens.positions}, in.overlap);
}

template <token_element T>
void plain_matmul(execution& e, const plain_matmul_arguments<T>& in) {
  require(in.weight.rows == in.a.cols && in.y.rows == in.a.rows && in.y.cols == in.weight.cols &&
              detail::takes_token_packs(in.a, in.weight, in.y),
          "cuda::plain_matmul: the shapes do not agree");
  if (in.y.rows == 0 || in.y.cols == 0) return;
  detail::copied_rows_matmul<transpose::no>(e, in.a, in.weight, in.y.cols, detail::plain_result{in.y},
                                            in.overlap);
}

}  // namespace t5zero::cuda
