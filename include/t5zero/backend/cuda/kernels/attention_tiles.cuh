// What both directions of attention share: tiles of rows in shared memory, products of 16 x 16 scores and
// their fragments in registers, and the bias by distance.
//
// A warp works on 16 rows of its block's own side (queries; or keys, for their gradients) against 16 rows of
// the other side at a time. Element e of a lane's eight scores is row lane / 4 + 8 * (e / 4), column 4 *
// (lane % 4) + e % 4. mma.sync gives a lane columns 2 t, 2 t + 1 and 8 + 2 t, 9 + 2 t instead; as the other
// side's rows may come in any order, they are loaded such that these are four neighbours: one Philox call
// masks them.
#pragma once

#include <algorithm>
#include <cstdint>

#include <t5zero/backend/backend.hpp>
#include <t5zero/backend/cuda/check.hpp>
#include <t5zero/backend/cuda/kernels/element.cuh>
#include <t5zero/backend/cuda/kernels/grid_overlap.cuh>
#include <t5zero/backend/cuda/kernels/relative_bias.cuh>
#include <t5zero/backend/cuda/kernels/softmax.cuh>
#include <t5zero/backend/cuda/kernels/tensor_core.cuh>

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

/// Each warp of OwnWarps has 16 rows of the block's own; OtherWarps warps share them and divide the other
/// side, of which 16 * OtherWarps * Chunks rows are in shared memory at a time, in one of Stages buffers.
template <int OwnWarps, int OtherWarps, int Chunks, int Stages>
struct attention_blocking {
  static constexpr int own_warps = OwnWarps;
  static constexpr int other_warps = OtherWarps;
  static constexpr int chunks = Chunks;
  static constexpr int stages = Stages;
  static constexpr int warps = OwnWarps * OtherWarps;
  static constexpr int threads = warps * warp_size;
  static constexpr int own_rows = 16 * OwnWarps;
  static constexpr int other_rows = 16 * OtherWarps * Chunks;
};

/// By the bytes of a head's columns. spread: few rows a block, so that a small batch is on many
/// multiprocessors, and a block's warps divide the other side; dense: for many rows, which then read the
/// other side less often.
template <int RowBytes>
struct attention_blockings;
template <>
struct attention_blockings<128> {
  using spread = attention_blocking<1, 4, 2, 1>;
  using dense = attention_blocking<4, 1, 4, 2>;
};
template <>
struct attention_blockings<256> {
  using spread = attention_blocking<1, 4, 1, 1>;
  using dense = attention_blocking<4, 1, 2, 2>;
};
template <>
struct attention_blockings<512> {
  using spread = attention_blocking<1, 2, 1, 1>;
  using dense = attention_blocking<2, 1, 1, 2>;
};

/// Rows of D elements in shared memory, in units of 16 bytes. A row's units are permuted such that what one
/// instruction reads lies in different banks: of 16-bit elements a unit of eight rows (neighbours, or 0 1 4 5
/// 8 9 12 13), of fp32 four units of two rows (2 i and the next), or two units of four (i, i + 4, i + 8, i +
/// 12).
template <element T, int D>
struct attention_tile {
  static constexpr int unit = 16 / static_cast<int>(sizeof(T));
  static constexpr int units = D / unit;
  static constexpr int row_bytes = D * static_cast<int>(sizeof(T));

