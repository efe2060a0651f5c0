// The query of a generation's few rows, projected, and its attention, in one launch (row_attention.hpp has
// the contract): over keys of before, or over a cache to which the rows' own key and value are added. A
// cluster of blocks takes a head: each multiplies the rows by a tile of its features, as row_matmul.cuh does,
// and attends with one row, as attending_row.cuh does; what they tell each other are queries, keys and
// values. A launch less, and keys are on their way while the product is computed.
//
// The same bits as the two launches, at up to long_row keys. Deterministic, no workspace.
// On an H200, in a step of t5-small in fp32 (how much later it ends than the kernel in front), 4 rows, some
// 40 keys of the encoder: 2.7 us.
#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>
#include <type_traits>

#include <t5zero/backend/cuda/execution.hpp>
#include <t5zero/backend/cuda/kernels/attending_row.cuh>
#include <t5zero/backend/cuda/kernels/cluster.cuh>
#include <t5zero/backend/cuda/kernels/element.cuh>
#include <t5zero/backend/cuda/kernels/grid_overlap.cuh>
#include <t5zero/backend/cuda/kernels/relative_bias.cuh>
#include <t5zero/backend/cuda/kernels/row_matmul.cuh>
#include <t5zero/backend/cuda/kernels/row_operands.cuh>
#include <t5zero/backend/cuda/kernels/softmax.cuh>
#include <t5zero/backend/cuda/kernels/tensor_core.cuh>
#include <t5zero/backend/cuda/row_attention.hpp>

