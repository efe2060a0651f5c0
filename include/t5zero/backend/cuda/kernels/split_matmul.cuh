// c (+)= alpha op(a) op(b) in fp32 on bfloat16 tensor cores.
//
// A float is the sum of three bfloat16 x0 + x1 + x2 (8 bits each, the exponent's range is the same), so
//   a b = a0 b0 + (a0 b1 + a1 b0) + (a1 b1 + a0 b2 + a2 b0) + ...,
// and what is dropped is below 2^-24 of the product. Tensor cores cut off what they add, so they add over a
// depth of 16 only, small terms first; those sums are added in fp32, rounded to nearest (Ootomo and Yokota
// 2022, "Recovering single precision accuracy from Tensor Cores while surpassing the FP32 theoretical peak
// performance", arXiv 2203.03341).
//
// Shapes: a is [rows, depth] or, transposed, [depth, rows]; b [depth, cols] or [cols, depth]; c [rows, cols].
// Strides are multiples of 4 floats, first elements aligned to 16 bytes (takes_split_matmul). c overlaps
// neither. With a relu_result, c becomes the product where `activated` is positive, times its scale, else 0;
// `activated` is not c. Deterministic: the blocks of a cluster divide the depth; their sums are added in
// order. No atomics. One launch on the execution's stream, which may overlap the kernel in front, without
// workspace; where few tiles have a great depth two, and [pieces, rows, cols] floats of workspace: pieces of
// the depth are products of their own, which the second launch adds up in order. The gradient through
// t5-small's head, 110 x 512 over 32128: 32 pieces of 4 tiles, 50 us on an H100.
//
// Range: a result that an infinity, a NaN or a value beyond bfloat16's largest (3.39e38) contributes to is
// NaN, where fp32 arithmetic may have an infinity; never finite. Parts below 2^-133 are lost: operands below
// 2^-110 are less accurate than in fp32.
//
// For Hopper alone (has_split_matmul): the instructions are sm_90a's.
#pragma once

#include <limits>
#include <optional>
#include <type_traits>

#include <t5zero/backend/cuda/execution.hpp>
#include <t5zero/backend/cuda/kernels/cluster.cuh>
#include <t5zero/backend/cuda/kernels/grid_overlap.cuh>
#include <t5zero/backend/cuda/kernels/row_access.cuh>
#include <t5zero/backend/cuda/kernels/shared_barrier.cuh>
#include <t5zero/backend/cuda/kernels/split_tiles.cuh>
#include <t5zero/backend/cuda/kernels/token_tiles.cuh>
#include <t5zero/backend/cuda/split_matmul.hpp>
#include <t5zero/core/error.hpp>

namespace t5zero::cuda {

namespace detail {

/// Two warpgroups multiply 64 rows each, a third one splits what they share.
inline constexpr int split_threads = 3 * warpgroup_size;
inline constexpr int split_multiplying_warps = 8;

struct split_problem {
  matrix_view<const float> a;
  matrix_view<const float> b;
  matrix_view<float> c;
  float alpha;
  bool accumulates;
  int row_tiles;
  int col_tiles;
  int parts;       ///< blocks of a cluster
  int part_slabs;  ///< of each
  relu_result relu;
};

/// What sums, multiplied by alpha, become where they meet `met`: the results before, or those of the relu.
/// `other`: where these lie; null where there are none.
[[nodiscard]] __device__ inline float2 finished_sums(float2 result, float2 met, const float* other,
                                                     bool accumulates, const relu_result& relu) {
  if (accumulates) {
    result.x += met.x;
    result.y += met.y;
  } else if (other != nullptr) {
    result.x = met.x > 0.0F ? result.x * relu.scale : 0.0F;
    result.y = met.y > 0.0F ? result.y * relu.scale : 0.0F;
  }
  return result;
}

/// Where the pieces of a block's shared memory lie.
template <int Cols, operand_layout A, operand_layout B>
struct split_memory {
  using cols = split_cols<Cols, B>;
  using rows = split_rows<A>;
  unsigned char* parts;    ///< of b, split_parts_in_flight slabs
  float* col_slabs;        ///< of b
  float* row_slabs;        ///< of a, of one warpgroup after the other
  std::uint64_t* filled;   ///< parts of a slab are there
  std::uint64_t* emptied;  ///< they were read

