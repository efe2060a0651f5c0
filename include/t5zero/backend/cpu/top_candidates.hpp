// The best next tokens of each row.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>

#include <t5zero/backend/cpu/execution.hpp>
#include <t5zero/backend/cpu/vector_math.hpp>
#include <t5zero/tensor/tensor_view.hpp>

namespace t5zero::cpu {

/// Logits become log probabilities, row by row.
inline void log_softmax_rows(execution& execution, matrix_view<float> logits) {
  execution.threads().run(logits.rows, [&](index_t row) {
    float* values = logits.row(row).data;
    const float maximum = range_maximum(values, logits.cols);
    const float shift = maximum + std::log(sum_of_exponentials(values, logits.cols, maximum));
    for (index_t j = 0; j < logits.cols; ++j) values[j] -= shift;
  });
}

namespace detail {

/// A score that is no number counts as the worst: without an order there is no best.
[[nodiscard]] inline float ordered_score(float value) {
  return std::isnan(value) ? -std::numeric_limits<float>::infinity() : value;
}

/// `count` largest of `values`, descending, ties to the lower index. A sorted list of the best so far; whole
/// vectors that hold nothing better than its last are passed over.
inline void top_of_row(const float* values, index_t size, index_t count, float* best, std::int32_t* ids) {
  index_t held = 0;
  auto offer = [&](index_t i) {
    const float value = ordered_score(values[i]);
    if (held == count && !(value > best[held - 1])) return;
    index_t at = held < count ? held++ : held - 1;
    for (; at > 0 && value > best[at - 1]; --at) {
      best[at] = best[at - 1];
      ids[at] = ids[at - 1];
    }
    best[at] = value;
    ids[at] = static_cast<std::int32_t>(i);
  };
  index_t i = 0;
  for (; i < std::min(size, count); ++i) offer(i);
  for (; i + vector_width <= size; i += vector_width) {
    const auto better = load(values + i) > broadcast(best[count - 1]);
    bool any = false;
#if defined(__AVX512F__)
    any = _mm512_movepi32_mask(reinterpret_cast<__m512i>(better)) != 0;
#else
    for (index_t lane = 0; lane < vector_width; ++lane) any = any || better[lane] != 0;
#endif
    if (!any) continue;
    for (index_t lane = 0; lane < vector_width; ++lane) offer(i + lane);
  }
  for (; i < size; ++i) offer(i);
}

}  // namespace detail

/// scores, ids: [rows, count], the count largest of each row of `values`, descending; NaN comes out as -inf.
inline void top_candidates(execution& execution, matrix_view<const float> values, matrix_view<float> scores,
                           matrix_view<std::int32_t> ids) {
  execution.threads().run(values.rows, [&](index_t row) {
    const index_t count = scores.cols;
    float* best = scores.row(row).data;
    std::int32_t* best_ids = ids.row(row).data;
    const float* from = values.row(row).data;
    if (count < values.cols) {
      detail::top_of_row(from, values.cols, count, best, best_ids);
      return;
    }
    // Sampling without top_k looks at the whole vocabulary.
    for (index_t i = 0; i < count; ++i) best_ids[i] = static_cast<std::int32_t>(i);
    std::sort(best_ids, best_ids + count, [&](std::int32_t a, std::int32_t b) {
      const float score_a = detail::ordered_score(from[a]);
      const float score_b = detail::ordered_score(from[b]);
      return score_a != score_b ? score_a > score_b : a < b;
    });
    for (index_t i = 0; i < count; ++i) best[i] = detail::ordered_score(from[best_ids[i]]);
  });
}

}  // namespace t5zero::cpu
