// c (+)= alpha op(a) op(b) in fp32 on bfloat16 tensor cores.
//
// A float is the sum of three bfloat16 x0 + x1 + x2 (8 bits each, the exponent's range is the same), so
//   a b = a0 b0 + (a0 b1 + a1 b0) + (a1 b1 + a0 b2 + a2 b0) + ...,
// and what is dropped is below 2^-24 of the product. Tensor cores cut off what they add, so they add over a
// depth of 16 only; those sums are added in fp32, rounded to nearest (Ootomo and Yokota 2022, "Recovering
// single precision accuracy from Tensor Cores while surpassing the FP32 theoretical peak performance",
// arXiv 2203.03341).
//
// Shapes: a is [rows, depth] or, transposed, [depth, rows]; b [depth, cols] or [cols, depth]; c [rows, cols].
// Strides are multiples of 4 floats, first elements aligned to 16 bytes (takes_split_matmul). c overlaps
// neither. Deterministic: warps divide a slab's depth, the blocks of a cluster the slabs; their sums are
// added in order. No atomics, no workspace, one launch on the execution's stream.
//
// Range: a result that an infinity, a NaN or a value beyond bfloat16's largest (3.39e38) contributes to is
// NaN, where fp32 arithmetic may have an infinity; never finite. Parts below 2^-133 are lost: operands below
// 2^-110 are less accurate than in fp32.
//
// Compute capability 7.5 has no bfloat16 in its tensor cores: there the same tiles are multiplied in fp32.
#pragma once

#include <limits>

#include <t5zero/backend/cuda/check.hpp>
#include <t5zero/backend/cuda/execution.hpp>
#include <t5zero/backend/cuda/kernels/grid_overlap.cuh>
#include <t5zero/backend/cuda/kernels/split_tiles.cuh>
#include <t5zero/backend/cuda/kernels/token_tiles.cuh>
#include <t5zero/backend/cuda/split_matmul.hpp>