  __device__ split_memory() {
    unsigned char* next = dynamic_shared_memory();
    const auto take = [&](int bytes) {
      unsigned char* const result = next;
      next += bytes;
      return result;
    };
    parts = take(split_parts_in_flight * cols::parts_bytes);
    col_slabs = reinterpret_cast<float*>(take(4 * split_slabs_in_flight * cols::slab_floats));
    row_slabs = reinterpret_cast<float*>(take(8 * split_slabs_in_flight * rows::slab_floats));
    filled = reinterpret_cast<std::uint64_t*>(take(8 * split_parts_in_flight));
    emptied = reinterpret_cast<std::uint64_t*>(take(8 * split_parts_in_flight));
  }
};

/// Grid: x parts of a tile, then tiles along the side that has fewer: blocks that run at once share what they
/// read of the larger operand; y pieces of the depth, whose results lie one behind another from c on.
template <int Cols, operand_layout A, operand_layout B>
__global__ void __launch_bounds__(warpgroup_threads(split_threads), 1)
    split_matmul_kernel(const __grid_constant__ split_problem problem) {
#if T5ZERO_WARPGROUPS
  const int rank = static_cast<int>(blockIdx.x) % problem.parts;
  const int index = static_cast<int>(blockIdx.x) / problem.parts;
  const bool rows_first = problem.row_tiles <= problem.col_tiles;
  const int short_side = rows_first ? problem.row_tiles : problem.col_tiles;
  const index_t first_row = index_t{rows_first ? index % short_side : index / short_side} * split_tile_rows;
  const index_t first_col = index_t{rows_first ? index / short_side : index % short_side} * Cols;
  const index_t depth = A == operand_layout::depth ? problem.a.cols : problem.a.rows;
  const int piece = static_cast<int>(blockIdx.y);
  const int first_slab = (piece * problem.parts + rank) * problem.part_slabs;
  const int slabs = min(problem.part_slabs, static_cast<int>(ceil_div(depth, split_slab)) - first_slab);
  const index_t first = index_t{first_slab} * split_slab;

  const split_memory<Cols, A, B> memory;
  const int warpgroup = static_cast<int>(threadIdx.x) / warpgroup_size;
  // Rows beyond the result are not multiplied.
  const int warpgroups = problem.c.rows - first_row > split_rows<A>::rows ? 2 : 1;
  if (threadIdx.x == 0) {
    for (int i = 0; i < split_parts_in_flight; ++i) {
      make_barrier(memory.filled + i, warpgroup_size);
      make_barrier(memory.emptied + i, 4 * warpgroups);
    }
  }
  __syncthreads();
  wait_for_previous_grid_alone();

  if (warpgroup == 2) {
    release_registers_to<88>();
    split_cols<Cols, B> cols(problem.b, first_col, first, memory.col_slabs);
    const auto start_slab = [&](int slab) {
      if (slab < slabs) cols.start_slab(slab);
      end_copy_group();
    };
#pragma unroll
    for (int slab = 0; slab < split_slabs_in_flight - 1; ++slab) start_slab(slab);
#pragma unroll 1
    for (int slab = 0; slab < slabs; ++slab) {
      start_slab(slab + split_slabs_in_flight - 1);  // its place was read in the last turn, by this thread
      wait_for_copy_groups<split_slabs_in_flight - 1>();
      const int place = slab % split_parts_in_flight;
      const int turn = slab / split_parts_in_flight;
      cols.split(slab, memory.parts + place * split_cols<Cols, B>::parts_bytes,
                 [&] { wait_for(memory.emptied + place, (turn + 1) % 2); });
      publish_to_products();
      arrive(memory.filled + place);
    }
    if (problem.parts > 1) {
      for (int i = 0; i < 2; ++i) {
        publish_to_cluster();
        wait_for_cluster();
      }
    }
  } else {
    claim_registers_to<208>();
    split_sums<Cols> sums;
    if (warpgroup < warpgroups) {
      split_rows<A> rows(problem.a, first_row + warpgroup * split_rows<A>::rows, first,
                         memory.row_slabs + warpgroup * split_slabs_in_flight * split_rows<A>::slab_floats);
      const auto start_slab = [&](int slab) {
        if (slab < slabs) rows.start_slab(slab);
        end_copy_group();
      };
      using cols = split_cols<Cols, B>;
      const auto wait_for_slab = [&](int slab) {
        wait_for_copy_groups<split_slabs_in_flight - 2>();
        synchronize_warpgroup(1 + warpgroup);  // the slab is there, and the one before is free
        start_slab(slab + split_slabs_in_flight - 1);
      };
      // While a step is multiplied the next one is loaded and, where registers allow it, the one before is
      // added up. Beyond the last slab what is loaded has no use.
      constexpr int later = Cols <= 64 ? 1 : 0;
      std::uint32_t a[2][3][4] = {};
      split_products<Cols> products[later + 1];
#pragma unroll
      for (int slab = 0; slab < split_slabs_in_flight - 1; ++slab) start_slab(slab);
      wait_for_slab(0);
      rows.load(0, 0, a[0]);
      const auto wait_for_parts = [&](int slab) {
        if (slab < slabs)
          wait_for(memory.filled + slab % split_parts_in_flight, slab / split_parts_in_flight % 2);
      };
      if constexpr (later == 0) wait_for_parts(0);
#pragma unroll 1
      for (int slab = 0; slab < slabs; ++slab) {
        const int place = slab % split_parts_in_flight;
        if constexpr (later > 0) wait_for_parts(slab);
        const std::uint64_t b =
            warpgroup_operand(memory.parts + place * cols::parts_bytes, cols::depth_bytes, cols::side_bytes);
        const auto start = [&](int step, split_products<Cols>& to) {
          to.template start<cols, B == operand_layout::rows>(
              a[step], advance(b, step * split_step / 8 * cols::depth_bytes));
        };
        start(0, products[0]);
        rows.load(slab, 1, a[1]);
        if constexpr (later == 0) products[0].template add_to<0>(sums, a[0]);
        start(1, products[later]);
        if constexpr (later > 0) products[0].template add_to<1>(sums, a[0]);
        wait_for_slab(slab + 1);
        rows.load(slab + 1, 0, a[0]);
        // A loop between the two keeps the compiler from splitting a only after it has waited for products:
        // 5% in a large tile, -3% in a small one.
        if constexpr (later == 0) wait_for_parts(slab + 1);
        products[later].template add_to<0>(sums, a[1]);
        if (threadIdx.x % warp_size == 0) arrive(memory.emptied + place);
      }
    }

    const int lane = static_cast<int>(threadIdx.x) % warp_size;
    const int warp = static_cast<int>(threadIdx.x) / warp_size;
    // What the results meet on their way: the sums before, or what the relu gave. Loaded for several groups
    // at a time, since each load would wait for the store in front.
    const matrix_view<const float> other =
        problem.accumulates ? matrix_view<const float>(problem.c) : problem.relu.activated;
    struct pair_of_rows {
      float2 values[2];
    };
    // A group of 8 columns of a warp's fragment: calls f(half, row, column) for its pairs in the result.
    const auto for_each_pair = [&](int of_warp, int group, const auto& f) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const index_t row = first_row + of_warp * 16 + half * 8 + lane / 4;
        const index_t col = first_col + group * 8 + lane % 4 * 2;
        if (row < problem.c.rows && col < problem.c.cols) f(half, row, col);
      }
    };
    const auto load_other = [&](int of_warp, int group) {
      pair_of_rows result{};
      if (other.data != nullptr) {
        for_each_pair(of_warp, group, [&](int half, index_t row, index_t col) {
          result.values[half] = *reinterpret_cast<const float2*>(&other(row, col));
        });
      }
      return result;
    };
    const auto store = [&](int of_warp, int group, const float4& sum, const pair_of_rows& met) {
      for_each_pair(of_warp, group, [&](int half, index_t row, index_t col) {
        *reinterpret_cast<float2*>(&problem.c(piece * problem.c.rows + row, col)) = finished_sums(
            {problem.alpha * (half == 0 ? sum.x : sum.z), problem.alpha * (half == 0 ? sum.y : sum.w)},
            met.values[half], other.data, problem.accumulates, problem.relu);
      });
    };
    constexpr int groups = Cols / 8;
    const auto group_of = [&](int group) {
      return float4{sums.values[4 * group], sums.values[4 * group + 1], sums.values[4 * group + 2],
                    sums.values[4 * group + 3]};
    };
    if (problem.parts == 1) {
      if (warpgroup < warpgroups) {
        constexpr int at_once = 4;
        static_assert(groups % at_once == 0);
#pragma unroll
        for (int first_group = 0; first_group < groups; first_group += at_once) {
          pair_of_rows met[at_once];
#pragma unroll
          for (int i = 0; i < at_once; ++i) met[i] = load_other(warp, first_group + i);
#pragma unroll
          for (int i = 0; i < at_once; ++i) store(warp, first_group + i, group_of(first_group + i), met[i]);
        }
      }
      return;
    }
    // Each block of the cluster adds up some groups of all; they lie where the slabs were.
    auto* const exchange = reinterpret_cast<float4*>(dynamic_shared_memory());
    const int share = static_cast<int>(ceil_div(split_multiplying_warps * groups, problem.parts));
    publish_to_cluster();
    wait_for_cluster();
    if (warpgroup < warpgroups) {
#pragma unroll
      for (int group = 0; group < groups; ++group) {
        const int unit = warp * groups + group;
        store_to_peer(exchange + (rank * share + unit % share) * warp_size + lane, unit / share,
                      group_of(group));
      }
    }
    publish_to_cluster();
    wait_for_cluster();
    const int end = min(share, 4 * warpgroups * groups - rank * share);
    for (int i = warp; i < end; i += split_multiplying_warps) {
      const int of_warp = (rank * share + i) / groups;
      const int group = (rank * share + i) % groups;
      const pair_of_rows met = load_other(of_warp, group);
      float4 sum{0.0F, 0.0F, 0.0F, 0.0F};
      for (int from = 0; from < problem.parts; ++from) {
        const float4 values = exchange[(from * share + i) * warp_size + lane];
        sum.x += values.x;
        sum.y += values.y;
        sum.z += values.z;
        sum.w += values.w;
      }
      store(of_warp, group, sum, met);
    }
  }
#endif
}