namespace t5zero::cuda {

namespace detail {

static_assert(attending_threads == row_matmul_threads && most_attended_keys <= long_row,
              "a block does both, and attends as decode_attention's does");

/// Grid: for each head a cluster of blocks, at least as many as rows and as tiles of a head's features.
/// weight: of all heads' queries; with AddsKeys then of their keys, then of their values.
template <element T, int Slabs, int Lanes, bool AddsKeys>
__global__ void __launch_bounds__(row_matmul_threads, Slabs > 4 ? 1 : 2)
    row_attention_kernel(const __grid_constant__ matrix_view<const T> weight,
                         const __grid_constant__ normed_rows<T> rows,
                         const __grid_constant__ decode_attention_inputs<T> in,
                         const __grid_constant__ rows_cache<T> cache,
                         const __grid_constant__ relative_buckets buckets,
                         const __grid_constant__ matrix_view<T> context) {
  using attending = attending_row<T, Lanes, many_keys<T> / 2, AddsKeys>;
  constexpr int parts = AddsKeys ? 3 : 1;
  using tiles = weight_tiles<T, Slabs, parts>;
  __shared__ warp_sums<1> sums[parts];
  __shared__ typename normed_rows<T>::template exchange<1> row_squares;
  __shared__ typename attending::exchange shared;
  // Of this block's row, from all blocks: its query, key and value.
  __shared__ __align__(16) float own[parts][attending::columns];
  __shared__ std::uint64_t arrived;
  __shared__ std::uint64_t filled[parts];
  float* const bias = reinterpret_cast<float*>(dynamic_shared_memory() + tiles::shared_bytes);
  if constexpr (!AddsKeys) let_next_grid_start();
  const int rank = static_cast<int>(blockIdx.x);
  const int head = static_cast<int>(blockIdx.y);
  const int features = static_cast<int>(in.d_kv);
  const int depth = static_cast<int>(weight.cols);
  const index_t inner_dim = in.n_heads * in.d_kv;
  const bool has_tile = rank * feature_tile < features;
  const bool has_row = rank < rows.count();
  expect_stores(&arrived, has_row ? parts * features * static_cast<int>(sizeof(float)) : 0);
  arrive_at_cluster();
  const auto part_of = [&](int part) {
    return tiles{weight.data + (part * inner_dim + head * in.d_kv) * weight.stride, weight.stride, features,
                 depth, filled};
  };
  part_of(0).make_barriers();
  __syncthreads();
#pragma unroll
  for (int part = 0; part < parts; ++part) part_of(part).start(rank, part);
  const auto known = rows.template prepare<Slabs>();
  const bool has_bias = AddsKeys && in.relative_bias != nullptr;
  if (has_bias) fill_bias_by_distance(in, head, buckets, bias);
  attending block(in, head, rank);
  if (has_row) block.begin();
  // With AddsKeys it lets the next start here: its keys may be those that this one writes.
  wait_for_previous_grid();

  const int row = static_cast<int>(threadIdx.x) / feature_tile;
  const int tile_feature = static_cast<int>(threadIdx.x) % feature_tile;
  const int feature = rank * feature_tile + tile_feature;
  const bool has_result = row < rows.count() && feature < features;
  [[maybe_unused]] index_t cache_row = 0;
  if constexpr (AddsKeys) {
    if (has_result) cache_row = cache.rows[row];
  }
  if (has_tile) {
    const auto operand = rows.template make<Slabs, 1>(known, row_squares, 0, depth);
#pragma unroll
    for (int part = 0; part < parts; ++part) {
      part_of(part).wait(part, 0);
      multiply_tile(part_of(part), part, operand, sums[part]);
    }
  }
  wait_for_cluster();
  __syncthreads();
  if (has_result) {
#pragma unroll
    for (int part = 0; part < parts; ++part) {
      const float total = add_warps<1>(sums[part], row, tile_feature) * rows.scale(row_squares, row);
      send_to_peer(&own[part][feature], row, total, &arrived);
      if (part > 0)
        cache.data.data[cache_row * cache.data.stride + (part - 1) * inner_dim + head * in.d_kv + feature] =
            from_float<T>(total);
    }
  }
  if (!has_row) return;
  wait_for_stores(&arrived);
  float query[attending::unit] = {};
  if (block.inside()) load_pack(own[0] + block.column(), query);
#pragma unroll
  for (float& q : query) q = to_float(from_float<T>(q)) * log2_e;
  if constexpr (AddsKeys) block.take_last(own[1], own[2]);
  block.attend(query, has_bias ? bias : nullptr, buckets.reach());
  block.store(shared, context);
}

}  // namespace detail

template <element T>
void norm_rows_attention(execution& e, const norm_rows_attention_arguments<T>& in) {
  const decode_attention_inputs<T>& attention = in.attention;
  const index_t inner_dim = attention.n_heads * attention.d_kv;
  const bool adds_keys = in.cache.data.data != nullptr;
  detail::check_attending(attention, in.context);
  require(attends_with_rows(in.x.rows, in.x.cols, adds_keys, attention) && in.norm_weight.size == in.x.cols &&
              in.weight.rows == (adds_keys ? 3 : 1) * inner_dim && in.weight.cols == in.x.cols &&
              in.context.rows == in.x.rows &&
              (adds_keys ? in.cache.rows != nullptr && in.cache.data.cols == 2 * inner_dim
                         : attention.relative_bias == nullptr) &&
              detail::takes_row_packs(in.weight, in.x, in.norm_weight),
          "cuda::norm_rows_attention: the shapes do not agree");
  if (in.x.rows == 0 || attention.n_heads == 0) return;
  const auto bias = detail::bias_by_distance::of(attention);
  const auto submit = [&](auto slabs, auto lanes, auto adds) {
    const auto kernel = detail::row_attention_kernel<T, slabs(), lanes(), adds()>;
    require(detail::takes_clusters(e, kernel), "cuda::norm_rows_attention: needs clusters of blocks");
    using tiles = detail::weight_tiles<T, slabs(), adds() ? 3 : 1>;
    // At least two: a block alone is no cluster, and has no neighbour to store to.
    const auto blocks = std::bit_ceil(static_cast<unsigned>(
        std::max({index_t{2}, in.x.rows, ceil_div(attention.d_kv, index_t{detail::feature_tile})})));
    detail::launch(e, kernel,
                   {.blocks = dim3(blocks, static_cast<unsigned>(attention.n_heads)),
                    .threads = detail::row_matmul_threads,
                    .shared_bytes = tiles::shared_bytes + bias.bytes,
                    .cluster = static_cast<int>(blocks),
                    .overlap = in.overlap},
                   in.weight, detail::normed_rows<T>{in.x, in.norm_weight.data, in.epsilon}, attention,
                   in.cache, bias.buckets, in.context);
  };
  using std::integral_constant;
  detail::with_lanes<T>(attention.d_kv, [&](auto lanes) {
    if (adds_keys) {
      if constexpr (adds_rows_keys<T>) submit(integral_constant<int, 4>{}, lanes, std::true_type{});
    } else if (in.x.cols <= most_part_depth) {
      submit(integral_constant<int, 4>{}, lanes, std::false_type{});
    } else {
      submit(integral_constant<int, 8>{}, lanes, std::false_type{});
    }
  });
}

}  // namespace t5zero::cuda
