// The feed-forward sublayer: x_out = x + dropout(wo(dropout(act(wi norm(x))))), with act relu (T5) or, gated,
// gelu_new(wi_0 .) * (wi_1 .) (T5 v1.1; Shazeer 2020, "GLU Variants Improve Transformer").
#pragma once

#include <t5zero/backend/backend.hpp>
#include <t5zero/nn/stream_gradient.hpp>
#include <t5zero/nn/sublayer_scratch.hpp>
#include <t5zero/tensor/ragged_view.hpp>
#include <t5zero/tensor/tensor_view.hpp>

namespace t5zero::nn {

template <element T>
struct feed_forward_weights {
  vector_view<const T> norm;  ///< [d_model]
  matrix_view<const T> wi;    ///< [d_ff, d_model]; gated: wi_0 above wi_1, [2 * d_ff, d_model]
  matrix_view<const T> wo;    ///< [d_model, d_ff]
};

struct feed_forward_gradients {
  gradient_view norm;
  gradient_view wi;
  gradient_view wo;
};

/// What forward leaves for backward.
template <element T>
struct feed_forward_state {
  vector_view<float> inverse_rms;  ///< [tokens]
  matrix_view<T>
      hidden;  ///< relu: [tokens, d_ff] after relu and dropout; gated: [tokens, 2 * d_ff] before gelu
};

struct feed_forward_dropout {
  dropout_site hidden;
  dropout_site output;
};

/// x, x_out: [tokens, d_model]; they may not alias.
template <class Ops, element T, class Execution>
void feed_forward_forward(Execution& execution, const model_shape& shape, const ragged_view& tokens,
                          const feed_forward_weights<T>& weights, const feed_forward_dropout& dropout,
                          matrix_view<const float> x, const feed_forward_state<T>& state,
                          const sublayer_scratch<T>& scratch, matrix_view<float> x_out) {
  const matrix_view<T> normed = scratch.normed(x.rows);
  Ops::rms_norm_forward(execution, x, weights.norm, shape.epsilon, normed, state.inverse_rms);
  Ops::template matmul<T, T, T>(execution, transpose::no, normed, transpose::yes, weights.wi, state.hidden);
  matrix_view<T> activated = state.hidden;
  if (shape.gated()) {
    activated = scratch.activated(x.rows);
    Ops::gated_gelu_dropout_forward(execution, state.hidden, dropout.hidden, tokens, activated);
  } else {
    Ops::relu_dropout_forward(execution, state.hidden, dropout.hidden, tokens);
  }
  const matrix_view<float> branch = scratch.branch(x.rows);
  Ops::template matmul<T, T, float>(execution, transpose::no, activated, transpose::yes, weights.wo, branch);
  Ops::residual_dropout_add(execution, x, branch, dropout.output, tokens, x_out);
}

/// grad: gradient of x_out on entry, of x on return.
template <class Ops, element T, class Execution>
void feed_forward_backward(Execution& execution, const model_shape& shape, const ragged_view& tokens,
                           const feed_forward_weights<T>& weights, const feed_forward_dropout& dropout,
                           matrix_view<const float> x, const feed_forward_state<T>& state,
                           const sublayer_scratch<T>& all_scratch, const feed_forward_gradients& gradients,
                           stream_gradient<T>& grad) {
  // What still reads this set of buffers is the gradient of an earlier sublayer's weights.
  const sublayer_scratch<T> scratch = all_scratch.of(branch_of::feed_forward);
  execution.join(branch_of::feed_forward);
  const matrix_view<T> grad_branch = scratch.grad_branch(x.rows);
  begin_sublayer_backward<Ops>(execution, grad, dropout.output, tokens, grad_branch);
  matrix_view<T> activated = state.hidden;
  if (shape.gated()) {
    activated = scratch.activated(x.rows);
    Ops::gated_gelu_dropout_forward(execution, state.hidden, dropout.hidden, tokens, activated);
  }
  const matrix_view<T> normed = scratch.normed(x.rows);
  Execution& beside = execution.fork(branch_of::feed_forward);
  Ops::template matmul<T, T>(beside, transpose::yes, grad_branch, transpose::no, activated, gradients.wo);
  Ops::rms_norm_forward(beside, x, weights.norm, shape.epsilon, normed, /*inverse_rms=*/vector_view<float>{});
  const matrix_view<T> grad_hidden = scratch.grad_hidden(x.rows);
  if (shape.gated()) {
    const matrix_view<T> grad_activated = scratch.grad_activated(x.rows);
    Ops::template matmul<T, T, T>(execution, transpose::no, grad_branch, transpose::no, weights.wo,
                                  grad_activated);
    Ops::gated_gelu_dropout_backward(execution, grad_activated, state.hidden, dropout.hidden, tokens,
                                     grad_hidden);
  } else {
    Ops::relu_gradient_matmul(execution, grad_branch, weights.wo, activated, dropout.hidden, grad_hidden);
  }
  Ops::template matmul<T, T>(execution.fork(branch_of::feed_forward), transpose::yes, grad_hidden,
                             transpose::no, normed, gradients.wi);
  const matrix_view<float> grad_normed = all_scratch.pending_grad_normed(x.rows);
  Ops::template matmul<T, T, float>(execution, transpose::no, grad_hidden, transpose::no, weights.wi,
                                    grad_normed);
  grad.leave_norm(grad_normed, x, weights.norm, state.inverse_rms, gradients.norm);
}

}  // namespace t5zero::nn
