// What stands between the matrices of a feed-forward, with its dropout: relu, or gelu_new(gate) * linear.
#pragma once

#include <cmath>

#include <t5zero/backend/cpu/dropout.hpp>
#include <t5zero/backend/cpu/execution.hpp>
#include <t5zero/backend/cpu/vector.hpp>
#include <t5zero/backend/cpu/vector_math.hpp>
#include <t5zero/tensor/tensor_view.hpp>

namespace t5zero::cpu {

namespace detail {

inline constexpr float sqrt_2_over_pi = 0.7978845608028654F;

/// multipliers of a chunk, or ones where dropout is off: body(first, count, multipliers).
template <class Body>
void for_each_activation_chunk(const dropout_site& site, const ragged_view& tokens, index_t t,
                               index_t features, const Body& body) {
  if (site.active()) {
    for_each_dropout_chunk(site, tokens.rows[t], tokens.positions[t], features, body);
    return;
  }
  alignas(64) float ones[dropout_chunk];
  std::fill_n(ones, dropout_chunk, 1.0F);
  for (index_t first = 0; first < features; first += dropout_chunk) {
    body(first, std::min(dropout_chunk, features - first), ones);
  }
}

/// tanh(sqrt(2/pi) (x + 0.044715 x^3)) of a chunk. Hendrycks and Gimpel 2016, the tanh form. Both arrays hold
/// dropout_chunk floats; those beyond the chunk's count come out unused.
inline void gelu_tanh(const float* x, float* out) {
  for (index_t i = 0; i < dropout_chunk; i += vector_width) {
    const float_vector value = load(x + i);
    store(out + i, tanh(sqrt_2_over_pi * (value + 0.044715F * value * value * value)));
  }
}

}  // namespace detail

/// In place: hidden = dropout(relu(hidden)), [tokens, d_ff].
template <element T>
void relu_dropout_forward(execution& execution, matrix_view<T> hidden, const dropout_site& site,
                          const ragged_view& tokens) {
  for_each_row(execution, hidden.rows, [&](index_t t) {
    T* row = hidden.row(t).data;
    detail::for_each_activation_chunk(
        site, tokens, t, hidden.cols, [&](index_t first, index_t count, const float* multipliers) {
          index_t i = 0;
          for (; i + vector_width <= count; i += vector_width) {
            const float_vector value = load(row + first + i);
            const float_vector kept = value > 0.0F ? value * load(multipliers + i) : float_vector{};
            store(row + first + i, kept);
          }
          for (; i < count; ++i) {
            const auto value = static_cast<float>(row[first + i]);
            row[first + i] = static_cast<T>(value > 0.0F ? value * multipliers[i] : 0.0F);
          }
        });
  });
}

/// grad_hidden = activated > 0 ? grad_activated / (1 - rate) : 0: an activation is positive exactly where
/// relu passed it and dropout kept it, so no mask is needed again.
template <element T>
void relu_dropout_backward(execution& execution, matrix_view<const T> grad_activated,
                           matrix_view<const T> activated, const dropout_site& site,
                           matrix_view<T> grad_hidden) {
  const float scale = site.scale();
  for_each_row(execution, activated.rows, [&](index_t t) {
    const T* gradient = grad_activated.row(t).data;
    const T* value = activated.row(t).data;
    T* to = grad_hidden.row(t).data;
    index_t i = 0;
    for (; i + vector_width <= activated.cols; i += vector_width) {
      const float_vector passed = load(value + i) > 0.0F ? load(gradient + i) * scale : float_vector{};
      store(to + i, passed);
    }
    for (; i < activated.cols; ++i) {
      to[i] = static_cast<T>(static_cast<float>(value[i]) > 0.0F ? static_cast<float>(gradient[i]) * scale
                                                                 : 0.0F);
    }
  });
}

/// out [tokens, d_ff] = dropout(gelu_new(gate) * linear); hidden [tokens, 2 * d_ff] holds gate, then linear.
template <element T>
void gated_gelu_dropout_forward(execution& execution, matrix_view<const T> hidden, const dropout_site& site,
                                const ragged_view& tokens, matrix_view<T> out) {
  const index_t d_ff = out.cols;
  for_each_row(execution, hidden.rows, [&](index_t t) {
    const T* gate_row = hidden.row(t).data;
    const T* linear_row = gate_row + d_ff;
    T* to = out.row(t).data;
    detail::for_each_activation_chunk(site, tokens, t, d_ff,
                                      [&](index_t first, index_t count, const float* multipliers) {
                                        alignas(64) float gate[dropout_chunk] = {};
                                        alignas(64) float tanh[dropout_chunk];
                                        alignas(64) float linear[dropout_chunk];
                                        convert_range(gate_row + first, gate, count);
                                        convert_range(linear_row + first, linear, count);
                                        detail::gelu_tanh(gate, tanh);
                                        for (index_t i = 0; i < count; ++i) {
                                          linear[i] *= 0.5F * gate[i] * (1.0F + tanh[i]) * multipliers[i];
                                        }
                                        convert_range(linear, to + first, count);
                                      });
  });
}

/// grad_hidden [tokens, 2 * d_ff] from grad_activated [tokens, d_ff].
template <element T>
void gated_gelu_dropout_backward(execution& execution, matrix_view<const T> grad_activated,
                                 matrix_view<const T> hidden, const dropout_site& site,
                                 const ragged_view& tokens, matrix_view<T> grad_hidden) {
  const index_t d_ff = grad_activated.cols;
  for_each_row(execution, hidden.rows, [&](index_t t) {
    const T* gradient_row = grad_activated.row(t).data;
    const T* gate_row = hidden.row(t).data;
    const T* linear_row = gate_row + d_ff;
    T* to = grad_hidden.row(t).data;
    detail::for_each_activation_chunk(
        site, tokens, t, d_ff, [&](index_t first, index_t count, const float* multipliers) {
          alignas(64) float gate[dropout_chunk] = {};
          alignas(64) float tanh[dropout_chunk];
          alignas(64) float linear[dropout_chunk];
          alignas(64) float gradient[dropout_chunk];
          convert_range(gate_row + first, gate, count);
          convert_range(linear_row + first, linear, count);
          convert_range(gradient_row + first, gradient, count);
          detail::gelu_tanh(gate, tanh);
          for (index_t i = 0; i < count; ++i) {
            const float g = gradient[i] * multipliers[i];
            const float x = gate[i];
            const float gelu = 0.5F * x * (1.0F + tanh[i]);
            const float inner = detail::sqrt_2_over_pi * (1.0F + 3.0F * 0.044715F * x * x);
            const float slope = 0.5F * (1.0F + tanh[i]) + 0.5F * x * (1.0F - tanh[i] * tanh[i]) * inner;
            gate[i] = g * linear[i] * slope;
            linear[i] = g * gelu;
          }
          convert_range(gate, to + first, count);
          convert_range(linear, to + d_ff + first, count);
        });
  });
}

}  // namespace t5zero::cpu