  [[nodiscard]] __device__ static int permute(int row, int column_unit) {
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
    static_assert(Threads % units == 0 && Rows % rows_at_once == 0);
    const int padded_rows = min(Rows, (rows + 15) / 16 * 16);
    const int column_unit = static_cast<int>(threadIdx.x % units);
    const bool has_column = column_unit * unit < d_kv;
    const int first = static_cast<int>(threadIdx.x / units);
    const T* source = from + first * stride + column_unit * unit;
#pragma unroll
    for (int i = 0; i < Rows / rows_at_once; ++i, source += rows_at_once * stride) {
      const int row = first + i * rows_at_once;
      if (row >= padded_rows) break;
      const bool inside = has_column && row < rows;
      constexpr int period = rows_at_once < 16 ? 16 / rows_at_once : 1;  // permutations repeat with 16 rows
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

/// A lane's scores as the left operand of a product: of 16-bit elements rounded to them.
template <element T>
struct attention_weights {
  static constexpr int parts = sizeof(T) == 2 ? 1 : 2;
  /// Units of 16 bytes that a warp needs to hand them over.
  static constexpr int units = parts * warp_size;

  attention_weights() = default;
  __device__ explicit attention_weights(const float (&scores)[8]) {
    if constexpr (sizeof(T) == 2) {
      values[0] = round_pair<T>(scores[0], scores[1]);
      values[1] = round_pair<T>(scores[4], scores[5]);
      values[2] = round_pair<T>(scores[2], scores[3]);
      values[3] = round_pair<T>(scores[6], scores[7]);
    } else {
#pragma unroll
      for (int e = 0; e < 8; ++e) values[e] = __float_as_uint(scores[e]);
    }
  }
  __device__ void store(uint4* to) const {
    const int lane = static_cast<int>(threadIdx.x) % warp_size;
#pragma unroll
    for (int i = 0; i < parts; ++i)
      to[i * warp_size + lane] = {values[4 * i], values[4 * i + 1], values[4 * i + 2], values[4 * i + 3]};
  }
  __device__ void load(const uint4* from) {
    const int lane = static_cast<int>(threadIdx.x) % warp_size;
#pragma unroll
    for (int i = 0; i < parts; ++i) {
      const uint4 part = from[i * warp_size + lane];
      values[4 * i] = part.x;
      values[4 * i + 1] = part.y;
      values[4 * i + 2] = part.z;
      values[4 * i + 3] = part.w;
    }
  }
  /// Of fp32.
  [[nodiscard]] __device__ float score(int e) const {
    return __uint_as_float(values[e]);
  }

  std::uint32_t values[4 * parts];
};

/// A warp's share of a [16, D] result, in fp32: `Columns` of its columns.
template <element T, int D, int Columns = D>
struct attention_sums {
  static constexpr int width = sizeof(T) == 2 ? 2 : 4;  ///< neighbours that a lane holds
  static constexpr int groups = Columns / 4 / width;    ///< of neighbours, in each of a lane's two rows
  /// Of fp32, columns of a row that a lane loads at once, each for a product of its own: it then has sums of
  /// twice as many neighbours.
  static constexpr int loaded = Columns >= 32 ? 4 : 2;
  static_assert(Columns % (sizeof(T) == 2 ? 16 : 8 * loaded) == 0);
  float values[groups][2][width] = {};

  [[nodiscard]] __device__ static int row(int h) {
    return static_cast<int>(threadIdx.x) % warp_size / 4 + 8 * h;
  }
  [[nodiscard]] __device__ static int column(int group) {
    const int lane = static_cast<int>(threadIdx.x) % 4;
    constexpr int at_once = loaded / 2;
    return width == 2 ? group * 8 + lane * 2
                      : group / at_once * 8 * loaded + lane * 2 * loaded + group % at_once * 4;
  }

  /// Multiplies row(h) by factors[h].
  __device__ void scale(const float (&factors)[2]) {
#pragma unroll
    for (auto& group : values) {
#pragma unroll
      for (int h = 0; h < 2; ++h) {
#pragma unroll
        for (float& value : group[h]) value *= factors[h];
      }
    }
  }

  /// += weights [16, 16] other [16, first_column + (0 to Columns)].
  __device__ void add_product(const attention_weights<T>& weights, const T* other, int first_column = 0) {
    using tile = attention_tile<T, D>;
    const int lane = static_cast<int>(threadIdx.x) % warp_size;
    const int first_unit = first_column / tile::unit;
    if constexpr (sizeof(T) == 2) {
      const auto& a = weights.values;
      const int row = lane % 8 / 2 * 4 + lane % 2 + lane / 8 % 2 * 2;
#pragma unroll
      for (int j = 0; j < groups; j += 2) {
        std::uint32_t b[4];
        load_matrices_transposed(b, other + tile::offset(row, first_unit + j + lane / 16));
        multiply_add<T>(values[j][0][0], values[j][0][1], values[j][1][0], values[j][1][1], a, b[0], b[1]);
        multiply_add<T>(values[j + 1][0][0], values[j + 1][0][1], values[j + 1][1][0], values[j + 1][1][1], a,
                        b[2], b[3]);
      }
    } else {
      const int unit = first_unit + lane / 4 * loaded / tile::unit;
      const int within = lane / 4 * loaded % tile::unit;
      const T* const even_rows = other + tile::offset(lane % 4 * 4, unit) + within;
      const T* const odd_rows = other + tile::offset(lane % 4 * 4 + 1, unit) + within;
#pragma unroll
      for (int block = 0; block < Columns / (8 * loaded); ++block) {
        float sums[loaded][4] = {};
#pragma unroll
        for (int i = 0; i < 4; i += 2) {
          const float rows[4] = {weights.score(i), weights.score(4 + i), weights.score(i + 1),
                                 weights.score(5 + i)};
          float b[2][loaded];
          load_pack(even_rows + i * D + 8 * loaded * block, b[0]);
          load_pack(odd_rows + i * D + 8 * loaded * block, b[1]);
#pragma unroll
          for (int c = 0; c < loaded; ++c) multiply_add_fp32(sums[c], sums[c], rows, b[0][c], b[1][c]);
        }
#pragma unroll
        for (int i = 0; i < 2 * loaded; ++i) {
#pragma unroll
          for (int h = 0; h < 2; ++h)
            values[block * (loaded / 2) + i / 4][h][i % 4] += sums[i % loaded][2 * h + i / loaded];
        }
      }
    }
  }
};

/// Stores a warp's columns of 16 rows, of which `rows` exist; to: the first of them.
template <element T, int D, int Columns>
__device__ void store_columns(const attention_sums<T, D, Columns>& sums, T* to, index_t stride, int rows,
                              int first_column, int d_kv) {
  using sums_type = attention_sums<T, D, Columns>;
#pragma unroll
  for (int j = 0; j < sums_type::groups; ++j) {
    const int column = first_column + sums_type::column(j);
    if (column >= d_kv) continue;
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const int row = sums_type::row(h);
      if (row < rows) store_pack(to + row * stride + column, sums.values[j][h]);
    }
  }
}

/// Do the warps of a block share its rows? Each then makes the scores of some of the other side's tiles and
/// hands them over, to multiply those of all warps for columns of its own.
template <class Blocking>
inline constexpr bool hands_over = Blocking::other_warps > 1;

/// A warp's sums of one result of the block.
template <element T, int D, class Blocking>
using share_of_sums = attention_sums<T, D, D / Blocking::other_warps>;

/// The weights of the other side's tiles that are in shared memory, for one result.
template <element T, class Blocking>
struct handed_weights {
  static_assert(Blocking::own_warps == 1 || !hands_over<Blocking>);
  static constexpr int tiles = Blocking::other_warps * Blocking::chunks;
  static constexpr int bytes = hands_over<Blocking> ? tiles * attention_weights<T>::units * 16 : 0;

  uint4* memory;
  [[nodiscard]] __device__ uint4* at(int tile) const { return memory + tile * attention_weights<T>::units; }
};

/// The bias of one head by distance key - query, times log2(e), in shared memory. From `reach` on, in either
/// direction, all distances have one bucket: 16 x 16 scores that lie beyond are moved to where they just do,
/// so that the table's size does not depend on the lengths.
struct distance_table {
  float* values = nullptr;
  int reach = 0;

  [[nodiscard]] T5ZERO_HOST_DEVICE static constexpr int floats(int reach) { return 2 * reach + 61; }

  /// Index of the distance between the first key and the first query of 16 x 16 scores; the others are at
  /// most 15 away from it.
  [[nodiscard]] __device__ int base(int first_key, int first_query) const {
    return max(-(reach + 15), min(reach + 15, first_key - first_query)) + reach + 30;
  }
  /// The distances that occur between queries [first_query, end_query) and keys [first_key, end_key), ends
  /// being rounded up to whole tiles: first and one past the last.
  struct range {
    int first;
    int end;
  };
  [[nodiscard]] __device__ range occurring(int first_query, int end_query, int first_key, int end_key) const {
    const int first = min(reach, max(-(reach + 30), first_key - end_query + 1));
    const int last = max(-reach, min(reach + 30, end_key - 1 - first_query));
    return {first, last + 1};
  }
  template <int Threads, element T>
  __device__ void fill(range distances, const T* bias, int n_heads, int head,
                       const relative_buckets& buckets) const {
    for (int d = distances.first + static_cast<int>(threadIdx.x); d < distances.end; d += Threads) {
      values[d + reach + 30] = to_float(bias[buckets.bucket(d) * n_heads + head]) * log2_e;
    }
  }
};

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

/// Reach of the table of biases: the buckets', or a distance that never occurs.
template <element T>
[[nodiscard]] int bias_reach(const attention_inputs<T>& in, const relative_buckets& buckets) {
  return static_cast<int>(
      std::min<index_t>(buckets.reach(), std::max(in.queries.max_length, in.keys.max_length)));
}

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

/// Calls launch(blocking) with the blocking for sequences of at most max_rows rows, among those whose
/// shared_bytes(blocking) a block may have; tokens: of all sequences.
template <int RowBytes, class SharedBytes, class Launch>
void choose_blocking(index_t max_rows, index_t tokens, index_t sequences, index_t n_heads,
                     const SharedBytes& shared_bytes, const Launch& launch) {
  using blockings = attention_blockings<RowBytes>;
  typename blockings::spread spread;
  typename blockings::dense dense;
  // Two for each multiprocessor of a large GPU; short sequences leave most warps of a dense block idle.
  constexpr index_t enough_blocks = 256;
  const bool is_dense =
      max_rows > 64 && tokens > 48 * sequences && ceil_div(tokens, dense.own_rows) * n_heads >= enough_blocks;
  if (is_dense && shared_bytes(dense) <= current_token_device().shared_bytes) {
    launch(dense);
  } else {
    launch(spread);
  }
}

}  // namespace t5zero::cuda::detail
