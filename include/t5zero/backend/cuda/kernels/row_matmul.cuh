// Products of up to 16 rows with a weight, and what stands before and after them (row_matmul.hpp has the
// contracts).
//
// A step of a generation is a chain of some fifty launches of little work: each waits for the one before and
// then for the memory. Weights do not depend on the chain, so a kernel starts while those before run, and its
// part of the weight is on its way to shared memory when it begins to wait; by bulk copies, since what
// threads load themselves comes in the order that they ask for it, and those before have little loads to wait
// for. A block has 16 features, which are the tensor cores' 16 rows; its warps divide the depth, so that each
// element of the operand is read once, straight into the registers where the tensor cores take it, and add
// their sums through shared memory. In fp32 each number is the sum of two TF32 ones, to 2^-23 of it, and a
// product three, to 2^-21 (Ootomo and Yokota 2022); a warp's share of the depth is too short for the tensor
// cores' rounding to add up.
//
// Blocks norm their rows themselves: reading 2 KB a row from the L2 is less than another launch. A depth
// beyond 512 is divided among the blocks of a cluster; the first adds their sums in order. Blocks of a weight
// with many features (the head) take several tiles in turn. Weights are read once a step and marked so: the
// cache of keys and values, which the next step reads, stays in the L2.
//
// Deterministic: a sum's order depends on the depth alone. No workspace.
//
// On an H200, in a step of t5-small in fp32 (how much later it ends than the kernel in front), 4 and 16 rows:
// qkv 2.2 and 3.4 us, o 1.7 and 2.5, wi 2.4 and 3.6, wo 2.3 and 3.7; the head (65.8 MB) 15.5 and 18.
#pragma once

#include <algorithm>
#include <cstdint>
#include <type_traits>

#include <t5zero/backend/cuda/execution.hpp>
#include <t5zero/backend/cuda/kernels/bulk_copy.cuh>
#include <t5zero/backend/cuda/kernels/cluster.cuh>
#include <t5zero/backend/cuda/kernels/element.cuh>
#include <t5zero/backend/cuda/kernels/grid_overlap.cuh>
#include <t5zero/backend/cuda/kernels/row_access.cuh>
#include <t5zero/backend/cuda/kernels/row_operands.cuh>
#include <t5zero/backend/cuda/kernels/shared_barrier.cuh>
#include <t5zero/backend/cuda/kernels/tensor_core.cuh>
#include <t5zero/backend/cuda/row_matmul.hpp>

namespace t5zero::cuda {

namespace detail {

/// rows_target.
template <element T>
struct target_result {
  static constexpr bool takes_many_tiles = false;
  rows_target<T> target;

  /// May the next kernel start before this one begins to work? The attention over a cache, which this one
  /// writes to, must find there what was written before.
  [[nodiscard]] __device__ bool lets_next_start_early() const { return target.scattered.data == nullptr; }
  /// Which row of `scattered`.
  using prepared = index_t;
  [[nodiscard]] __device__ prepared prepare(int row, int /*feature*/) const {
    return target.scattered_rows != nullptr ? target.scattered_rows[row] : 0;
  }
  __device__ void store(prepared scattered_row, int row, int feature, float sum) const {
    const auto own = static_cast<int>(target.y.cols);
    T value = from_float<T>(sum);
    if (target.relu && !(to_float(value) > 0.0F)) value = from_float<T>(0.0F);
    if (feature < own)
      target.y.data[row * target.y.stride + feature] = value;
    else
      target.scattered.data[scattered_row * target.scattered.stride + feature - own] = value;
  }
};
struct sum_result {
  static constexpr bool takes_many_tiles = false;
  matrix_view<const float> x;
  matrix_view<float> out;

