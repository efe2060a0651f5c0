// The parts of split_matmul's kernel: slabs of fp32 operands in shared memory, and how their values become
// sums of three bfloat16 each: a's in the registers of the warpgroup that multiplies them, b's in shared
// memory, where the tensor cores read them.
//
// Each operand is seen as rows (those of a, the columns of b) of a common depth; in memory either the depth
// or the rows are consecutive.
#pragma once

#include <cstdint>

#include <t5zero/backend/cuda/kernels/element.cuh>
#include <t5zero/backend/cuda/kernels/tensor_core.cuh>
#include <t5zero/backend/cuda/kernels/warpgroup.cuh>
#include <t5zero/backend/cuda/split_matmul.hpp>
#include <t5zero/tensor/tensor_view.hpp>

namespace t5zero::cuda::detail {

/// What is consecutive in an operand's memory.
enum class operand_layout : std::uint8_t { depth, rows };

/// Depth of a product of tensor cores, and how many are in a slab.
inline constexpr int split_step = 16;
inline constexpr int split_steps = split_slab / split_step;

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

/// A thread's 16-byte pieces of an operand's slabs: which they are, and their copies, one slab after the
/// other. Piece i is rows(i) and depths(i) of Pieces further on than the first.
template <class Pieces, operand_layout Layout>
class split_copies {
 public:
  /// The thread's first piece lies at (row, depth) of the operand.
  __device__ split_copies(const matrix_view<const float>& from, index_t row, index_t depth)
      : base_(from.data), stride_(from.stride) {
    const bool along_depth = Layout == operand_layout::depth;
    rows_left_ = static_cast<int>((along_depth ? from.rows : from.cols) - row);
    depth_left_ = static_cast<int>((along_depth ? from.cols : from.rows) - depth);
    next_ = base_ + (along_depth ? row * stride_ + depth : depth * stride_ + row);
  }

  /// Starts to copy the next slab's piece i to place(i); zeros beyond the operand's ends.
  template <class Place>
  __device__ void start(const Place& place) {
#pragma unroll
    for (int i = 0; i < Pieces::count; ++i) {
      constexpr bool along_depth = Layout == operand_layout::depth;
      const bool inside = Pieces::rows(i) < rows_left_ && Pieces::depths(i) < depth_left_;
      const index_t offset = along_depth ? Pieces::rows(i) * stride_ + Pieces::depths(i)
                                         : Pieces::depths(i) * stride_ + Pieces::rows(i);
      copy_16_bytes_async(place(i), inside ? next_ + offset : base_, inside);
    }
    depth_left_ -= split_slab;
    next_ += Layout == operand_layout::depth ? split_slab : split_slab * stride_;
  }

 private:
  const float* base_;
  const float* next_;
  index_t stride_;
  int rows_left_;
  int depth_left_;
};

/// a's 64 rows of a warpgroup: fp32 slabs in shared memory, padded so that a warp's fragment meets different
/// banks; each warp has 16 of the rows as fragments of products.
template <operand_layout Layout>
class split_rows {
 public:
  static constexpr int rows = 64;
  static constexpr int stride = Layout == operand_layout::depth ? split_slab + 8 : rows + 4;
  static constexpr int slab_floats = (Layout == operand_layout::depth ? rows : split_slab) * stride;

  /// From row `first_row` and depth `first` of the operand.
  __device__ split_rows(const matrix_view<const float>& from, index_t first_row, index_t first, float* slabs)
      : copies_(from, first_row + row(), first + depth()), slabs_(slabs) {}

  __device__ void start_slab(int slab) {
    float* const to = slabs_ + slab % split_slabs_in_flight * slab_floats +
                      (Layout == operand_layout::depth ? row() * stride + depth() : depth() * stride + row());
    copies_.start([&](int i) { return to + i * line_step * stride; });
  }

