// What both directions of attention share: tiles of rows in shared memory, and scores, the products of their
// rows.
//
// A warp works on 16 rows of its block's own side (queries; or keys, for their gradients) against 16 rows of
// the other side at a time. Element e of a lane's eight scores is row lane / 4 + 8 * (e / 4), column 4 *
// (lane % 4) + e % 4. mma.sync gives a lane columns 2 t, 2 t + 1 and 8 + 2 t, 9 + 2 t instead; as the other
// side's rows may come in any order, they are loaded such that these are four neighbours: one Philox call
// masks them.
#pragma once

#include <cstdint>

#include <t5zero/backend/backend.hpp>
#include <t5zero/backend/cuda/kernels/element.cuh>
#include <t5zero/backend/cuda/kernels/grid_overlap.cuh>
#include <t5zero/backend/cuda/kernels/tensor_core.cuh>
#include <t5zero/core/error.hpp>

namespace t5zero::cuda::detail {

/// wait_for_previous_grid() of attention's kernels. Of fp32 what follows is a product whose blocks fill a
/// multiprocessor each (split_matmul), unless `is_summed`: then it is the small kernel that adds up buckets.
template <element T>
__device__ inline void wait_before_attention(bool is_summed = false) {
  if (sizeof(T) == 4 && !is_summed)
    wait_for_previous_grid_alone();
  else
    wait_for_previous_grid();
}

/// Rows of D elements in shared memory, in units of 16 bytes. A row's units are permuted such that what one
/// instruction reads lies in different banks: of 16-bit elements a unit of eight rows (neighbours, or 0 1 4 5
/// 8 9 12 13), of fp32 four units of two rows (2 i and the next), or two units of four (i, i + 4, i + 8, i +
/// 12). What else relies on it: rows 16 apart are alike, of fp32 also rows 2 apart among neighbours of four,
/// and only a unit's place among eight changes.
template <element T, int D>
struct attention_tile {
  static constexpr int unit = 16 / static_cast<int>(sizeof(T));
  static constexpr int units = D / unit;
  static constexpr int row_bytes = D * static_cast<int>(sizeof(T));

  [[nodiscard]] T5ZERO_HOST_DEVICE static constexpr int permute(int row, int column_unit) {
    if constexpr (sizeof(T) == 2)
      return column_unit ^ (row & 7) ^ ((row >> 2) & 2);
    else
      return column_unit ^ ((row ^ row >> 2) & 1) << 2 ^ (row >> 2 & 2);
  }
  [[nodiscard]] __device__ static int offset(int row, int column_unit) {
    return row * D + permute(row, column_unit) * unit;
  }

  /// Starts to copy `rows` rows of d_kv <= D columns. Up to the next multiple of 16 rows (at most Rows), and
  /// up to D columns, zeros follow.
  template <int Rows, int Threads>
  __device__ static void copy(T* tile, const T* from, index_t stride, int rows, int d_kv) {
    constexpr int rows_at_once = Threads / units;
    constexpr int period = 16 / rows_at_once;
    static_assert(Threads % units == 0 && 16 % rows_at_once == 0 && Rows % rows_at_once == 0);
    const int padded_rows = min(Rows, (rows + 15) / 16 * 16);
    const int column_unit = static_cast<int>(threadIdx.x % units);
    const bool has_column = column_unit * unit < d_kv;
    const int first = static_cast<int>(threadIdx.x / units);
    const T* source = from + first * stride + column_unit * unit;
#pragma unroll
    for (int i = 0; i < Rows / rows_at_once; ++i, source += rows_at_once * stride) {
      if (i * rows_at_once >= padded_rows) break;
      const bool inside = has_column && first + i * rows_at_once < rows;
      T* const to = tile + i / period * period * rows_at_once * D +
                    offset(first + i % period * rows_at_once, column_unit);
      copy_16_bytes_async(to, inside ? source : from, inside);
    }
  }
};

/// Sixteen rows of a tile, the left operand of products: of 16-bit elements in registers, if there is room.
template <element T, int D, bool InRegisters>
struct attention_rows {
  static constexpr bool in_registers = InRegisters && sizeof(T) == 2;
  static constexpr int steps = D / 16;

  __device__ explicit attention_rows(const T* rows_) : rows(rows_) {
    if constexpr (in_registers) {
#pragma unroll
      for (int k = 0; k < steps; ++k) load(k, fragments[k]);
    }
  }
  __device__ void load(int k, std::uint32_t (&to)[4]) const {
    const int lane = static_cast<int>(threadIdx.x) % warp_size;
    load_matrices(to, rows + attention_tile<T, D>::offset(lane % 16, 2 * k + lane / 16));
  }

  const T* rows;
  std::uint32_t fragments[in_registers ? steps : 1][4];
};

/// Of a row of an fp32 tile, the lane's units 4 k + lane % 4: its permutation exchanges neighbouring k.
template <int D>
struct depth_steps {
  using tile = attention_tile<float, D>;

  __device__ depth_steps(const float* tile_, int row) {
    const int lane = static_cast<int>(threadIdx.x) % 4;
    even = tile_ + tile::offset(row, lane);
    odd = tile_ + tile::offset(row, lane + 4) - 4 * tile::unit;
  }
  [[nodiscard]] __device__ const float* at(int k) const {
    return (k % 2 == 0 ? even : odd) + k * 4 * tile::unit;
  }

