// The parts of split_matmul's kernel: slabs of fp32 operands in shared memory, their values as fragments of
// three bfloat16 each, and the products.
//
// Each operand is seen as rows (those of a, the columns of b) of a common depth; in memory either the depth
// or the rows are consecutive. A warp takes 32 rows of an operand and a depth of 16 as one fragment: lane
// 4 g + t holds rows 4 g .. 4 g + 3 and depths 4 t .. 4 t + 3, from four 16-byte loads in either layout. The
// instruction's own order of rows and depth does not matter as long as both operands and the result agree.
#pragma once

#include <cstdint>

#include <t5zero/backend/cuda/kernels/element.cuh>
#include <t5zero/backend/cuda/kernels/tensor_core.cuh>
#include <t5zero/backend/cuda/split_matmul.hpp>
#include <t5zero/tensor/tensor_view.hpp>

namespace t5zero::cuda::detail {

/// What is consecutive in an operand's memory.
enum class operand_layout : std::uint8_t { depth, rows };

inline constexpr int split_threads = 8 * warp_size;
/// Rows and depth of a fragment.
inline constexpr int fragment_rows = 32;
inline constexpr int fragment_depth = 16;

/// Where a slab of an operand keeps its quads (16 bytes) in shared memory. Quads are exchanged so that
/// the eight lanes that load at once (two g, four t) meet different banks.
template <int Rows, operand_layout Layout>
struct split_slab_layout {
  static constexpr int floats = Rows * split_slab;

  /// The quad that begins with (row, depth); the one of them that is consecutive is a multiple of 4.
  [[nodiscard]] __device__ static constexpr int quad_at(int row, int depth) {
    if constexpr (Layout == operand_layout::depth)
      return row * split_slab + ((depth / 4) ^ (row / 4 % 2 * 4)) * 4;
    else
      return depth * Rows + ((row / 4) ^ (depth / 4 % 4 * 2)) * 4;
  }
};

/// A thread's share of the copies of an operand's slabs, one slab after the other.
template <int Rows, operand_layout Layout>
class split_slab_copies {
 public:
  using layout = split_slab_layout<Rows, Layout>;

  /// From row `first_row` and depth `first` of the operand; zeros beyond its ends.
  __device__ split_slab_copies(const matrix_view<const float>& from, index_t first_row, index_t first)
      : base_(from.data), stride_(from.stride) {
    const index_t own_row = first_row + row(0);
    const index_t own_depth = first + depth(0);
    rows_left_ = static_cast<int>((Layout == operand_layout::depth ? from.rows : from.cols) - own_row);
    depth_left_ = static_cast<int>((Layout == operand_layout::depth ? from.cols : from.rows) - own_depth);
    next_ = base_ +
            (Layout == operand_layout::depth ? own_row * stride_ + own_depth : own_depth * stride_ + own_row);
  }

  /// Starts the copies of the next slab.
  __device__ void start(float* to) {
#pragma unroll
    for (int i = 0; i < count; ++i) {
      const bool inside = row(i) - row(0) < rows_left_ && depth(i) - depth(0) < depth_left_;
      copy_16_bytes_async(to + layout::quad_at(row(i), depth(i)),
                          inside ? next_ + i * line_step * stride_ : base_, inside);
    }
    depth_left_ -= split_slab;
    next_ += Layout == operand_layout::depth ? split_slab : split_slab * stride_;
  }

 private:
  // Lines are rows of memory; a thread's quads lie in every line_step-th.
  static constexpr int line_quads = (Layout == operand_layout::depth ? split_slab : Rows) / 4;
  static constexpr int lines = Layout == operand_layout::depth ? Rows : split_slab;
  static constexpr int line_step = split_threads / line_quads;
  static constexpr int count = lines / line_step;
  static_assert(split_threads % line_quads == 0 && lines % line_step == 0 && count > 0);

  [[nodiscard]] __device__ static int line(int i) {
    return static_cast<int>(threadIdx.x) / line_quads + i * line_step;
  }
  [[nodiscard]] __device__ static int quad() {
    return static_cast<int>(threadIdx.x) % line_quads * 4;
  }
  [[nodiscard]] __device__ static int row(int i) {
    return Layout == operand_layout::depth ? line(i) : quad();
  }
  [[nodiscard]] __device__ static int depth(int i) {
    return Layout == operand_layout::depth ? quad() : line(i);
  }

  const float* base_;
  const float* next_;
  index_t stride_;
  int rows_left_;
  int depth_left_;
};

/// x and y as sums of three bfloat16, the largest first: together all 24 bits of a float. What is left after
/// two has at most 8 bits, so that its upper half is all of it.
__device__ inline void split_pair(float x, float y, std::uint32_t& large, std::uint32_t& middle,
                                  std::uint32_t& small) {
  const auto subtract = [&](std::uint32_t pair) {
    x -= __uint_as_float(pair << 16);
    y -= __uint_as_float(pair & 0xffff0000U);
  };
  large = round_pair<bfloat16>(x, y);
  subtract(large);
  middle = round_pair<bfloat16>(x, y);
  subtract(middle);
  small = __byte_perm(__float_as_uint(x), __float_as_uint(y), 0x7632);
}

/// 32 rows of an operand over a depth of 16, and split.
struct split_fragment {
  float values[4][4];            ///< [row][depth]
  std::uint32_t pairs[3][4][2];  ///< [large, middle, small][row][depths]

