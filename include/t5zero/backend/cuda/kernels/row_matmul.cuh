// Products of up to 16 rows with a weight, and what stands before and after them (row_matmul.hpp has the
// contracts).
//
// A step of a generation is a chain of some fifty launches of little work: each waits for the one before and
// then for the memory. Weights do not depend on the chain, so a kernel starts while those before run and has
// its part of the weight in registers when it begins to wait. A warp has one, two or four rows of the weight;
// its lanes divide the depth, four neighbours of every 128 each, and take the rows of the operand, which are
// in shared memory, four at a time, so that a load from there serves all of the warp's features. Sums over
// the lanes: 16 values need 16 shuffles where each step halves the values as well as the lanes.
//
// Blocks norm their rows themselves: reading 2 KB a row from the L2 is less than another launch. A depth
// beyond 512 is divided among the blocks of a cluster; the first adds their sums in order. Blocks of a weight
// with many features (the head) take several tiles in turn.
//
// Deterministic: a sum's order depends on the depth alone. fp32 products and sums; no workspace.
//
// On an H200, t5-small in fp32, alone (of which 2 us are the launch that overlap hides), 4 and 16 rows:
// qkv 4.5 and 6.9 us, q 3.4 and 5.1, o 3.1 and 4.7, wi 4.8 and 6.7, wo 5.7 and 7.8; the head (65.8 MB) 22.5
// and 40.
#pragma once

#include <algorithm>
#include <cstdint>
#include <type_traits>

#include <t5zero/backend/cuda/check.hpp>
#include <t5zero/backend/cuda/execution.hpp>
#include <t5zero/backend/cuda/kernels/element.cuh>
#include <t5zero/backend/cuda/kernels/grid_overlap.cuh>
#include <t5zero/backend/cuda/kernels/row_access.cuh>
#include <t5zero/backend/cuda/kernels/row_operands.cuh>
#include <t5zero/backend/cuda/kernels/tensor_core.cuh>
#include <t5zero/backend/cuda/row_matmul.hpp>

namespace t5zero::cuda {

namespace detail {

/// rows_target.
template <element T>
struct target_result {
  static constexpr bool takes_many_tiles = false;
  rows_target<T> target;

  [[nodiscard]] __device__ float prepare(int /*row*/, int /*feature*/) const { return 0.0F; }
  __device__ void store(float /*prepared*/, int row, int feature, float sum) const {
    const auto own = static_cast<int>(target.y.cols);
    T value = from_float<T>(sum);
    if (target.relu && !(to_float(value) > 0.0F)) value = from_float<T>(0.0F);
    if (feature < own)
      target.y.data[row * target.y.stride + feature] = value;
    else
      target.scattered.data[target.scattered_rows[row] * target.scattered.stride + feature - own] = value;
  }
};
struct sum_result {
  static constexpr bool takes_many_tiles = false;
  matrix_view<const float> x;
  matrix_view<float> out;

  [[nodiscard]] __device__ float prepare(int row, int feature) const {
    return x.data[row * x.stride + feature];
  }
  __device__ void store(float prepared, int row, int feature, float sum) const {
    out.data[row * out.stride + feature] = prepared + sum;
  }
};
struct scaled_result {
  static constexpr bool takes_many_tiles = true;
  matrix_view<float> y;
  float scale = 1.0F;