  /// The parts of this warp's rows over a step: [large, middle, small][registers of a fragment].
  __device__ void load(int slab, int step, std::uint32_t (&parts)[3][4]) const {
    const int lane = static_cast<int>(threadIdx.x) % warp_size;
    const int row = static_cast<int>(threadIdx.x) % warpgroup_size / warp_size * 16 + lane / 4;
    const int depth = step * split_step + lane % 4 * 2;
    const float* const from = slabs_ + slab % split_slabs_in_flight * slab_floats;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int r = row + i % 2 * 8;
      const int d = depth + i / 2 * 8;
      float2 pair;
      if constexpr (Layout == operand_layout::depth)
        pair = *reinterpret_cast<const float2*>(from + r * stride + d);
      else
        pair = float2{from[d * stride + r], from[(d + 1) * stride + r]};
      split_pair(pair.x, pair.y, parts[0][i], parts[1][i], parts[2][i]);
    }
  }

 private:
  // Lines of memory, and how many of them the warpgroup copies at once.
  static constexpr int line_quads = (Layout == operand_layout::depth ? split_slab : rows) / 4;
  static constexpr int line_step = warpgroup_size / line_quads;
  struct pieces {
    static constexpr int count =
        (Layout == operand_layout::depth ? split_rows::rows : split_slab) / line_step;
    [[nodiscard]] __device__ static constexpr int rows(int i) {
      return Layout == operand_layout::depth ? i * line_step : 0;
    }
    [[nodiscard]] __device__ static constexpr int depths(int i) {
      return Layout == operand_layout::depth ? 0 : i * line_step;
    }
  };

  [[nodiscard]] __device__ static int line() {
    return static_cast<int>(threadIdx.x) % warpgroup_size / line_quads;
  }
  [[nodiscard]] __device__ static int quad() {
    return static_cast<int>(threadIdx.x) % line_quads * 4;
  }
  [[nodiscard]] __device__ static int row() {
    return Layout == operand_layout::depth ? line() : quad();
  }
  [[nodiscard]] __device__ static int depth() {
    return Layout == operand_layout::depth ? quad() : line();
  }

  split_copies<pieces, Layout> copies_;
  float* slabs_;
};

/// b's columns of a block, by one warpgroup: a thread copies pieces of fp32 slabs, splits them, and leaves
/// the parts as three operands of products (warpgroup_operand).
template <int Cols, operand_layout Layout>
class split_cols {
 public:
  static constexpr int slab_floats = Cols * split_slab;
  static constexpr int matrix_bytes = 128;
  static constexpr int side_bytes = matrix_bytes;  ///< between matrices along the columns
  static constexpr int depth_bytes = Cols / 8 * matrix_bytes;
  static constexpr int part_bytes = split_slab / 8 * depth_bytes;
  static constexpr int parts_bytes = 3 * part_bytes;

  /// From column `first_col` and depth `first` of the operand.
  __device__ split_cols(const matrix_view<const float>& from, index_t first_col, index_t first, float* slabs)
      : copies_(from, first_col + col(), first + depth()), slabs_(slabs + own() * 4) {}

  __device__ void start_slab(int slab) {
    float* const to = slabs_ + slab % split_slabs_in_flight * slab_floats;
    copies_.start([&](int i) { return to + i * warpgroup_size * 4; });
  }

  /// Splits this thread's pieces of a slab and, after `until_free()`, stores their parts.
  template <class UntilFree>
  __device__ void split(int slab, unsigned char* to, const UntilFree& until_free) const {
    std::uint32_t parts[pieces::count][3][2];
    const float* const from = slabs_ + slab % split_slabs_in_flight * slab_floats;
#pragma unroll
    for (int i = 0; i < pieces::count; ++i) {
      float quad[4];
      load_pack<4>(from + i * warpgroup_size * 4, quad);
#pragma unroll
      for (int half = 0; half < 2; ++half)
        split_pair(quad[2 * half], quad[2 * half + 1], parts[i][0][half], parts[i][1][half],
                   parts[i][2][half]);
    }
    until_free();
    const int place = matrix() / side_matrices * depth_bytes + matrix() % side_matrices * side_bytes;
    unsigned char* const own_place = to + place + own() % 16 * 8;
#pragma unroll
    for (int i = 0; i < pieces::count; ++i) {
      const int offset = pieces::depths(i) / 8 * depth_bytes + pieces::rows(i) / 8 * side_bytes;
#pragma unroll
      for (int part = 0; part < 3; ++part)
        *reinterpret_cast<uint2*>(own_place + offset + part * part_bytes) =
            uint2{parts[i][part][0], parts[i][part][1]};
    }
  }