/// c (+)= alpha times the sum of `pieces` matrices of c's shape, which lie one behind another, in order; then
/// the relu. A thread has four columns of a row.
template <int Threads>
__global__ void __launch_bounds__(Threads)
    add_split_pieces_kernel(const float* from, int pieces, matrix_view<float> c, float alpha,
                            bool accumulates, relu_result relu) {
  wait_for_previous_grid();
  const index_t quads = c.cols / 4;
  const index_t quad = index_t{blockIdx.x} * Threads + threadIdx.x;
  if (quad >= c.rows * quads) return;
  const index_t row = quad / quads;
  const index_t col = quad % quads * 4;
  float sum[4] = {};
#pragma unroll 8
  for (int piece = 0; piece < pieces; ++piece) {
    float values[4];
    load_pack(from + 4 * (piece * c.rows * quads + quad), values);
#pragma unroll
    for (int i = 0; i < 4; ++i) sum[i] += values[i];
  }
  const matrix_view<const float> other = accumulates ? matrix_view<const float>(c) : relu.activated;
#pragma unroll
  for (int i = 0; i < 4; i += 2) {
    float2 met{};
    if (other.data != nullptr) met = *reinterpret_cast<const float2*>(&other(row, col + i));
    const float2 result =
        finished_sums({alpha * sum[i], alpha * sum[i + 1]}, met, other.data, accumulates, relu);
    sum[i] = result.x;
    sum[i + 1] = result.y;
  }
  store_pack(&c(row, col), sum);
}

