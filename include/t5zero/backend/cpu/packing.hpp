// Copies blocks of a matmul's operands into the order in which the micro-kernel reads them, converting to
// float on the way. Operand A becomes slivers of `tile_rows` rows, B slivers of `tile_cols` columns; both are
// stored depth first and padded with zeros.
#pragma once

#include <algorithm>

#include <t5zero/backend/cpu/vector.hpp>
#include <t5zero/core/integers.hpp>

namespace t5zero::cpu {

/// Register tile of the micro-kernel: tile_rows x 2 vectors of accumulators, two vectors of B and one
/// broadcast fill the 32 (AVX-512) or 16 registers.
inline constexpr index_t tile_rows = vector_width == 16 ? 12 : 6;
inline constexpr index_t tile_cols = 2 * vector_width;

namespace detail {

/// out[k * width + i] = in[i * stride + k] for i < rows, k < depth; 0 for rows <= i < width.
template <element T>
void pack_transposed(const T* in, index_t stride, index_t rows, index_t depth, index_t width, float* out) {
  index_t k = 0;
#if defined(__AVX512F__)
  // 16 x 16 blocks: rows are loaded as vectors, transposed in registers, stored as vectors.
  for (; k + 16 <= depth; k += 16) {
    for (index_t i0 = 0; i0 + 16 <= width; i0 += 16) {
      __m512 r[16];
      for (index_t i = 0; i < 16; ++i) {
        r[i] =
            i0 + i < rows ? reinterpret_cast<__m512>(load(in + (i0 + i) * stride + k)) : _mm512_setzero_ps();
      }
      __m512 t[16];
      for (int i = 0; i < 16; i += 2) {
        t[i] = _mm512_unpacklo_ps(r[i], r[i + 1]);
        t[i + 1] = _mm512_unpackhi_ps(r[i], r[i + 1]);
      }
      for (int i = 0; i < 16; i += 4) {
        const auto d = [](__m512 v) { return _mm512_castps_pd(v); };
        const auto s = [](__m512d v) { return _mm512_castpd_ps(v); };
        r[i] = s(_mm512_unpacklo_pd(d(t[i]), d(t[i + 2])));
        r[i + 1] = s(_mm512_unpackhi_pd(d(t[i]), d(t[i + 2])));
        r[i + 2] = s(_mm512_unpacklo_pd(d(t[i + 1]), d(t[i + 3])));
        r[i + 3] = s(_mm512_unpackhi_pd(d(t[i + 1]), d(t[i + 3])));
      }
      for (int i = 0; i < 4; ++i) {
        const __m512 low01 = _mm512_shuffle_f32x4(r[i], r[i + 4], 0x88);
        const __m512 high01 = _mm512_shuffle_f32x4(r[i], r[i + 4], 0xdd);
        const __m512 low23 = _mm512_shuffle_f32x4(r[i + 8], r[i + 12], 0x88);
        const __m512 high23 = _mm512_shuffle_f32x4(r[i + 8], r[i + 12], 0xdd);
        t[i] = _mm512_shuffle_f32x4(low01, low23, 0x88);
        t[i + 8] = _mm512_shuffle_f32x4(low01, low23, 0xdd);
        t[i + 4] = _mm512_shuffle_f32x4(high01, high23, 0x88);
        t[i + 12] = _mm512_shuffle_f32x4(high01, high23, 0xdd);
      }
      for (index_t j = 0; j < 16; ++j) _mm512_storeu_ps(out + (k + j) * width + i0, t[j]);
    }
    for (index_t i = width / 16 * 16; i < width; ++i) {
      for (index_t j = k; j < k + 16; ++j) {
        out[j * width + i] = i < rows ? static_cast<float>(in[i * stride + j]) : 0.0F;
      }
    }
  }
#endif
  for (index_t i = 0; i < width; ++i) {
    for (index_t j = k; j < depth; ++j) {
      out[j * width + i] = i < rows ? static_cast<float>(in[i * stride + j]) : 0.0F;
    }
  }
}

/// out[k * width + i] = in[k * stride + i] for i < cols, k < depth; 0 for cols <= i < width.
template <element T>
void pack_straight(const T* in, index_t stride, index_t cols, index_t depth, index_t width, float* out) {
  for (index_t k = 0; k < depth; ++k) {
    const T* from = in + k * stride;
    float* to = out + k * width;
    if (cols == width) {
      convert_range(from, to, width);
    } else {
      convert_range(from, to, cols);
      std::fill(to + cols, to + width, 0.0F);
    }
  }
}

}  // namespace detail

}  // namespace t5zero::cpu
