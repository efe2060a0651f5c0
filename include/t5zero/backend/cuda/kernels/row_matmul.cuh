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
// Predicted on an H200 for 4 rows of t5-small, after the kernel before has ended: 0.5 us until the rows are
// there, 0.1 norm, 0.2 products, 0.2 sums, 0.4 stores and end: 1.5 us; the head 65.8 MB: 18 us in fp32.
#pragma once

#include <cstdint>
#include <type_traits>

#include <t5zero/backend/cuda/check.hpp>
#include <t5zero/backend/cuda/execution.hpp>
#include <t5zero/backend/cuda/kernels/element.cuh>
#include <t5zero/backend/cuda/kernels/grid_overlap.cuh>
#include <t5zero/backend/cuda/kernels/row_access.cuh>
#include <t5zero/backend/cuda/kernels/tensor_core.cuh>
#include <t5zero/backend/cuda/row_matmul.hpp>

namespace t5zero::cuda {

namespace detail {

inline constexpr int row_matmul_threads = 128;
inline constexpr int row_matmul_warps = row_matmul_threads / warp_size;
/// Depth that the lanes of a warp take at a time.
inline constexpr int row_chunk = 4 * warp_size;
/// Rows that are multiplied at a time.
inline constexpr int row_group = 4;
inline constexpr int row_groups = static_cast<int>(most_matmul_rows) / row_group;

/// This lane's columns of chunk c.
[[nodiscard]] __device__ inline int lane_column(int c) {
  return c * row_chunk + static_cast<int>(threadIdx.x) % warp_size * 4;
}

/// The left operand as it is.
template <element T>
struct plain_rows {
  matrix_view<const T> a;

  struct constants {};
  [[nodiscard]] __device__ constants prepare() const { return {}; }
  [[nodiscard]] __device__ int count() const { return static_cast<int>(a.rows); }

  /// Brings columns [first, + depth) of all rows to `operand`. All threads of the block call it.
  __device__ void make(const constants& /*known*/, T* operand, int first, int depth) const {
    constexpr int at_once = 8;
    for (int column = static_cast<int>(threadIdx.x) * 4; column < depth; column += row_matmul_threads * 4) {
      for (int begin = 0; begin < count(); begin += at_once) {
        pack<T, 4> loaded[at_once];
#pragma unroll
        for (int i = 0; i < at_once; ++i)
          loaded[i] = load_features<4, true>(a.data + (begin + i) * a.stride + first + column,
                                             begin + i < count() ? 4 : 0);
#pragma unroll
        for (int i = 0; i < at_once; ++i) {
          if (begin + i < count())
            *reinterpret_cast<pack<T, 4>*>(operand + (begin + i) * depth + column) = loaded[i];
        }
      }
    }
    __syncthreads();
  }
};

/// rms_norm(x), rounded to T. Chunks: of a row, at most.
template <element T, int Chunks>
struct normed_rows {
  matrix_view<const float> x;
  const T* weight = nullptr;
  float epsilon = 0.0F;

  struct constants {
    pack<T, 4> weight[Chunks];
  };
  [[nodiscard]] __device__ constants prepare() const {
    constants known;
#pragma unroll
    for (int c = 0; c < Chunks; ++c)
      known.weight[c] =
          load_features<4, true>(weight + lane_column(c), static_cast<int>(x.cols) - lane_column(c));
    return known;
  }
  [[nodiscard]] __device__ int count() const {
    return static_cast<int>(x.rows);
  }

  /// Each warp norms some rows; those of a turn are under way at once.
  __device__ void make(const constants& known, T* operand, int /*first*/, int depth) const {
    constexpr int at_once = Chunks <= 4 ? 4 : 2;
    const int warp = static_cast<int>(threadIdx.x) / warp_size;
    for (int begin = warp; begin < count(); begin += row_matmul_warps * at_once) {
      pack<float, 4> loaded[at_once][Chunks];
#pragma unroll
      for (int i = 0; i < at_once; ++i) {
        const int row = begin + i * row_matmul_warps;
#pragma unroll
        for (int c = 0; c < Chunks; ++c)
          loaded[i][c] = load_features<4, true>(x.data + row * x.stride + lane_column(c),
                                                row < count() ? depth - lane_column(c) : 0);
      }
#pragma unroll
      for (int i = 0; i < at_once; ++i) {
        const int row = begin + i * row_matmul_warps;
        if (row >= count()) break;
        float squares = 0.0F;
#pragma unroll
        for (int c = 0; c < Chunks; ++c) {
#pragma unroll
          for (const float value : loaded[i][c].values) squares += value * value;
        }
        const float r = 1.0F / sqrtf(warp_sum(squares) / static_cast<float>(depth) + epsilon);
#pragma unroll
        for (int c = 0; c < Chunks; ++c) {
          if (lane_column(c) >= depth) continue;
          float normed[4];
#pragma unroll
          for (int j = 0; j < 4; ++j)
            normed[j] = loaded[i][c].values[j] * r * to_float(known.weight[c].values[j]);
          store_pack(operand + row * depth + lane_column(c), normed);
        }
      }
    }
    __syncthreads();
  }
};

/// rows_target.
template <element T>
struct target_result {
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
  matrix_view<float> y;
  float scale = 1.0F;