  [[nodiscard]] __device__ bool lets_next_start_early() const { return true; }
  using prepared = float;
  [[nodiscard]] __device__ prepared prepare(int row, int feature) const {
    return x.data[row * x.stride + feature];
  }
  __device__ void store(prepared before, int row, int feature, float sum) const {
    out.data[row * out.stride + feature] = before + sum;
  }
};
struct scaled_result {
  static constexpr bool takes_many_tiles = true;
  matrix_view<float> y;
  float scale = 1.0F;

  [[nodiscard]] __device__ bool lets_next_start_early() const { return true; }
  struct prepared {};
  [[nodiscard]] __device__ prepared prepare(int /*row*/, int /*feature*/) const { return {}; }
  __device__ void store(prepared /*nothing*/, int row, int feature, float sum) const {
    y.data[row * y.stride + feature] = scale * sum;
  }
};

/// Features of a block: what a tensor core takes at a time.
inline constexpr int feature_tile = 16;

/// Four columns of this lane's feature and of the one eight beyond.
template <element T>
struct weight_columns {
  pack<T, 4> upper{};
  pack<T, 4> lower{};
};
/// The same as the tensor cores want it of each lane.
template <element T>
struct weight_slab {
  std::uint32_t values[4];

  [[nodiscard]] static __device__ weight_slab of(const weight_columns<T>& from) {
    return {{pair(from.upper, 0), pair(from.lower, 0), pair(from.upper, 2), pair(from.lower, 2)}};
  }
  [[nodiscard]] static __device__ std::uint32_t pair(const pack<T, 4>& from, int i) {
    return from.values[i].bits | static_cast<std::uint32_t>(from.values[i + 1].bits) << 16;
  }
};
template <>
struct weight_slab<float> {
  float high[2][4];
  float low[2][4];

  [[nodiscard]] static __device__ weight_slab of(const weight_columns<float>& from) {
    weight_slab result;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const tf32_pair upper = split_for_tf32(from.upper.values[i]);
      const tf32_pair lower = split_for_tf32(from.lower.values[i]);
      result.high[i / 2][i % 2 * 2] = upper.high;
      result.high[i / 2][i % 2 * 2 + 1] = lower.high;
      result.low[i / 2][i % 2 * 2] = upper.low;
      result.low[i / 2][i % 2 * 2 + 1] = lower.low;
    }
    return result;
  }
};

/// What a warp has of a block's features x Tiles * row_tile rows.
template <element T, int Tiles>
struct row_sums {
  static constexpr int parts = sizeof(T) == 4 ? 3 : 1;
  float values[Tiles][parts][4] = {};

  __device__ void add(const weight_slab<T>& weight, const pack<T, 4> (&rows)[Tiles]) {
#pragma unroll
    for (int t = 0; t < Tiles; ++t) {
      if constexpr (sizeof(T) == 4) {
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          const tf32_pair b0 = split_for_tf32(rows[t].values[2 * i]);
          const tf32_pair b1 = split_for_tf32(rows[t].values[2 * i + 1]);
          multiply_add_tf32(values[t][0], weight.high[i], b0.high, b1.high);
          multiply_add_tf32(values[t][1], weight.high[i], b0.low, b1.low);
          multiply_add_tf32(values[t][2], weight.low[i], b0.high, b1.high);
        }
      } else {
        float(&c)[4] = values[t][0];
        multiply_add<T>(c[0], c[1], c[2], c[3], weight.values, weight_slab<T>::pair(rows[t], 0),
                        weight_slab<T>::pair(rows[t], 2));
      }
    }
  }
  [[nodiscard]] __device__ float total(int tile, int i) const {
    if constexpr (parts == 3)
      return values[tile][0][i] + (values[tile][1][i] + values[tile][2][i]);
    else
      return values[tile][0][i];
  }
};

/// Tiles of the weight on their way to shared memory, in Stages places. Rows are a part of a multiple of 128
/// bytes longer than their depth, so that what an instruction loads lies in different banks.
template <element T, int Slabs, int Stages>
struct weight_tiles {
  static constexpr int most_depth = Slabs * row_matmul_warps * row_slab;
  static constexpr int row_elements = most_depth + 16;
  static constexpr int stage_elements = feature_tile * row_elements;
  static constexpr index_t shared_bytes = index_t{Stages} * stage_elements * static_cast<int>(sizeof(T));