/// Calls f with split_tiles[index] as a constant.
template <class F>
void with_split_tile(int index, const F& f) {
  static_assert(split_tiles.size() == 3);
  if (index == 0)
    f(std::integral_constant<int, split_tiles[0].cols>{});
  else if (index == 1)
    f(std::integral_constant<int, split_tiles[1].cols>{});
  else
    f(std::integral_constant<int, split_tiles[2].cols>{});
}

template <operand_layout A, operand_layout B>
void launch_split_matmul(execution& e, split_problem problem, split_division division) {
  const index_t depth = A == operand_layout::depth ? problem.a.cols : problem.a.rows;
  if (division.tile < 0)
    division = choose_split_division(problem.c.rows, problem.c.cols, depth,
                                     current_device_limits().multiprocessors, e.matmul_workspace_bytes());
  require(division.tile < static_cast<int>(split_tiles.size()) && division.parts >= 1 &&
              division.parts <= split_max_parts && division.pieces >= 1 &&
              division.pieces <= split_max_pieces,
          "cuda::split_matmul: no such division");
  const split_problem whole = problem;
  const float* partial_sums = nullptr;
  if (division.pieces > 1) {
    auto* const workspace = reinterpret_cast<float*>(
        e.workspace(split_workspace_bytes(problem.c.rows, problem.c.cols, division)));
    partial_sums = workspace;
    problem.c = {workspace, problem.c.rows, problem.c.cols};
    problem.alpha = 1.0F;
    problem.accumulates = false;
    problem.relu = {};
  }
  with_split_tile(division.tile, [&](auto cols) {
    problem.row_tiles = static_cast<int>(ceil_div(problem.c.rows, split_tile_rows));
    problem.col_tiles = static_cast<int>(ceil_div(problem.c.cols, cols()));
    problem.parts = division.parts;
    problem.part_slabs =
        static_cast<int>(ceil_div(ceil_div(depth, split_slab), index_t{division.parts} * division.pieces));
    const index_t blocks = index_t{problem.row_tiles} * problem.col_tiles * problem.parts;
    require(blocks <= std::numeric_limits<int>::max(), "cuda::split_matmul: the result is too large");
    constexpr index_t shared_bytes =
        split_parts_in_flight * split_cols<cols(), B>::parts_bytes +
        4 * split_slabs_in_flight * (split_cols<cols(), B>::slab_floats + 2 * split_rows<A>::slab_floats) +
        16 * split_parts_in_flight;
    static_assert(shared_bytes >= index_t{4} * (split_tile_rows + 8 * split_max_parts) * cols(),
                  "room for the exchange");
    static_assert(shared_bytes <= split_shared_bytes);
    launch(e, split_matmul_kernel<cols(), A, B>,
           {.blocks = dim3(static_cast<unsigned>(blocks), static_cast<unsigned>(division.pieces)),
            .threads = split_threads,
            .shared_bytes = shared_bytes,
            .cluster = division.parts,
            .overlap = overlap_of(e)},
           problem);
  });
  if (partial_sums == nullptr) return;
  constexpr int threads = 128;
  const index_t blocks = ceil_div(whole.c.rows * (whole.c.cols / 4), threads);
  require(blocks <= std::numeric_limits<int>::max(), "cuda::split_matmul: the result is too large");
  launch(e, add_split_pieces_kernel<threads>,
         {.blocks = dim3(static_cast<unsigned>(blocks)),
          .threads = threads,
          .overlap = overlap_of(e),
          .is_row_wise = true},
         partial_sums, division.pieces, whole.c, whole.alpha, whole.accumulates, whole.relu);
}

}  // namespace detail