  template <class SlabLayout>
  __device__ void load(const float* slab, int first_row, int first_depth) {
    const int g = static_cast<int>(threadIdx.x) % warp_size / 4;
    const int t = static_cast<int>(threadIdx.x) % 4;
    load_values(slab, SlabLayout{}, first_row + 4 * g, first_depth + 4 * t, values);
#if __CUDA_ARCH__ >= 800
#pragma unroll
    for (int row = 0; row < 4; ++row) {
#pragma unroll
      for (int half = 0; half < 2; ++half)
        split_pair(values[row][2 * half], values[row][2 * half + 1], pairs[0][row][half], pairs[1][row][half],
                   pairs[2][row][half]);
    }
#endif
  }

 private:
  template <int Rows>
  __device__ static void load_values(const float* slab, split_slab_layout<Rows, operand_layout::depth> /*of*/,
                                     int row, int depth, float (&values)[4][4]) {
#pragma unroll
    for (int i = 0; i < 4; ++i)
      load_pack<4>(slab + split_slab_layout<Rows, operand_layout::depth>::quad_at(row + i, depth), values[i]);
  }
  template <int Rows>
  __device__ static void load_values(const float* slab, split_slab_layout<Rows, operand_layout::rows> /*of*/,
                                     int row, int depth, float (&values)[4][4]) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      float quad[4];
      load_pack<4>(slab + split_slab_layout<Rows, operand_layout::rows>::quad_at(row, depth + i), quad);
#pragma unroll
      for (int j = 0; j < 4; ++j) values[j][i] = quad[j];
    }
  }
};

/// Sums of 32 x 32 results of a warp; lane 4 g + t holds rows 4 g .. 4 g + 3, columns 8 t .. 8 t + 7.
struct split_sums {
  float values[2][4][4] = {};

  /// Adds a b. A tensor core cuts off what it adds, so it adds over a depth of 16 only, small terms first;
  /// the rest is done in fp32.
  __device__ void add_products(const split_fragment& a, const split_fragment& b) {
#if __CUDA_ARCH__ >= 800
    constexpr int terms[6][2] = {{2, 0}, {0, 2}, {1, 1}, {1, 0}, {0, 1}, {0, 0}};
    float products[2][4][4] = {};
#pragma unroll
    for (const auto& term : terms) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const auto& rows = a.pairs[term[0]];
        const std::uint32_t left[4] = {rows[2 * i][0], rows[2 * i + 1][0], rows[2 * i][1],
                                       rows[2 * i + 1][1]};
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          float(&p)[4] = products[i][j];
          multiply_add<bfloat16>(p[0], p[1], p[2], p[3], left, b.pairs[term[1]][j][0],
                                 b.pairs[term[1]][j][1]);
        }
      }
    }
#pragma unroll
    for (int i = 0; i < 2; ++i) {
#pragma unroll
      for (int j = 0; j < 4; ++j) {
#pragma unroll
        for (int k = 0; k < 4; ++k) values[i][j][k] += products[i][j][k];
      }
    }
#else
    // No bfloat16 in these tensor cores: plain fp32, the operands travel by shuffles.
    const int lane = static_cast<int>(threadIdx.x) % warp_size;
#pragma unroll 1
    for (int from = 0; from < 4; ++from) {
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        float rows[4];
#pragma unroll
        for (int row = 0; row < 4; ++row)
          rows[row] = __shfl_sync(all_lanes, a.values[row][k], lane / 4 * 4 + from);
#pragma unroll
        for (int half = 0; half < 2; ++half) {
#pragma unroll
          for (int j = 0; j < 4; ++j) {
            const float col = __shfl_sync(all_lanes, b.values[j][k], (lane % 4 * 2 + half) * 4 + from);
#pragma unroll
            for (int row = 0; row < 4; ++row) values[row / 2][j][row % 2 * 2 + half] += rows[row] * col;
          }
        }
      }
    }
#endif
  }

  /// To rows `stride` floats apart; `to` is the first of the 32 x 32.
  __device__ void store(float* to, int stride) const {
    const int g = static_cast<int>(threadIdx.x) % warp_size / 4;
    const int t = static_cast<int>(threadIdx.x) % 4;
#pragma unroll
    for (int row = 0; row < 4; ++row) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int value = row % 2 * 2 + half;
        *reinterpret_cast<float4*>(to + (4 * g + row) * stride + 8 * t + 4 * half) =
            float4{values[row / 2][0][value], values[row / 2][1][value], values[row / 2][2][value],
                   values[row / 2][3][value]};
      }
    }
  }
};

}  // namespace t5zero::cuda::detail
