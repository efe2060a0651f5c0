// What both directions of attention do with scores: products of 16 x 16 weights with rows of the other side,
// and how the warps of a block share them.
#pragma once

#include <cstdint>

#include <t5zero/backend/backend.hpp>
#include <t5zero/backend/cuda/kernels/attention_tiles.cuh>
#include <t5zero/backend/cuda/kernels/element.cuh>
#include <t5zero/backend/cuda/kernels/tensor_core.cuh>

namespace t5zero::cuda::detail {

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
  [[nodiscard]] __device__ float score(int e) const requires(sizeof(T) == 4) {
    return __uint_as_float(values[e]);
  }

  std::uint32_t values[4 * parts];
};

/// A warp's share of a [16, D] result, in fp32: `Columns` of its columns.
template <element T, int D, int Columns>
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

  /// += weights [16, 16] other [16, first_column + (0 to Columns)]; first_column: a multiple of Columns.
  __device__ void add_product(const attention_weights<T>& weights, const T* other, int first_column) {
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

/// A warp's part of one of the block's results: so many columns of 16 rows.
template <int D, class Blocking>
inline constexpr int share_columns = D / Blocking::other_warps;
template <element T, int D, class Blocking>
using share_of_sums = attention_sums<T, D, share_columns<D, Blocking>>;

/// The weights of the other side's tiles that are in shared memory, for one result.
template <element T, class Blocking>
struct handed_weights {
  static constexpr int tiles = Blocking::other_warps * Blocking::chunks;
  static constexpr int bytes = Blocking::hands_over ? tiles * attention_weights<T>::units * 16 : 0;

  uint4* memory;
  [[nodiscard]] __device__ uint4* at(int tile) const { return memory + tile * attention_weights<T>::units; }

  /// sums += the weights of rows [first, end) times these, which start at `other`; 16 to a tile.
  template <int Unroll, int D>
  __device__ void add_products(share_of_sums<T, D, Blocking>& sums, const T* other, int first, int end,
                               int first_column) const {
#pragma unroll Unroll
    for (int i = 0; i < tiles; ++i) {
      if (first + i * 16 >= end) break;
      attention_weights<T> weights;
      weights.load(at(i));
      sums.add_product(weights, other + i * 16 * D, first_column);
    }
  }
};

}  // namespace t5zero::cuda::detail
