// Cross entropy over rows of logits, with label smoothing in transformers' form (the uniform part includes
// the target).
#pragma once

#include <cmath>
#include <cstdint>

#include <t5zero/backend/cpu/dropout.hpp>
#include <t5zero/backend/cpu/execution.hpp>
#include <t5zero/backend/cpu/vector_math.hpp>
#include <t5zero/tensor/tensor_view.hpp>

namespace t5zero::cpu {

namespace detail {

/// Loss of one row: out[0] = -log p[label], out[1] = sum of -log p where label_smoothing > 0. Leaves
/// exponentials in `row`; returns their sum.
inline float row_cross_entropy(vector_view<float> row, std::int32_t label, float label_smoothing,
                               double* out) {
  require(label < row.size, "cross_entropy: a label is outside the vocabulary");
  const double target = row[label];
  const double sum = label_smoothing > 0.0F ? range_sum(row.data, row.size) : 0.0;
  const float maximum = range_maximum(row.data, row.size);
  const float exponentials = exponentiate_range(row.data, row.size, maximum);
  const double log_sum_exp = static_cast<double>(maximum) + std::log(static_cast<double>(exponentials));
  out[0] = log_sum_exp - target;
  out[1] = label_smoothing > 0.0F ? static_cast<double>(row.size) * log_sum_exp - sum : 0.0;
  return exponentials;
}

}  // namespace detail

/// row_loss [rows, 2]: negative log-likelihood and uniform part of each row; labels < 0 give zeros. Uses
/// logits up.
inline void cross_entropy_forward(execution& execution, matrix_view<float> logits, const std::int32_t* labels,
                                  float label_smoothing, matrix_view<double> row_loss) {
  for_each_row(execution, logits.rows, [&](index_t t) {
    double* out = row_loss.row(t).data;
    out[0] = out[1] = 0.0;
    if (labels[t] >= 0) detail::row_cross_entropy(logits.row(t), labels[t], label_smoothing, out);
  });
}

/// The same, and grad_logits = scale * (softmax - target distribution); grad_logits may be logits.
template <element T>
void cross_entropy_backward(execution& execution, matrix_view<float> logits, const std::int32_t* labels,
                            float label_smoothing, float scale, matrix_view<T> grad_logits,
                            matrix_view<double> row_loss) {
  const index_t vocabulary = logits.cols;
  for_each_row(execution, logits.rows, [&](index_t t) {
    double* out = row_loss.row(t).data;
    out[0] = out[1] = 0.0;
    T* to = grad_logits.row(t).data;
    if (labels[t] < 0) {
      std::fill_n(to, vocabulary, T{});
      return;
    }
    float* row = logits.row(t).data;
    const float sum = detail::row_cross_entropy(logits.row(t), labels[t], label_smoothing, out);
    const float factor = scale / sum;
    const float uniform = scale * label_smoothing / static_cast<float>(vocabulary);
    const float target = row[labels[t]] * factor - uniform - scale * (1.0F - label_smoothing);
    index_t i = 0;
    for (; i + vector_width <= vocabulary; i += vector_width) store(to + i, load(row + i) * factor - uniform);
    for (; i < vocabulary; ++i) to[i] = static_cast<T>(row[i] * factor - uniform);
    to[labels[t]] = static_cast<T>(target);
  });
}

}  // namespace t5zero::cpu