namespace t5zero::cuda {

namespace detail {

/// Block of split_tiles[Index]: warps take tiles of 32 RowFragments x 32.
template <int Index, int RowFragments>
struct split_block {
  static constexpr split_tile tile = split_tiles[Index];
  static constexpr int row_fragments = RowFragments;
  static constexpr int warp_rows = fragment_rows * RowFragments;
  static constexpr int col_warps = tile.cols / fragment_rows;
  static constexpr int row_warps = tile.rows / warp_rows;
  static constexpr int quads = tile.rows * tile.cols / 4;
  static constexpr int row_quads = tile.cols / 4;
  static_assert(row_warps * col_warps * tile.depth_warps * warp_size == split_threads);
};

struct split_problem {
  matrix_view<const float> a;
  matrix_view<const float> b;
  matrix_view<float> c;
  float alpha;
  bool accumulates;
  int row_tiles;
  int col_tiles;
  int parts;        ///< blocks of a cluster
  int part_slabs;   ///< of each
  int exchange_at;  ///< bytes of shared memory before what blocks of a cluster write to each other
};

/// Grid: parts of a tile, then tiles along the side that has fewer: blocks that run at once share what they
/// read of the larger operand.
template <class Block, operand_layout A, operand_layout B>
__global__ void __launch_bounds__(split_threads, Block::tile.resident)
    split_matmul_kernel(const __grid_constant__ split_problem problem) {
  constexpr split_tile tile = Block::tile;
  using a_layout = split_slab_layout<tile.rows, A>;
  using b_layout = split_slab_layout<tile.cols, B>;
  constexpr int slab_floats = a_layout::floats + b_layout::floats;
  const int cluster = cluster_blocks(problem.parts);
  if (cluster > 1) arrive_at_cluster();
  const int rank = static_cast<int>(blockIdx.x) % cluster;
  const int index = static_cast<int>(blockIdx.x) / cluster;
  const bool rows_first = problem.row_tiles <= problem.col_tiles;
  const int short_side = rows_first ? problem.row_tiles : problem.col_tiles;
  const index_t first_row = index_t{rows_first ? index % short_side : index / short_side} * tile.rows;
  const index_t first_col = index_t{rows_first ? index / short_side : index % short_side} * tile.cols;
  const index_t depth = A == operand_layout::depth ? problem.a.cols : problem.a.rows;
  const int first_slab = rank * problem.part_slabs;
  const int slabs = min(problem.part_slabs, static_cast<int>(ceil_div(depth, split_slab)) - first_slab);

  auto* const shared = reinterpret_cast<float*>(dynamic_shared_memory());
  split_slab_copies<tile.rows, A> a_copies(problem.a, first_row, index_t{first_slab} * split_slab);
  split_slab_copies<tile.cols, B> b_copies(problem.b, first_col, index_t{first_slab} * split_slab);
  const auto start_slab = [&](int slab) {
    if (slab < slabs) {
      float* const to = shared + slab % split_slabs_in_flight * slab_floats;
      a_copies.start(to);
      b_copies.start(to + a_layout::floats);
    }
    end_copy_group();
  };

  const int warp = static_cast<int>(threadIdx.x) / warp_size;
  const int warp_col = warp % Block::col_warps * fragment_rows;
  const int warp_row = warp / Block::col_warps % Block::row_warps * Block::warp_rows;
  const int depth_warp = warp / (Block::col_warps * Block::row_warps);
  split_sums sums[Block::row_fragments];
#pragma unroll
  for (int slab = 0; slab < split_slabs_in_flight - 1; ++slab) start_slab(slab);
  // Of the two warps that share a tensor core, one is late by a step: one loads and splits while the other
  // multiplies.
  const bool late = warp / 4 % 2 != 0;
  constexpr int steps = split_slab / fragment_depth / tile.depth_warps;
  split_fragment a[Block::row_fragments];
  split_fragment b;
  const auto add_products = [&] {
#pragma unroll
    for (int i = 0; i < Block::row_fragments; ++i) sums[i].add_products(a[i], b);
  };
#pragma unroll 1
  for (int step = 0; step < slabs * steps; ++step) {
    const int slab = step / steps;
    if (step % steps == 0) {
      wait_for_copy_groups<split_slabs_in_flight - 2>();
      __syncthreads();  // the slab is there, and the one before is free
      start_slab(slab + split_slabs_in_flight - 1);
    }
    if (late && step > 0) add_products();
    const float* const a_slab = shared + slab % split_slabs_in_flight * slab_floats;
    const int first = (step % steps * tile.depth_warps + depth_warp) * fragment_depth;
    b.template load<b_layout>(a_slab + a_layout::floats, warp_col, first);
#pragma unroll
    for (int i = 0; i < Block::row_fragments; ++i)
      a[i].template load<a_layout>(a_slab, warp_row + i * fragment_rows, first);
    if (!late) add_products();
  }
  if (late && slabs > 0) add_products();
  wait_for_copy_groups<0>();
  __syncthreads();  // the sums take the slabs' place

#pragma unroll
  for (int i = 0; i < Block::row_fragments; ++i)
    sums[i].store(
        shared + (depth_warp * tile.rows + warp_row + i * fragment_rows) * tile.sums_stride() + warp_col,
        tile.sums_stride());
  __syncthreads();
  const auto add_warps = [&](int quad, float(&sum)[4]) {
    add_quads(shared + quad / Block::row_quads * tile.sums_stride() + quad % Block::row_quads * 4,
              tile.depth_warps, tile.rows * tile.sums_stride(), sum);
  };
  const auto store = [&](int quad, const float(&sum)[4]) {
    const index_t row = first_row + quad / Block::row_quads;
    const index_t col = first_col + quad % Block::row_quads * 4;
    if (row >= problem.c.rows || col >= problem.c.cols) return;
    auto* const to = reinterpret_cast<float4*>(&problem.c(row, col));
    float4 result{problem.alpha * sum[0], problem.alpha * sum[1], problem.alpha * sum[2],
                  problem.alpha * sum[3]};
    if (problem.accumulates) {
      const float4 before = *to;
      result.x += before.x;
      result.y += before.y;
      result.z += before.z;
      result.w += before.w;
    }
    *to = result;
  };
  if (cluster == 1) {
#pragma unroll 4
    for (int quad = static_cast<int>(threadIdx.x); quad < Block::quads; quad += split_threads) {
      float sum[4] = {};
      add_warps(quad, sum);
      store(quad, sum);
    }
    return;
  }
  auto* const exchange = reinterpret_cast<float*>(dynamic_shared_memory() + problem.exchange_at);
  const int share = Block::quads / cluster;  // of the results each block adds up
  wait_for_cluster();                        // its blocks run: their shared memory may be written
#pragma unroll 4
  for (int quad = static_cast<int>(threadIdx.x); quad < Block::quads; quad += split_threads) {
    float sum[4] = {};
    add_warps(quad, sum);
    store_to_peer(exchange + (rank * share + quad % share) * 4, quad / share,
                  float4{sum[0], sum[1], sum[2], sum[3]});
  }
  arrive_at_cluster();
  wait_for_cluster();
  for (int quad = static_cast<int>(threadIdx.x); quad < share; quad += split_threads) {
    float sum[4] = {};
    add_quads(exchange + quad * 4, cluster, share * 4, sum);
    store(rank * share + quad, sum);
  }
}

/// Calls f with the block type of split_tiles[index].
template <class F>
void with_split_block(int index, const F& f) {
  require(index >= 0, "cuda::split_matmul: no tile fits into the GPU's shared memory");
  if (index == 0)
    f(split_block<0, 1>{});
  else if (index == 1)
    f(split_block<1, 2>{});
  else
    f(split_block<2, 2>{});
}

template <operand_layout A, operand_layout B>
void launch_split_matmul(execution& e, split_problem problem, split_division division) {
  const token_device device = current_token_device();
  const index_t depth = A == operand_layout::depth ? problem.a.cols : problem.a.rows;
  const bool clusters = takes_clusters(attributes_of(split_matmul_kernel<split_block<0, 1>, A, B>));
  if (division.tile < 0)
    division = choose_split_division(problem.c.rows, problem.c.cols, depth, device.multiprocessors,
                                     device.shared_bytes, clusters ? split_max_parts : 1);
  with_split_block(division.tile, [&](auto block) {
    using block_type = decltype(block);
    constexpr split_tile tile = block_type::tile;
    problem.row_tiles = static_cast<int>(ceil_div(problem.c.rows, tile.rows));
    problem.col_tiles = static_cast<int>(ceil_div(problem.c.cols, tile.cols));
    problem.parts = division.parts;
    problem.part_slabs = static_cast<int>(ceil_div(ceil_div(depth, split_slab), division.parts));
    problem.exchange_at = static_cast<int>(tile.shared_bytes(1));
    const index_t blocks = index_t{problem.row_tiles} * problem.col_tiles * problem.parts;
    require(blocks <= std::numeric_limits<int>::max(), "cuda::split_matmul: the result is too large");
    launch(e, split_matmul_kernel<block_type, A, B>,
           {.blocks = dim3(static_cast<unsigned>(blocks)),
            .threads = split_threads,
            .shared_bytes = tile.shared_bytes(division.parts),
            .cluster = division.parts},
           problem);
  });
}

/// split_matmul.hpp has the contract.
inline void split_matmul(execution& e, transpose transpose_a, const matrix_view<const float>& a,
                         transpose transpose_b, const matrix_view<const float>& b,
                         const matrix_view<float>& c, gradient_mode mode, float alpha,
                         split_division division) {
  const bool ta = transpose_a == transpose::yes;
  const bool tb = transpose_b == transpose::yes;
  require((ta ? a.cols : a.rows) == c.rows && (tb ? b.rows : b.cols) == c.cols &&
              (tb ? b.cols : b.rows) == (ta ? a.rows : a.cols),
          "cuda::split_matmul: the shapes do not agree");
  require(takes_split_matmul(transpose_a, a, transpose_b, b, c),
          "cuda::split_matmul: sizes, strides or addresses are not multiples of 16 bytes");
  if (c.rows == 0 || c.cols == 0) return;
  const split_problem problem{.a = a,
                              .b = b,
                              .c = c,
                              .alpha = alpha,
                              .accumulates = mode == gradient_mode::accumulate,
                              .row_tiles = 0,
                              .col_tiles = 0,
                              .parts = 0,
                              .part_slabs = 0,
                              .exchange_at = 0};
  if (ta)
    launch_split_matmul<operand_layout::rows, operand_layout::rows>(e, problem, division);
  else if (tb)
    launch_split_matmul<operand_layout::depth, operand_layout::depth>(e, problem, division);
  else
    launch_split_matmul<operand_layout::depth, operand_layout::rows>(e, problem, division);
}

}  // namespace detail

}  // namespace t5zero::cuda