  const T* data;  ///< the block's part of the depth
  index_t stride;
  int features;
  int depth;
  std::uint64_t* filled;  ///< [Stages]

  /// All threads of the block call it, and meet at a barrier before they wait.
  __device__ void make_barriers() const {
    if (static_cast<int>(threadIdx.x) >= Stages) return;
    make_barrier(filled + threadIdx.x, 1);
    publish_barriers();
  }
  /// Starts to copy a tile, or what there is of it. All threads of the block call it.
  __device__ void start(int tile, int stage) const {
    if (threadIdx.x >= warp_size) return;
    const int lane = static_cast<int>(threadIdx.x);
    const int rows = rows_of(tile);
    if (lane == 0) arrive_and_expect(filled + stage, rows * row_bytes());
    __syncwarp();
    if (lane < rows) start_bulk_copy(place(stage, lane), row(tile, lane), row_bytes(), filled + stage);
  }
  /// Brings a tile to the L2, or what there is of it. All threads of the block call it.
  __device__ void prefetch(int tile) const {
    const auto lane = static_cast<int>(threadIdx.x);
    if (lane < rows_of(tile)) start_prefetch(row(tile, lane), row_bytes());
  }
  /// Waits for the stage's tile number `turn`.
  __device__ void wait(int stage, int turn) const { wait_for_bytes(filled + stage, turn % 2); }

  /// This lane's part of a slab; what lies beyond the depth does not count.
  [[nodiscard]] __device__ weight_slab<T> take(int stage, int s) const {
    weight_columns<T> columns;
    if (lane_column(s) < depth) {
      columns.upper = *reinterpret_cast<const pack<T, 4>*>(place(stage, lane_row()) + lane_column(s));
      columns.lower = *reinterpret_cast<const pack<T, 4>*>(place(stage, lane_row() + 8) + lane_column(s));
    }
    return weight_slab<T>::of(columns);
  }

 private:
  [[nodiscard]] __device__ int row_bytes() const { return depth * static_cast<int>(sizeof(T)); }
  [[nodiscard]] __device__ int rows_of(int tile) const {
    return depth == 0 ? 0 : max(0, min(feature_tile, features - tile * feature_tile));
  }
  [[nodiscard]] __device__ const T* row(int tile, int i) const {
    return data + static_cast<index_t>(tile * feature_tile + i) * stride;
  }
  [[nodiscard]] static __device__ T* place(int stage, int feature) {
    return reinterpret_cast<T*>(dynamic_shared_memory()) + stage * stage_elements + feature * row_elements;
  }
};

/// What the warps of a block have of a tile's results, in shared memory. The stride: lanes store to different
/// banks.
inline constexpr int row_sums_stride = feature_tile + 4;
template <int Tiles>
using warp_sums = float[row_matmul_warps][Tiles * row_tile * row_sums_stride];

/// This warp's depth of a tile that has come.
template <element T, int Slabs, int Tiles, int Stages>
__device__ void multiply_tile(const weight_tiles<T, Slabs, Stages>& weights, int stage,
                              const row_operand<T, Slabs, Tiles>& operand, warp_sums<Tiles>& sums) {
  row_sums<T, Tiles> own;
#pragma unroll
  for (int s = 0; s < Slabs; ++s) own.add(weights.take(stage, s), operand.values[s]);
#pragma unroll
  for (int t = 0; t < Tiles; ++t) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int row = t * row_tile + static_cast<int>(threadIdx.x) % 4 * 2 + i % 2;
      sums[threadIdx.x / warp_size][row * row_sums_stride + i / 2 * 8 + lane_row()] = own.total(t, i);
    }
  }
}
template <int Tiles>
[[nodiscard]] __device__ float add_warps(const warp_sums<Tiles>& sums, int row, int feature) {
  float total = 0.0F;
#pragma unroll
  for (int w = 0; w < row_matmul_warps; ++w) total += sums[w][row * row_sums_stride + feature];
  return total;
}

