// The gradient of the residual stream on its way back through the sublayers.
#pragma once

#include <t5zero/backend/backend.hpp>
#include <t5zero/tensor/ragged_view.hpp>
#include <t5zero/tensor/tensor_view.hpp>

namespace t5zero::nn {

/// `value`, plus, if grad_normed has data, the gradient that comes through the norm of `x`: a sublayer leaves
/// it to the next one, whose first operation reads the stream anyway.
template <element T>
struct stream_gradient {
  matrix_view<float> value;                ///< [tokens, d_model]
  matrix_view<const float> grad_normed{};  ///< [tokens, d_model]
  matrix_view<const float> x{};            ///< [tokens, d_model]
  vector_view<const T> norm_weight{};      ///< [d_model]
  vector_view<const float> inverse_rms{};  ///< [tokens]
  gradient_view grad_norm_weight{};

  [[nodiscard]] bool has_norm() const { return grad_normed.data != nullptr; }
  /// Leaves the gradient of norm(x_before).
  void leave_norm(matrix_view<const float> grad_of_normed, matrix_view<const float> x_before,
                  vector_view<const T> weight, vector_view<const float> inverse,
                  const gradient_view& grad_weight) {
    grad_normed = grad_of_normed;
    x = x_before;
    norm_weight = weight;
    inverse_rms = inverse;
    grad_norm_weight = grad_weight;
  }
};

/// Adds what was left: `grad.value` is the whole gradient.
template <class Ops, element T, class Execution>
void finish_norm(Execution& execution, stream_gradient<T>& grad) {
  if (!grad.has_norm()) return;
  Ops::rms_norm_backward(execution, grad.grad_normed, grad.x, grad.norm_weight, grad.inverse_rms, grad.value,
                         grad.grad_norm_weight);
  grad.grad_normed = {};
}

/// The same, and grad_branch = dropout(grad.value), the gradient of a sublayer's output.
template <class Ops, element T, class Execution>
void begin_sublayer_backward(Execution& execution, stream_gradient<T>& grad, const dropout_site& dropout,
                             const ragged_view& tokens, matrix_view<T> grad_branch) {
  if (!grad.has_norm()) return Ops::dropout_backward(execution, grad.value, dropout, tokens, grad_branch);
  Ops::rms_norm_dropout_backward(execution, grad.grad_normed, grad.x, grad.norm_weight, grad.inverse_rms,
                                 grad.value, grad.grad_norm_weight, dropout, tokens, grad_branch);
  grad.grad_normed = {};
}

}  // namespace t5zero::nn