 private:
  // Sixteen threads copy a matrix of 8 x 8, two of them a line: eight matrices at once. Neighbours in memory
  // are copied together.
  static constexpr int side_matrices = Cols / 8;
  static constexpr int depth_matrices = split_slab / 8;
  static constexpr int group = 8;
  struct pieces {
    static constexpr int count = side_matrices * depth_matrices / group;
    [[nodiscard]] __device__ static constexpr int rows(int i) {
      return 8 * (Layout == operand_layout::depth ? group * i / depth_matrices : group * i % side_matrices);
    }
    [[nodiscard]] __device__ static constexpr int depths(int i) {
      return 8 * (Layout == operand_layout::depth ? group * i % depth_matrices : group * i / side_matrices);
    }
  };

  [[nodiscard]] __device__ static int own() {
    return static_cast<int>(threadIdx.x) % warpgroup_size;
  }
  /// Of the first piece, in rows along the columns.
  [[nodiscard]] __device__ static int matrix() {
    const int index = own() / 16;
    return Layout == operand_layout::depth ? index % depth_matrices * side_matrices + index / depth_matrices
                                           : index;
  }
  [[nodiscard]] __device__ static int col() {
    return matrix() % side_matrices * 8 + (Layout == operand_layout::depth ? own() % 16 / 2 : own() % 2 * 4);
  }
  [[nodiscard]] __device__ static int depth() {
    return matrix() / side_matrices * 8 + (Layout == operand_layout::depth ? own() % 2 * 4 : own() % 16 / 2);
  }

  split_copies<pieces, Layout> copies_;
  float* slabs_;
};

/// Sums of 64 x Cols results of a warpgroup, as fragments: lane 4 g + t of warp w has, of each 8 columns,
/// 2 t and 2 t + 1 in rows 16 w + g (values 0, 1) and 16 w + g + 8 (2, 3).
template <int Cols>
struct split_sums {
  float values[Cols / 2] = {};
};

/// The products of a step, on their way to sums. A tensor core cuts off what it adds, so it adds over a step
/// only, small terms first; the rest is done in fp32.
template <int Cols>
class split_products {
 public:
  /// Starts to compute a b, a group of its own; b's matrices are as split_cols leaves them.
  template <class ColsOfB, bool AlongColumns>
  __device__ void start(const std::uint32_t (&a)[3][4], std::uint64_t b) {
    begin_products();
#pragma unroll
    for (int term = 0; term < 6; ++term) {
      // Parts 2 0, 1 1, 1 0, 0 2, 0 1, 0 0: a's registers change seldom.
      const int part_of_a = term == 0 ? 2 : term < 3 ? 1 : 0;
      const int part_of_b = term == 3 ? 2 : term == 1 || term == 4 ? 1 : 0;
      multiply<AlongColumns>(values_, a[part_of_a], advance(b, part_of_b * ColsOfB::part_bytes), term > 0);
    }
    end_products();
  }
  /// Adds them; `a` is what they were started with. All groups but the last `Later` are then done.
  template <int Later>
  __device__ void add_to(split_sums<Cols>& to, const std::uint32_t (&a)[3][4]) {
    wait_for_products<Later>();
#pragma unroll
    for (int part = 0; part < 3; ++part) keep(a[part]);
    take_products(values_);
#pragma unroll
    for (int i = 0; i < Cols / 2; ++i) to.values[i] += values_[i];
  }

 private:
  float values_[Cols / 2] = {};
};

}  // namespace t5zero::cuda::detail