static_assert(weight_tiles<float, 4, 1>::most_depth == most_part_depth &&
              weight_tiles<float, 8, 1>::most_depth == most_row_depth);
template <element T, int Slabs, int Tiles>
inline constexpr bool logits_fit = weight_tiles<T, Slabs, 2>::shared_bytes +
                                       index_t{sizeof(warp_sums<Tiles>[2])} <=
                                   row_logits_bytes(sizeof(T), weight_tiles<T, Slabs, 2>::most_depth,
                                                    Tiles* row_tile);
static_assert(logits_fit<float, 4, 1> && logits_fit<float, 8, 2> && logits_fit<float16, 4, 2>);

/// Of a block with many tiles: those that it asks for before the wait, beside those on their way to it.
inline constexpr int prefetched_tiles = 2;

/// Blocks of a multiprocessor: more of them bring more kernels' weights while those in front run.
template <int Slabs, int Tiles, class Result>
inline constexpr int blocks_at_once = Slabs > 4                               ? 1
                                      : Tiles > 1 || Result::takes_many_tiles ? 2
                                                                              : 3;

/// Grid: clusters of `parts` blocks, which divide the depth, for each tile of features. Divided: are there
/// several parts? Without takes_many_tiles, a block has one tile.
template <element T, int Slabs, int Tiles, bool Divided, class Rows, class Result>
__global__ void __launch_bounds__(row_matmul_threads, blocks_at_once<Slabs, Tiles, Result>)
    row_matmul_kernel(const __grid_constant__ matrix_view<const T> weight, const __grid_constant__ Rows rows,
                      const __grid_constant__ Result result, int parts, int part_depth, int tile_step) {
  constexpr bool many_tiles = Result::takes_many_tiles;
  static_assert(!(Divided && many_tiles), "a cluster exchanges the sums of one tile");
  constexpr int stages = many_tiles ? 2 : 1;
  constexpr int tile_rows = Tiles * row_tile;
  static_assert(tile_rows * feature_tile <= row_matmul_threads, "a result a thread");
  // Sums of the warps; with many tiles, those of the one before may still be read.
  constexpr int buffers = many_tiles ? 2 : 1;
  __shared__ warp_sums<Tiles> sums[buffers];
  // Sums of the cluster's blocks, in the first one's memory.
  __shared__ float exchange[Divided ? 8 : 1][Divided ? tile_rows * feature_tile : 1];
  __shared__ std::uint64_t arrived;
  __shared__ typename Rows::template exchange<Tiles> row_squares;
  if (result.lets_next_start_early()) let_next_grid_start();
  const int rank = Divided ? static_cast<int>(blockIdx.x) % parts : 0;
  if constexpr (Divided) {
    constexpr int part_bytes = tile_rows * feature_tile * static_cast<int>(sizeof(float));
    expect_stores(&arrived, rank == 0 ? parts * part_bytes : 0);
    arrive_at_cluster();
  }
  const int first = rank * part_depth;
  const int depth = max(0, min(part_depth, static_cast<int>(weight.cols) - first));
  const auto features = static_cast<int>(weight.rows);
  __shared__ std::uint64_t filled[stages];
  const weight_tiles<T, Slabs, stages> weights{weight.data + first, weight.stride, features, depth, filled};
  int tile = static_cast<int>(blockIdx.x) / (Divided ? parts : 1);

  weights.make_barriers();
  __syncthreads();
#pragma unroll
  for (int stage = 0; stage < stages; ++stage) weights.start(tile + stage * tile_step, stage);
  if constexpr (many_tiles) {  // the memory is idle before the wait
    for (int i = 0; i < prefetched_tiles; ++i) weights.prefetch(tile + (stages + i) * tile_step);
  }
  const auto known = rows.template prepare<Slabs>();
  wait_for_previous_grid();

  // What this thread stores of a tile.
  const int own_row = static_cast<int>(threadIdx.x) / feature_tile;
  const int own_feature = static_cast<int>(threadIdx.x) % feature_tile;
  const bool has_row = rank == 0 && own_row < rows.count();
  typename Result::prepared prepared{};
  if (has_row && tile * feature_tile + own_feature < features)
    prepared = result.prepare(own_row, tile * feature_tile + own_feature);
  const auto operand = rows.template make<Slabs, Tiles>(known, row_squares, first, depth);
  for (int turn = 0;; ++turn) {
    const int stage = turn % stages;
    const int buffer = turn % buffers;
    weights.wait(stage, turn / stages);
    multiply_tile(weights, stage, operand, sums[buffer]);
    if constexpr (Divided) wait_for_cluster();
    __syncthreads();
    if constexpr (many_tiles) weights.start(tile + stages * tile_step, stage);
    float total = 0.0F;
    if (own_row < tile_rows) {
      total = add_warps<Tiles>(sums[buffer], own_row, own_feature) * rows.scale(row_squares, own_row);
      if constexpr (Divided) send_to_peer(&exchange[rank][threadIdx.x], 0, total, &arrived);
    }
    if constexpr (Divided) {
      if (rank > 0) return;
      wait_for_stores(&arrived);
    }
    const int feature = tile * feature_tile + own_feature;
    if (has_row && feature < features) {
      if constexpr (Divided) {
        total = exchange[0][threadIdx.x];
        for (int part = 1; part < parts; ++part) total += exchange[part][threadIdx.x];
      }
      result.store(prepared, own_row, feature, total);
    }
    if constexpr (!many_tiles) return;
    tile += tile_step;
    if (tile * feature_tile >= features) return;
  }
}

