// RMS norm (Zhang and Sennrich 2019), as T5 uses it: y = x / sqrt(mean(x^2) + epsilon) * weight, no mean, no
// bias.
#pragma once

#include <algorithm>
#include <cmath>

#include <t5zero/backend/cpu/dropout.hpp>
#include <t5zero/backend/cpu/execution.hpp>
#include <t5zero/backend/cpu/vector.hpp>
#include <t5zero/tensor/tensor_view.hpp>

namespace t5zero::cpu {

namespace detail {

/// Sum over i < count of f(i) in vector lanes; f takes an index and returns vector_width products from there
/// on, g one.
template <class Vector, class Scalar>
float lane_sum(index_t count, const Vector& f, const Scalar& g) {
  float_vector lanes{};
  index_t i = 0;
  for (; i + vector_width <= count; i += vector_width) lanes += f(i);
  float sum = 0.0F;
  for (index_t lane = 0; lane < vector_width; ++lane) sum += lanes[lane];
  for (; i < count; ++i) sum += g(i);
  return sum;
}

inline constexpr index_t norm_rows_per_partial = 32;

}  // namespace detail

/// Bytes that rms_norm_backward borrows: partial sums of the weight's gradient.
[[nodiscard]] constexpr index_t rms_norm_workspace_bytes(index_t tokens, index_t d_model) {
  return ceil_div(tokens, detail::norm_rows_per_partial) * d_model * 4;
}

/// x [tokens, d_model], y the same shape, inverse_rms [tokens] = 1 / sqrt(mean(x^2) + epsilon), or empty:
/// not kept.
template <element T>
void rms_norm_forward(execution& execution, matrix_view<const float> x, vector_view<const T> weight,
                      float epsilon, matrix_view<T> y, vector_view<float> inverse_rms) {
  const index_t d = x.cols;
  for_each_row(execution, x.rows, [&](index_t t) {
    const float* from = x.row(t).data;
    T* to = y.row(t).data;
    const float squares = detail::lane_sum(
        d,
        [&](index_t i) {
          const float_vector v = load(from + i);
          return v * v;
        },
        [&](index_t i) { return from[i] * from[i]; });
    const float r = 1.0F / std::sqrt(squares / static_cast<float>(d) + epsilon);
    if (inverse_rms.size > 0) inverse_rms[t] = r;
    index_t i = 0;
    for (; i + vector_width <= d; i += vector_width)
      store(to + i, load(from + i) * r * load(weight.data + i));
    for (; i < d; ++i) to[i] = static_cast<T>(from[i] * r * static_cast<float>(weight[i]));
  });
}

/// grad_x += gradient of x (the residual branch's part); grad_weight [1, d_model] gets that of the weight.
template <element T>
void rms_norm_backward(execution& execution, matrix_view<const float> grad_y, matrix_view<const float> x,
                       vector_view<const T> weight, vector_view<const float> inverse_rms,
                       matrix_view<float> grad_x, const gradient_view& grad_weight) {
  const index_t d = x.cols;
  const index_t partials = ceil_div(x.rows, detail::norm_rows_per_partial);
  auto* partial = reinterpret_cast<float*>(execution.workspace(rms_norm_workspace_bytes(x.rows, d)));
  execution.threads().run(partials, [&](index_t task) {
    float* sums = partial + task * d;
    std::fill_n(sums, d, 0.0F);
    const index_t end = std::min(x.rows, (task + 1) * detail::norm_rows_per_partial);
    for (index_t t = task * detail::norm_rows_per_partial; t < end; ++t) {
      const float* g = grad_y.row(t).data;
      const float* from = x.row(t).data;
      float* to = grad_x.row(t).data;
      const float r = inverse_rms[t];
      const float dot = detail::lane_sum(
          d, [&](index_t i) { return load(g + i) * load(weight.data + i) * load(from + i); },
          [&](index_t i) { return g[i] * static_cast<float>(weight[i]) * from[i]; });
      const float shared = dot * r * r * r / static_cast<float>(d);
      index_t i = 0;
      for (; i + vector_width <= d; i += vector_width) {
        const float_vector gradient = load(g + i);
        const float_vector value = load(from + i);
        store(to + i, load(to + i) + gradient * load(weight.data + i) * r - value * shared);
        store(sums + i, load(sums + i) + gradient * value * r);
      }
      for (; i < d; ++i) {
        to[i] += g[i] * static_cast<float>(weight[i]) * r - from[i] * shared;
        sums[i] += g[i] * from[i] * r;
      }
    }
  });
  visit(grad_weight.type, [&](auto zero) {
    using stored = decltype(zero);
    stored* to = grad_weight.as<stored>().data;
    for (index_t i = 0; i < d; ++i) {
      float sum = grad_weight.mode == gradient_mode::accumulate ? static_cast<float>(to[i]) : 0.0F;
      for (index_t p = 0; p < partials; ++p) sum += partial[p * d + i];
      to[i] = static_cast<stored>(sum);
    }
  });
}

}  // namespace t5zero::cpu