  const float* even;
  const float* odd;
};

/// scores = own other^T, of 16 rows each.
template <element T, int D, bool InRegisters>
__device__ void multiply_rows(const attention_rows<T, D, InRegisters>& own, const T* other,
                              float (&scores)[8]) {
  using tile = attention_tile<T, D>;
  const int lane = static_cast<int>(threadIdx.x) % warp_size;
#pragma unroll
  for (float& score : scores) score = 0.0F;
  if constexpr (sizeof(T) == 2) {
    const int row = lane % 8 / 2 * 4 + lane % 2 + lane / 16 * 2;
#pragma unroll
    for (int k = 0; k < D / 16; ++k) {
      std::uint32_t b[4];
      load_matrices(b, other + tile::offset(row, 2 * k + lane / 8 % 2));
      if constexpr (own.in_registers) {
        multiply_add<T>(scores[0], scores[1], scores[4], scores[5], own.fragments[k], b[0], b[1]);
        multiply_add<T>(scores[2], scores[3], scores[6], scores[7], own.fragments[k], b[2], b[3]);
      } else {
        std::uint32_t a[4];
        own.load(k, a);
        multiply_add<T>(scores[0], scores[1], scores[4], scores[5], a, b[0], b[1]);
        multiply_add<T>(scores[2], scores[3], scores[6], scores[7], a, b[2], b[3]);
      }
    }
  } else {
    // Four neighbours of the depth a lane: as good an order as the instruction's, for both operands.
    using steps = depth_steps<D>;
    const int row = lane / 8 * 4 + lane / 4 % 2;
    const steps own_rows[2] = {{own.rows, lane / 4}, {own.rows, lane / 4 + 8}};
    const steps other_rows[2] = {{other, row}, {other, row + 2}};
    float sums[2][4] = {};
    float small[2][4] = {};
#pragma unroll
    for (int k = 0; k < D / 16; ++k) {
      float a[2][4];
      float b[2][4];
      float large[2][4] = {};
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        load_pack(own_rows[i].at(k), a[i]);
        load_pack(other_rows[i].at(k), b[i]);
      }
#pragma unroll
      for (int c = 0; c < 4; c += 2) {
        const float rows[4] = {a[0][c], a[1][c], a[0][c + 1], a[1][c + 1]};
#pragma unroll
        for (int i = 0; i < 2; ++i) multiply_add_fp32(large[i], small[i], rows, b[i][c], b[i][c + 1]);
      }
#pragma unroll
      for (int e = 0; e < 8; ++e) sums[e / 4][e % 4] += large[e / 4][e % 4];
    }
#pragma unroll
    for (int e = 0; e < 8; ++e) {
      const int place = e / 4 * 2 + e % 2;
      scores[e] = sums[e / 2 % 2][place] + small[e / 2 % 2][place];
    }
  }
}

/// Where a block finds its sequence and head.
template <element T>
struct attention_place {
  int sequence;
  int head;
  int n_queries;
  int n_keys;
  bool causal;
  index_t first_query;
  index_t first_key;

  __device__ explicit attention_place(const attention_inputs<T>& in)
      : sequence(static_cast<int>(blockIdx.z)),
        head(static_cast<int>(blockIdx.y)),
        causal(in.mask == attention_mask::causal),
        first_query(in.queries.offsets[sequence]),
        first_key(in.keys.offsets[sequence]) {
    n_queries = static_cast<int>(in.queries.offsets[sequence + 1] - first_query);
    n_keys = static_cast<int>(in.keys.offsets[sequence + 1] - first_key);
  }
  /// First of the head's columns in row `row` of a sequence that starts at `first`.
  template <class U>
  [[nodiscard]] __device__ U* row(const matrix_view<U>& all, index_t first, int row_, index_t d_kv) const {
    return all.data + (first + row_) * all.stride + head * d_kv;
  }
};

/// Throws contract_error with `message` unless all rows are aligned to 16 bytes.
template <class T>
void check_rows(const matrix_view<T>& view, const char* message) {
  require(view.rows == 0 || (view.stride * static_cast<index_t>(sizeof(T)) % 16 == 0 &&
                             reinterpret_cast<std::uintptr_t>(view.data) % 16 == 0),
          message);
}

/// Throws contract_error unless the inputs' views agree and their rows are aligned.
template <element T>
void check_attention(const attention_inputs<T>& in) {
  const auto fits = [&](const matrix_view<const T>& view, index_t tokens) {
    check_rows(view, "cuda::attention: rows of query, key and value are aligned to 16 bytes");
    return view.rows >= tokens && view.cols == in.n_heads * in.d_kv;
  };
  require(in.d_kv > 0 && in.d_kv <= 128 && in.d_kv % 8 == 0,
          "cuda::attention: d_kv is a multiple of 8, at most 128");
  require(fits(in.query, in.queries.tokens) && fits(in.key, in.keys.tokens) && fits(in.value, in.keys.tokens),
          "cuda::attention: query, key and value are [tokens, n_heads * d_kv]");
  require(in.queries.batch == in.keys.batch, "cuda::attention: each sequence of queries has one of keys");
  require(in.queries.batch <= 65535 && in.n_heads <= 65535 && in.queries.max_length <= 1 << 24 &&
              in.keys.max_length <= 1 << 24,
          "cuda::attention: at most 65535 sequences and heads, 2^24 tokens a sequence");
}

}  // namespace t5zero::cuda::detail