/// Grid: rows.
template <element T>
__global__ void __launch_bounds__(row_threads)
    rows_embedding_kernel(const std::int32_t* ids, const __grid_constant__ matrix_view<const T> table,
                          const __grid_constant__ matrix_view<float> out) {
  if constexpr (!adds_rows_keys<T>) let_next_grid_start();
  wait_for_previous_grid();
  const index_t row = blockIdx.x;
  const index_t id = ids[row];
  const bool is_known = id >= 0 && id < table.rows;
  const auto cols = static_cast<int>(table.cols);
  for (int column = static_cast<int>(threadIdx.x) * 4; column < cols;
       column += static_cast<int>(row_threads) * 4) {
    float values[4];
    unpack(load_features<4, true>(table.data + (is_known ? id : 0) * table.stride + column, 4), values);
#pragma unroll
    for (float& value : values) value = is_known ? value : __int_as_float(0x7fffffff);
    store_pack(out.data + row * out.stride + column, values);
  }
}

/// Whole packs of 4, aligned; of the weight of 16 bytes.
template <element T, class... Views>
[[nodiscard]] bool takes_row_packs(const matrix_view<const T>& weight, const Views&... views) {
  return takes_packs(weight, 16 / static_cast<int>(sizeof(T))) && (takes_packs(views, 4) && ...);
}

