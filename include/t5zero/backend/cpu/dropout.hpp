// Dropout on the CPU: Philox sixteen counters at a time, masks as multipliers (0 or 1 / (1 - rate)).
#pragma once

#include <algorithm>

#include <t5zero/backend/cpu/execution.hpp>
#include <t5zero/backend/cpu/vector.hpp>
#include <t5zero/backend/dropout.hpp>
#include <t5zero/tensor/ragged_view.hpp>
#include <t5zero/tensor/tensor_view.hpp>

namespace t5zero::cpu {

/// Features whose multipliers are computed at a time.
inline constexpr index_t dropout_chunk = 64;

/// Rows of one task of an elementwise operation.
inline constexpr index_t rows_per_task = 8;

/// out[i] = multiplier of feature first + i of one token, i < 64; `first` is a multiple of 4.
inline void dropout_multipliers(const dropout_site& site, std::uint32_t row, std::uint32_t position,
                                index_t first, float* out) {
  const auto quad = static_cast<std::uint32_t>(first / 4);
#if defined(__AVX512F__)
  // Position 4 L + r of the counters holds quad 4 r + L, so that the transposition below leaves features in
  // order.
  const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
  __m512i c0 = _mm512_set1_epi32(static_cast<int>(*site.micro_step));
  __m512i c1 = _mm512_set1_epi32(static_cast<int>(row));
  __m512i c2 = _mm512_set1_epi32(static_cast<int>(position));
  __m512i c3 = _mm512_add_epi32(_mm512_set1_epi32(static_cast<int>(quad)), order);
  std::uint32_t key0 = site.seed;
  std::uint32_t key1 = site.site;
  const __m512i multiplier0 = _mm512_set1_epi64(0xD2511F53LL);
  const __m512i multiplier1 = _mm512_set1_epi64(0xCD9E8D57LL);
  constexpr __mmask16 odd = 0xaaaa;
  for (int round = 0; round < 10; ++round) {
    const __m512i even0 = _mm512_mul_epu32(c0, multiplier0);
    const __m512i odd0 = _mm512_mul_epu32(_mm512_srli_epi64(c0, 32), multiplier0);
    const __m512i even1 = _mm512_mul_epu32(c2, multiplier1);
    const __m512i odd1 = _mm512_mul_epu32(_mm512_srli_epi64(c2, 32), multiplier1);
    const __m512i high0 = _mm512_mask_blend_epi32(odd, _mm512_srli_epi64(even0, 32), odd0);
    const __m512i low0 = _mm512_mask_blend_epi32(odd, even0, _mm512_slli_epi64(odd0, 32));
    const __m512i high1 = _mm512_mask_blend_epi32(odd, _mm512_srli_epi64(even1, 32), odd1);
    const __m512i low1 = _mm512_mask_blend_epi32(odd, even1, _mm512_slli_epi64(odd1, 32));
    c0 = _mm512_xor_si512(_mm512_xor_si512(high1, c1), _mm512_set1_epi32(static_cast<int>(key0)));
    c1 = low1;
    c2 = _mm512_xor_si512(_mm512_xor_si512(high0, c3), _mm512_set1_epi32(static_cast<int>(key1)));
    c3 = low0;
    key0 += 0x9E3779B9U;
    key1 += 0xBB67AE85U;
  }
  const __m512i low01 = _mm512_unpacklo_epi32(c0, c1);
  const __m512i high01 = _mm512_unpackhi_epi32(c0, c1);
  const __m512i low23 = _mm512_unpacklo_epi32(c2, c3);
  const __m512i high23 = _mm512_unpackhi_epi32(c2, c3);
  const __m512i lanes[4] = {_mm512_unpacklo_epi64(low01, low23), _mm512_unpackhi_epi64(low01, low23),
                            _mm512_unpacklo_epi64(high01, high23), _mm512_unpackhi_epi64(high01, high23)};
  const __m512i threshold = _mm512_set1_epi32(static_cast<int>(site.threshold()));
  const __m512 scale = _mm512_set1_ps(site.scale());
  for (int i = 0; i < 4; ++i) {
    _mm512_storeu_ps(out + 16 * i, _mm512_maskz_mov_ps(_mm512_cmpge_epu32_mask(lanes[i], threshold), scale));
  }
#else
  const std::uint32_t threshold = site.threshold();
  const float scale = site.scale();
  for (std::uint32_t i = 0; i < 16; ++i) {
    const auto lanes = site.lanes(row, position, quad + i);
    for (std::size_t j = 0; j < 4; ++j) out[4 * i + j] = lanes[j] >= threshold ? scale : 0.0F;
  }
#endif
}

/// Calls body(first feature, count <= 64, multipliers) over the features of one token.
template <class Body>
void for_each_dropout_chunk(const dropout_site& site, std::uint32_t row, std::uint32_t position,
                            index_t features, const Body& body) {
  alignas(64) float multipliers[dropout_chunk];
  for (index_t first = 0; first < features; first += dropout_chunk) {
    dropout_multipliers(site, row, position, first, multipliers);
    body(first, std::min(dropout_chunk, features - first), multipliers);
  }
}

/// Calls body(row) for all rows on all threads; rows write disjoint results.
template <class Body>
void for_each_row(execution& execution, index_t rows, const Body& body) {
  execution.threads().run(ceil_div(rows, rows_per_task), [&](index_t task) {
    const index_t end = std::min(rows, (task + 1) * rows_per_task);
    for (index_t row = task * rows_per_task; row < end; ++row) body(row);
  });
}

/// out = x + dropout(branch); all [tokens, d_model]. out may be x.
inline void residual_dropout_add(execution& execution, matrix_view<const float> x,
                                 matrix_view<const float> branch, const dropout_site& site,
                                 const ragged_view& tokens, matrix_view<float> out) {
  for_each_row(execution, x.rows, [&](index_t t) {
    const float* a = x.row(t).data;
    const float* b = branch.row(t).data;
    float* to = out.row(t).data;
    if (!site.active()) {
      for (index_t i = 0; i < x.cols; ++i) to[i] = a[i] + b[i];
      return;
    }
    for_each_dropout_chunk(site, tokens.rows[t], tokens.positions[t], x.cols,
                           [&](index_t first, index_t count, const float* multipliers) {
                             for (index_t i = 0; i < count; ++i) {
                               to[first + i] = a[first + i] + multipliers[i] * b[first + i];
                             }
                           });
  });
}

/// out = mask and scale of `site` applied to x, converted; out may be x. Forward and backward are the same
/// operation.
template <element From, element To>
void dropout(execution& execution, matrix_view<const From> x, const dropout_site& site,
             const ragged_view& tokens, matrix_view<To> out) {
  for_each_row(execution, x.rows, [&](index_t t) {
    const From* from = x.row(t).data;
    To* to = out.row(t).data;
    if (!site.active()) {
      convert_range(from, to, x.cols);
      return;
    }
    for_each_dropout_chunk(site, tokens.rows[t], tokens.positions[t], x.cols,
                           [&](index_t first, index_t count, const float* multipliers) {
                             index_t i = 0;
                             for (; i + vector_width <= count; i += vector_width) {
                               store(to + first + i, load(from + first + i) * load(multipliers + i));
                             }
                             for (; i < count; ++i) {
                               to[first + i] =
                                   static_cast<To>(static_cast<float>(from[first + i]) * multipliers[i]);
                             }
                           });
  });
}

}  // namespace t5zero::cpu