  [[nodiscard]] __device__ float prepare(int /*row*/, int /*feature*/) const { return 0.0F; }
  __device__ void store(float /*prepared*/, int row, int feature, float sum) const {
    y.data[row * y.stride + feature] = scale * sum;
  }
};

/// Adds `Count` values over the lanes of a warp: lane l gets the sum of value l / (32 / Count).
template <int Count>
[[nodiscard]] __device__ inline float sum_of_lane(float (&values)[Count]) {
  static_assert(Count == 4 || Count == 8 || Count == 16);
  const int lane = static_cast<int>(threadIdx.x) % warp_size;
  int offset = warp_size / 2;
#pragma unroll
  for (int half = Count / 2; half > 0; half /= 2, offset /= 2) {
    const bool upper = (lane & offset) != 0;
#pragma unroll
    for (int i = 0; i < half; ++i) {
      const float sent = upper ? values[i] : values[i + half];
      const float kept = upper ? values[i + half] : values[i];
      values[i] = kept + __shfl_xor_sync(all_lanes, sent, offset);
    }
  }
#pragma unroll
  for (int rest = warp_size / Count / 2; rest > 0; rest /= 2)
    values[0] += __shfl_xor_sync(all_lanes, values[0], rest);
  return values[0];
}

/// Grid: clusters of `parts` blocks, which divide the depth. A tile: row_matmul_warps * Features features.
template <element T, int Features, int Chunks, class Rows, class Result>
__global__ void __launch_bounds__(row_matmul_threads)
    row_matmul_kernel(const __grid_constant__ matrix_view<const T> weight, const __grid_constant__ Rows rows,
                      const __grid_constant__ Result result, int parts, int part_depth) {
  constexpr int tile_features = row_matmul_warps * Features;
  constexpr int lanes_per_sum = warp_size / (Features * row_group);
  // Sums of the other blocks of the cluster, in the first one's memory.
  __shared__ float exchange[7][most_matmul_rows * tile_features];
  let_next_grid_start();
  if (parts > 1) arrive_at_cluster();
  const int rank = static_cast<int>(blockIdx.x) % parts;
  const int first = rank * part_depth;
  const int depth = max(0, min(part_depth, static_cast<int>(weight.cols) - first));
  const int warp = static_cast<int>(threadIdx.x) / warp_size;
  const int lane = static_cast<int>(threadIdx.x) % warp_size;
  auto* const operand = reinterpret_cast<T*>(dynamic_shared_memory());
  const auto features = static_cast<int>(weight.rows);
  const int clusters = static_cast<int>(gridDim.x) / parts;

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
  int tile = static_cast<int>(blockIdx.x) / parts;
  load_weights(tile);
  const auto known = rows.prepare();
  wait_for_previous_grid();
  rows.make(known, operand, first, depth);

  const int row_count = rows.count();
  const int own_feature = lane / lanes_per_sum / row_group;
  const int own_row = lane / lanes_per_sum % row_group;
  for (; tile * tile_features < features; tile += clusters) {
    const int feature = tile * tile_features + warp * Features + own_feature;
    const bool stores = lane % lanes_per_sum == 0 && feature < features && rank == 0;
    float prepared[row_groups];
#pragma unroll
    for (int g = 0; g < row_groups; ++g) {
      const int row = g * row_group + own_row;
      prepared[g] = stores && row < row_count ? result.prepare(row, feature) : 0.0F;
    }
    float total[row_groups] = {};
#pragma unroll
    for (int g = 0; g < row_groups; ++g) {
      if (g * row_group >= row_count) break;
      float sums[Features * row_group] = {};
#pragma unroll
      for (int c = 0; c < Chunks; ++c) {
        if (c * row_chunk >= depth) break;
        float a[row_group][4];
#pragma unroll
        for (int r = 0; r < row_group; ++r) {
          const int row = g * row_group + r;
          const bool inside = row < row_count && lane_column(c) < depth;
          if (inside) {
            load_pack(operand + row * depth + lane_column(c), a[r]);
          } else {
#pragma unroll
            for (float& value : a[r]) value = 0.0F;
          }
        }
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
      total[g] = sum_of_lane(sums);
    }
    if (parts > 1) {
      wait_for_cluster();  // its blocks run, and have read what came before
      if (rank > 0 && lane % lanes_per_sum == 0) {
#pragma unroll
        for (int g = 0; g < row_groups; ++g) {
          const int row = g * row_group + own_row;
          if (row < row_count)
            store_to_peer(&exchange[rank - 1][row * tile_features + warp * Features + own_feature], 0,
                          total[g]);
        }
      }
      arrive_at_cluster();
      wait_for_cluster();
    }
    if (stores) {
#pragma unroll
      for (int g = 0; g < row_groups; ++g) {
        const int row = g * row_group + own_row;
        if (row >= row_count) break;
        for (int part = 1; part < parts; ++part)
          total[g] += exchange[part - 1][row * tile_features + warp * Features + own_feature];
        result.store(prepared[g], row, feature, total[g]);
      }
    }
    if (parts > 1) arrive_at_cluster();
    if ((tile + clusters) * tile_features < features) load_weights(tile + clusters);
  }
  if (parts > 1) wait_for_cluster();
}

/// Whole packs of 4, aligned.
template <class... Views>
[[nodiscard]] bool takes_row_packs(const Views&... views) {
  return ((views.data == nullptr || takes_packs(views, 4)) && ...);
}

template <int Features, int Chunks, element T, class Rows, class Result>
void launch_row_matmul(execution& e, const matrix_view<const T>& weight, const Rows& rows,
                       const Result& result, index_t row_count, const row_division& division, index_t tiles,
                       int multiprocessors, launch_overlap overlap) {
  const auto kernel = row_matmul_kernel<T, Features, Chunks, Rows, Result>;
  const bool clusters = takes_clusters(attributes_of(kernel));
  require(division.parts == 1 || clusters, "cuda::row_matmul: the depth needs clusters of blocks");
  const index_t blocks = std::min<index_t>(tiles, division.parts > 1 ? tiles : 4 * multiprocessors);
  launch(e, kernel,
         {.blocks = dim3(static_cast<unsigned>(blocks * division.parts)),
          .threads = row_matmul_threads,
          .shared_bytes = row_count * division.depth * static_cast<index_t>(sizeof(T)),
          .cluster = division.parts,
          .overlap = overlap},
         weight, rows, result, division.parts, static_cast<int>(division.depth));
}

/// make_rows(integral constant of chunks): the left operand.
template <element T, class MakeRows, class Result>
void row_matmul(execution& e, const matrix_view<const T>& weight, const MakeRows& make_rows,
                const Result& result, index_t row_count, const row_division& division,
                launch_overlap overlap) {
  require(row_count <= most_matmul_rows && weight.cols % 4 == 0 && division.depth <= most_row_depth,
          "cuda::row_matmul: more rows or a larger depth than it takes");
  if (row_count == 0 || weight.rows == 0) return;
  const int multiprocessors = current_token_device().multiprocessors;
  const auto tiles = [&](int features) {
    return ceil_div(weight.rows, index_t{row_matmul_warps * features});
  };
  const auto fits = [&](int features) { return tiles(features) * division.parts <= multiprocessors; };
  const auto submit = [&](auto features, auto chunks) {
    launch_row_matmul<features(), chunks(), T>(e, weight, make_rows(chunks), result, row_count, division,
                                               tiles(features()), multiprocessors, overlap);
  };
  using std::integral_constant;
  if (division.depth <= 4 * row_chunk) {
    constexpr integral_constant<int, 4> chunks;
    if (fits(1))
      submit(integral_constant<int, 1>{}, chunks);
    else if (fits(2))
      submit(integral_constant<int, 2>{}, chunks);
    else
      submit(integral_constant<int, 4>{}, chunks);
  } else {
    constexpr integral_constant<int, 8> chunks;
    if (fits(1))
      submit(integral_constant<int, 1>{}, chunks);
    else
      submit(integral_constant<int, 2>{}, chunks);
  }
}

}  // namespace detail

template <element T>
bool row_clusters_work() {
  static const bool result = detail::takes_clusters(
      detail::attributes_of(detail::row_matmul_kernel<T, 1, 4, detail::plain_rows<T>, detail::sum_result>));
  return result;
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
  detail::row_matmul<T>(
      e, in.weight,
      [&](auto chunks) {
        return detail::normed_rows<T, chunks()>{in.x, in.norm_weight.data, in.epsilon};
      },
      detail::target_result<T>{target}, in.x.rows, {1, in.x.cols}, in.overlap);
}

template <element T>
void rows_residual(execution& e, const rows_residual_arguments<T>& in) {
  require(in.weight.cols == in.a.cols && in.out.rows == in.a.rows && in.out.cols == in.weight.rows &&
              in.x.rows == in.out.rows && in.x.cols == in.out.cols &&
              detail::takes_row_packs(in.a, in.weight),
          "cuda::rows_residual: the shapes do not agree");
  detail::row_matmul<T>(
      e, in.weight, [&](auto /*chunks*/) { return detail::plain_rows<T>{in.a}; },
      detail::sum_result{in.x, in.out}, in.a.rows, row_division::of(in.a.cols), in.overlap);
}

template <element T>
void norm_rows_logits(execution& e, const norm_rows_logits_arguments<T>& in) {
  require(in.weight.cols == in.x.cols && in.norm_weight.size == in.x.cols && in.y.rows == in.x.rows &&
              in.y.cols == in.weight.rows && detail::takes_row_packs(in.x, in.norm_weight, in.weight),
          "cuda::norm_rows_logits: the shapes do not agree");
  detail::row_matmul<T>(
      e, in.weight,
      [&](auto chunks) {
        return detail::normed_rows<T, chunks()>{in.x, in.norm_weight.data, in.epsilon};
      },
      detail::scaled_result{in.y, in.scale}, in.x.rows, {1, in.x.cols}, in.overlap);
}

}  // namespace t5zero::cuda