template <element T, class Rows, class Result>
void row_matmul(execution& e, const matrix_view<const T>& weight, const Rows& rows, const Result& result,
                index_t row_count, const row_division& division, launch_overlap overlap) {
  require(row_count <= most_matmul_rows && weight.cols % 8 == 0 &&
              division.depth <= (Rows::are_normed ? most_row_depth : most_part_depth),
          "cuda::row_matmul: more rows or a larger depth than it takes");
  if (row_count == 0 || weight.rows == 0) return;
  using std::integral_constant;
  constexpr integral_constant<int, 4> few;  // slabs
  const auto submit = [&](auto slabs, auto tiles, auto divided) {
    const auto kernel = row_matmul_kernel<T, slabs(), tiles(), divided(), Rows, Result>;
    require(!divided() || takes_clusters(e, kernel), "cuda::row_matmul: the depth needs clusters of blocks");
    const index_t all = ceil_div(weight.rows, index_t{feature_tile});
    const index_t at_once =
        index_t{blocks_at_once<slabs(), tiles(), Result>} * current_device_limits().multiprocessors;
    const index_t blocks = Result::takes_many_tiles ? std::min<index_t>(all, at_once) : all;
    using weights = weight_tiles<T, slabs(), Result::takes_many_tiles ? 2 : 1>;
    launch(e, kernel,
           {.blocks = dim3(static_cast<unsigned>(blocks * division.parts)),
            .threads = row_matmul_threads,
            .shared_bytes = weights::shared_bytes,
            .cluster = division.parts,
            .overlap = overlap},
           weight, rows, result, division.parts, static_cast<int>(division.depth), static_cast<int>(blocks));
  };
  const auto with_tiles = [&](auto slabs, auto divided) {
    if (row_count <= row_tile)
      submit(slabs, integral_constant<int, 1>{}, divided);
    else
      submit(slabs, integral_constant<int, 2>{}, divided);
  };
  if (division.parts > 1) {
    if constexpr (!Rows::are_normed) with_tiles(few, std::true_type{});
  } else if (division.depth <= few() * row_matmul_warps * row_slab) {
    with_tiles(few, std::false_type{});
  } else {
    if constexpr (Rows::are_normed) with_tiles(integral_constant<int, 2 * few()>{}, std::false_type{});
  }
}

}  // namespace detail

template <element T>
bool row_clusters_work(const execution& e) {
  return detail::takes_clusters(
      e, detail::row_matmul_kernel<T, 4, 1, true, detail::plain_rows<T>, detail::sum_result>);
}

template <element T>
void rows_embedding(execution& e, const rows_embedding_arguments<T>& in) {
  require(in.out.cols == in.table.cols && detail::takes_packs(in.table, 4) && detail::takes_packs(in.out, 4),
          "cuda::rows_embedding: the shapes do not agree");
  if (in.out.rows == 0) return;
  detail::launch(e, detail::rows_embedding_kernel<T>,
                 {.blocks = dim3(static_cast<unsigned>(in.out.rows)),
                  .threads = detail::row_threads,
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
              detail::takes_row_packs(in.weight, in.x, in.norm_weight),
          "cuda::norm_rows_matmul: the shapes do not agree");
  detail::row_matmul<T>(e, in.weight, detail::normed_rows<T>{in.x, in.norm_weight.data, in.epsilon},
                        detail::target_result<T>{target}, in.x.rows, {1, in.x.cols}, in.overlap);
}

template <element T>
void rows_residual(execution& e, const rows_residual_arguments<T>& in) {
  require(in.weight.cols == in.a.cols && in.out.rows == in.a.rows && in.out.cols == in.weight.rows &&
              in.x.rows == in.out.rows && in.x.cols == in.out.cols &&
              detail::takes_row_packs(in.weight, in.a),
          "cuda::rows_residual: the shapes do not agree");
  detail::row_matmul<T>(e, in.weight, detail::plain_rows<T>{in.a}, detail::sum_result{in.x, in.out},
                        in.a.rows, row_division::of(in.a.cols), in.overlap);
}

template <element T>
void norm_rows_logits(execution& e, const norm_rows_logits_arguments<T>& in) {
  require(in.weight.cols == in.x.cols && in.norm_weight.size == in.x.cols && in.y.rows == in.x.rows &&
              in.y.cols == in.weight.rows && detail::takes_row_packs(in.weight, in.x, in.norm_weight),
          "cuda::norm_rows_logits: the shapes do not agree");
  detail::row_matmul<T>(e, in.weight, detail::normed_rows<T>{in.x, in.norm_weight.data, in.epsilon},
                        detail::scaled_result{in.y, in.scale}, in.x.rows, {1, in.x.cols}, in.overlap);
}

}  // namespace t5zero::cuda