template <class T>
bool has_split_matmul() {
  static_assert(std::is_same_v<T, float>);
  constexpr int cols = split_tiles[0].cols;
  constexpr auto kernel =
      detail::split_matmul_kernel<cols, detail::operand_layout::depth, detail::operand_layout::depth>;
  return current_device_limits().shared_bytes >= split_shared_bytes &&
         detail::takes_warpgroups(detail::attributes_of(kernel));
}

template <class T>
std::optional<split_division> preferred_split(const execution& e, transpose transpose_a,
                                              matrix_view<const float> a, transpose transpose_b,
                                              matrix_view<const float> b, matrix_view<float> c) {
  if (e.allows_tf32() || !takes_split_matmul(transpose_a, a, transpose_b, b, c)) return {};
  const auto division =
      faster_split_division(c.rows, c.cols, transpose_a == transpose::yes ? a.rows : a.cols,
                            current_device_limits().multiprocessors, e.matmul_workspace_bytes());
  return division && has_split_matmul<T>() ? division : std::nullopt;
}

/// split_matmul.hpp has the contract.
template <class T>
void split_matmul(execution& e, transpose transpose_a, matrix_view<const float> a, transpose transpose_b,
                  matrix_view<const float> b, matrix_view<float> c, gradient_mode mode, float alpha,
                  split_division division, const relu_result& relu) {
  const bool ta = transpose_a == transpose::yes;
  const bool tb = transpose_b == transpose::yes;
  require((ta ? a.cols : a.rows) == c.rows && (tb ? b.rows : b.cols) == c.cols &&
              (tb ? b.cols : b.rows) == (ta ? a.rows : a.cols),
          "cuda::split_matmul: the shapes do not agree");
  require(takes_split_matmul(transpose_a, a, transpose_b, b, c),
          "cuda::split_matmul: sizes, strides or addresses are not multiples of 16 bytes");
  require(relu.activated.data == nullptr ||
              (relu.activated.rows == c.rows && relu.activated.cols == c.cols &&
               detail::takes_packs(relu.activated, 2) && mode == gradient_mode::overwrite),
          "cuda::split_matmul: the relu's result does not fit the product");
  if (c.rows == 0 || c.cols == 0) return;
  const detail::split_problem problem{.a = a,
                                      .b = b,
                                      .c = c,
                                      .alpha = alpha,
                                      .accumulates = mode == gradient_mode::accumulate,
                                      .row_tiles = 0,
                                      .col_tiles = 0,
                                      .parts = 0,
                                      .part_slabs = 0,
                                      .relu = relu};
  if (ta)
    detail::launch_split_matmul<detail::operand_layout::rows, detail::operand_layout::rows>(e, problem,
                                                                                            division);
  else if (tb)
    detail::launch_split_matmul<detail::operand_layout::depth, detail::operand_layout::depth>(e, problem,
                                                                                              division);
  else
    detail::launch_split_matmul<detail::operand_layout::depth, detail::operand_layout::rows>(e, problem,
                                                                                             division);
}

}  // namespace t5zero::cuda