  [[nodiscard]] __device__ float prepare(int /*row*/, int /*feature*/) const { return 0.0F; }
  __device__ void store(float /*prepared*/, int row, int feature, float sum) const {
    y.data[row * y.stride + feature] = scale * sum;
  }
};

/// Adds `Count` values over the lanes of a warp: lane l gets the sum of value l / (32 / Count). Offset: of
/// the lanes whose values are added next; those behind are done.
template <int Count, int Offset = warp_size / 2>
[[nodiscard]] __device__ inline float sum_of_lane(const float (&values)[Count]) {
  if constexpr (Offset == 0) {
    return values[0];
  } else if constexpr (Count == 1) {
    const float sums[1] = {values[0] + __shfl_xor_sync(all_lanes, values[0], Offset)};
    return sum_of_lane<1, Offset / 2>(sums);
  } else {
    constexpr int half = Count / 2;
    const bool upper = static_cast<int>(threadIdx.x) & Offset;
    float sums[half];
#pragma unroll
    for (int i = 0; i < half; ++i) {
      const float sent = upper ? values[i] : values[i + half];
      const float kept = upper ? values[i + half] : values[i];
      sums[i] = kept + __shfl_xor_sync(all_lanes, sent, Offset);
    }
    return sum_of_lane<half, Offset / 2>(sums);
  }
}

/// Grid: clusters of `parts` blocks, which divide the depth; a tile is row_matmul_warps * Features features.
/// Divided: are there several parts? Without takes_many_tiles, a block has one tile.
template <element T, int Features, int Chunks, int Groups, bool Divided, class Rows, class Result>
__global__ void __launch_bounds__(row_matmul_threads)
    row_matmul_kernel(const __grid_constant__ matrix_view<const T> weight, const __grid_constant__ Rows rows,
                      const __grid_constant__ Result result, int parts, int part_depth, int tile_step) {
  using operand_type = row_operand<Chunks, Groups>;
  constexpr int tile_features = row_matmul_warps * Features;
  constexpr int lanes_per_sum = warp_size / (Features * row_group);
  // Sums of the cluster's blocks, in the first one's memory.
  __shared__ float exchange[Divided ? 8 : 1][Divided ? operand_type::rows * tile_features : 1];
  let_next_grid_start();
  if constexpr (Divided) arrive_at_cluster();
  const int rank = Divided ? static_cast<int>(blockIdx.x) % parts : 0;
  const int first = Divided ? rank * part_depth : 0;
  const int depth = max(0, min(part_depth, static_cast<int>(weight.cols) - first));
  const int warp = static_cast<int>(threadIdx.x) / warp_size;
  const int lane = static_cast<int>(threadIdx.x) % warp_size;
  const auto features = static_cast<int>(weight.rows);

  pack<T, 4> weights[Features][Chunks];
  const auto load_weights = [&](int tile) {
#pragma unroll
    for (int f = 0; f < Features; ++f) {
      const int feature = tile * tile_features + warp * Features + f;
      const T* const from = weight.data + static_cast<index_t>(feature) * weight.stride + first;
#pragma unroll
      for (int c = 0; c < Chunks; ++c)
        weights[f][c] =
            load_features<4, true>(from + lane_column(c), feature < features ? depth - lane_column(c) : 0);
    }
  };
  int tile = Divided ? static_cast<int>(blockIdx.x) / parts : static_cast<int>(blockIdx.x);
  load_weights(tile);
  const auto known = rows.template prepare<Chunks>();
  wait_for_previous_grid();

  const int row_count = rows.count();
  const bool sums_up = lane % lanes_per_sum == 0;
  const int own_row = lane / lanes_per_sum % row_group;
  const int own_place = warp * Features + lane / lanes_per_sum / row_group;  // of a tile's features
  // What the first block of a cluster stores: some of the tile's results for each thread.
  constexpr int shared_results = Divided ? operand_type::rows * tile_features : 1;
  constexpr int own_results = (shared_results + row_matmul_threads - 1) / row_matmul_threads;
  const auto for_each_result = [&](const auto& f) {
#pragma unroll
    for (int i = 0; i < own_results; ++i) {
      const int at = i * row_matmul_threads + static_cast<int>(threadIdx.x);
      const int row = at / tile_features;
      const int feature = tile * tile_features + at % tile_features;
      if (rank == 0 && row < row_count && feature < features) f(i, at, row, feature);
    }
  };
  float prepared_results[own_results];
  if constexpr (Divided) {
    for_each_result(
        [&](int i, int, int row, int feature) { prepared_results[i] = result.prepare(row, feature); });
  }
  const T* const operand = rows.template make<operand_type>(known, dynamic_shared_memory(), first, depth);
  if constexpr (Divided) wait_for_cluster();  // its blocks run: their shared memory may be written
  while (true) {
    const int feature = tile * tile_features + own_place;
    // Not unrolled: as fast, and a third of the instructions.
#pragma unroll 1
    for (int begin = 0; begin < row_count; begin += row_group) {
      const int row = begin + own_row;
      const bool stores = sums_up && row < row_count && feature < features;
      float prepared = 0.0F;
      if constexpr (!Divided) {
        if (stores) prepared = result.prepare(row, feature);
      }
      float sums[Features * row_group] = {};
#pragma unroll
      for (int c = 0; c < Chunks; ++c) {
        float a[row_group][4];
#pragma unroll
        for (int r = 0; r < row_group; ++r)
          load_pack(operand + (begin + r) * operand_type::stride + lane_column(c), a[r]);
#pragma unroll
        for (int f = 0; f < Features; ++f) {
#pragma unroll
          for (int i = 0; i < 4; ++i) {
            const float w = to_float(weights[f][c].values[i]);
#pragma unroll
            for (int r = 0; r < row_group; ++r) sums[f * row_group + r] += w * a[r][i];
          }
        }
      }
      const float total = sum_of_lane(sums);
      if constexpr (Divided) {
        if (sums_up) store_to_peer(&exchange[rank][row * tile_features + own_place], 0, total);
      } else {
        if (stores) result.store(prepared, row, feature, total);
      }
    }
    if constexpr (Divided) {
      arrive_at_cluster();
      wait_for_cluster();
      for_each_result([&](int i, int at, int row, int feature_of_result) {
        float total = exchange[0][at];
        for (int part = 1; part < parts; ++part) total += exchange[part][at];
        result.store(prepared_results[i], row, feature_of_result, total);
      });
    }
    if constexpr (!Result::takes_many_tiles) return;
    tile += tile_step;
    if (tile * tile_features >= features) return;
    load_weights(tile);
  }
}

/// Grid: rows.
template <element T>
__global__ void __launch_bounds__(row_matmul_threads)
    rows_embedding_kernel(const std::int32_t* ids, const __grid_constant__ matrix_view<const T> table,
                          const __grid_constant__ matrix_view<float> out) {
  let_next_grid_start();
  wait_for_previous_grid();
  const index_t row = blockIdx.x;
  const index_t id = ids[row];
  const bool is_known = id >= 0 && id < table.rows;
  const auto cols = static_cast<int>(table.cols);
  for (int column = static_cast<int>(threadIdx.x) * 4; column < cols; column += row_matmul_threads * 4) {
    float values[4];
    unpack(load_features<4, true>(table.data + (is_known ? id : 0) * table.stride + column, 4), values);
#pragma unroll
    for (float& value : values) value = is_known ? value : __int_as_float(0x7fffffff);
    store_pack(out.data + row * out.stride + column, values);
  }
}

/// Whole packs of 4, aligned.
template <class... Views>
[[nodiscard]] bool takes_row_packs(const Views&... views) {
  return ((views.data == nullptr || takes_packs(views, 4)) && ...);
}

/// Calls f with the number of groups that hold so many rows.
template <class F>
void with_row_groups(index_t rows, const F& f) {
  if (rows <= row_group)
    f(std::integral_constant<int, 1>{});
  else if (rows <= 2 * row_group)
    f(std::integral_constant<int, 2>{});
  else
    f(std::integral_constant<int, 4>{});
}

template <element T, class Rows, class Result>
void row_matmul(execution& e, const matrix_view<const T>& weight, const Rows& rows, const Result& result,
                index_t row_count, const row_division& division, launch_overlap overlap) {
  require(row_count <= most_matmul_rows && weight.cols % 4 == 0 && division.depth <= most_row_depth,
          "cuda::row_matmul: more rows or a larger depth than it takes");
  if (row_count == 0 || weight.rows == 0) return;
  const int multiprocessors = current_token_device().multiprocessors;
  const auto submit = [&](auto features, auto chunks, auto groups, auto divided) {
    const auto kernel = row_matmul_kernel<T, features(), chunks(), groups(), divided(), Rows, Result>;
    require(!divided() || takes_clusters(e, kernel), "cuda::row_matmul: the depth needs clusters of blocks");
    const index_t tiles = ceil_div(weight.rows, index_t{row_matmul_warps * features()});
    const index_t blocks = Result::takes_many_tiles ? std::min<index_t>(tiles, 4 * multiprocessors) : tiles;
    launch(e, kernel,
           {.blocks = dim3(static_cast<unsigned>(blocks * division.parts)),
            .threads = row_matmul_threads,
            .shared_bytes = Rows::template shared_bytes<row_operand<chunks(), groups()>>,
            .cluster = division.parts,
            .overlap = overlap},
           weight, rows, result, division.parts, static_cast<int>(division.depth), static_cast<int>(blocks));
  };
  const auto fits = [&](int features) {
    return ceil_div(weight.rows, index_t{row_matmul_warps * features}) * division.parts <= multiprocessors;
  };
  const auto choose_features = [&](auto chunks, auto groups, auto divided) {
    using std::integral_constant;
    if (fits(1))
      submit(integral_constant<int, 1>{}, chunks, groups, divided);
    else if (chunks() == 8 || fits(2))
      submit(integral_constant<int, 2>{}, chunks, groups, divided);
    else
      submit(integral_constant<int, 4>{}, integral_constant<int, 4>{}, groups, divided);
  };
  with_row_groups(row_count, [&](auto groups) {
    constexpr std::integral_constant<int, 4> few;
    constexpr bool is_plain = std::is_same_v<Rows, plain_rows<T>>;
    if (division.parts > 1) {
      if constexpr (is_plain) choose_features(few, groups, std::true_type{});
    } else if (division.depth <= few() * row_chunk) {
      choose_features(few, groups, std::false_type{});
    } else {
      if constexpr (!is_plain) choose_features(std::integral_constant<int, 8>{}, groups, std::false_type{});
    }
  });
}

}  // namespace detail

template <element T>
bool row_clusters_work() {
  static const bool result = detail::takes_clusters(detail::attributes_of(
      detail::row_matmul_kernel<T, 1, 4, 1, true, detail::plain_rows<T>, detail::sum_result>));
  return result;
}

template <element T>
void rows_embedding(execution& e, const rows_embedding_arguments<T>& in) {
  require(in.out.cols == in.table.cols && detail::takes_row_packs(in.table, in.out),
          "cuda::rows_embedding: the shapes do not agree");
  if (in.out.rows == 0) return;
  detail::launch(e, detail::rows_embedding_kernel<T>,
                 {.blocks = dim3(static_cast<unsigned>(in.out.rows)),
                  .threads = detail::row_matmul_threads,
                  .overlap = in.overlap},
                 in.ids, in.table, in.out);
}

template <element T>
void norm_rows_matmul(execution& e, const norm_rows_matmul_arguments<T>& in) {
  const rows_target<T>& target = in.target;
  const index_t scattered = target.scattered.data != nullptr ? target.scattered.cols : 0;
  require(in.weight.cols == in.x.cols && in.norm_weight.size == in.x.cols && target.y.rows == in.x.rows &&
              target.y.cols + scattered == in.weight.rows &&
              (scattered == 0 || target.scattered_rows != nullptr) &&
              detail::takes_row_packs(in.x, in.norm_weight, in.weight),
          "cuda::norm_rows_matmul: the shapes do not agree");
  detail::row_matmul<T>(e, in.weight, detail::normed_rows<T>{in.x, in.norm_weight.data, in.epsilon},
                        detail::target_result<T>{target}, in.x.rows, {1, in.x.cols}, in.overlap);
}

template <element T>
void rows_residual(execution& e, const rows_residual_arguments<T>& in) {
  require(in.weight.cols == in.a.cols && in.out.rows == in.a.rows && in.out.cols == in.weight.rows &&
              in.x.rows == in.out.rows && in.x.cols == in.out.cols &&
              detail::takes_row_packs(in.a, in.weight),
          "cuda::rows_residual: the shapes do not agree");
  detail::row_matmul<T>(e, in.weight, detail::plain_rows<T>{in.a}, detail::sum_result{in.x, in.out},
                        in.a.rows, row_division::of(in.a.cols), in.overlap);
}

template <element T>
void norm_rows_logits(execution& e, const norm_rows_logits_arguments<T>& in) {
  require(in.weight.cols == in.x.cols && in.norm_weight.size == in.x.cols && in.y.rows == in.x.rows &&
              in.y.cols == in.weight.rows && detail::takes_row_packs(in.x, in.norm_weight, in.weight),
          "cuda::norm_rows_logits: the shapes do not agree");
  detail::row_matmul<T>(e, in.weight, detail::normed_rows<T>{in.x, in.norm_weight.data, in.epsilon},
                        detail::scaled_result{in.y, in.scale}, in.x.rows, {1, in.x.cols}, in.overlap);
}

}  // namespace t5zero::cuda
