// Self- and cross-attention sublayers of T5, composed from a backend's primitive operations:
//   x_out = x + dropout(o(attention(norm(x)))), pre-norm, no 1/sqrt(d_kv), relative bias in self-attention
//   only.
// Source: Raffel et al. 2020; modeling_t5.py (T5LayerSelfAttention, T5LayerCrossAttention) for the order of
// operations.
#pragma once

#include <t5zero/backend/backend.hpp>
#include <t5zero/nn/stream_gradient.hpp>
#include <t5zero/nn/sublayer_scratch.hpp>
#include <t5zero/tensor/ragged_view.hpp>
#include <t5zero/tensor/tensor_view.hpp>

namespace t5zero::nn {

template <element T>
struct self_attention_weights {
  vector_view<const T> norm;         ///< [d_model]
  matrix_view<const T> qkv;          ///< [3 * inner_dim, d_model]
  matrix_view<const T> o;            ///< [d_model, inner_dim]
  const T* relative_bias = nullptr;  ///< [n_buckets, n_heads], one table for all layers of a stack
};

struct self_attention_gradients {
  gradient_view norm;
  gradient_view qkv;
  gradient_view o;
  matrix_view<float> relative_bias;  ///< [n_buckets, n_heads], accumulated
};

template <element T>
struct cross_attention_weights {
  vector_view<const T> norm;  ///< [d_model]
  matrix_view<const T> q;     ///< [inner_dim, d_model]
  matrix_view<const T> o;     ///< [d_model, inner_dim]
};

struct cross_attention_gradients {
  gradient_view norm;
  gradient_view q;
  gradient_view o;
};

/// What forward leaves for backward.
template <element T>
struct attention_state {
  vector_view<float> inverse_rms;  ///< [tokens]
  matrix_view<T> projected;  ///< [tokens, 3 * inner_dim]: q, k, v; cross-attention: [tokens, inner_dim]: q
  matrix_view<T> context;    ///< [tokens, inner_dim]
  matrix_view<float> log_sum_exp;  ///< [tokens, n_heads]
};

/// Dropout of the attention weights and of the sublayer's output.
struct attention_dropout {
  dropout_site weights;
  dropout_site output;
};

/// The encoder's keys and values of one decoder layer: views into the buffer of all layers. T may be const.
template <class T>
struct cross_key_value {
  matrix_view<T> key;    ///< [source tokens, inner_dim]
  matrix_view<T> value;  ///< [source tokens, inner_dim]
};

namespace detail {

template <element T>
attention_inputs<T> attention_shape(const model_shape& shape, const ragged_view& queries,
                                    const ragged_view& keys, const dropout_site& dropout) {
  attention_inputs<T> inputs;
  inputs.n_heads = shape.n_heads;
  inputs.d_kv = shape.d_kv;
  inputs.n_buckets = shape.n_buckets;
  inputs.max_distance = shape.max_distance;
  inputs.queries = queries;
  inputs.keys = keys;
  inputs.dropout = dropout;
  return inputs;
}

template <element T>
attention_inputs<T> self_attention_inputs(const model_shape& shape, attention_mask mask,
                                          const ragged_view& tokens, const self_attention_weights<T>& weights,
                                          const attention_state<T>& state, const dropout_site& dropout) {
  const index_t inner = shape.inner_dim();
  attention_inputs<T> inputs = attention_shape<T>(shape, tokens, tokens, dropout);
  inputs.query = state.projected.column_block(0, inner);
  inputs.key = state.projected.column_block(inner, inner);
  inputs.value = state.projected.column_block(2 * inner, inner);
  inputs.relative_bias = weights.relative_bias;
  inputs.mask = mask;
  return inputs;
}

template <element T>
attention_inputs<T> cross_attention_inputs(const model_shape& shape, const ragged_view& queries,
                                           const ragged_view& keys, const cross_key_value<const T>& key_value,
                                           const attention_state<T>& state, const dropout_site& dropout) {
  attention_inputs<T> inputs = attention_shape<T>(shape, queries, keys, dropout);
  inputs.query = state.projected;
  inputs.key = key_value.key;
  inputs.value = key_value.value;
  return inputs;
}

}  // namespace detail

/// x, x_out: [tokens, d_model] residual stream before and after; they may not alias.
template <class Ops, element T, class Execution>
void self_attention_forward(Execution& execution, const model_shape& shape, attention_mask mask,
                            const ragged_view& tokens, const self_attention_weights<T>& weights,
                            const attention_dropout& dropout, matrix_view<const float> x,
                            const attention_state<T>& state, const sublayer_scratch<T>& scratch,
                            matrix_view<float> x_out) {
  const matrix_view<T> normed = scratch.normed(x.rows);
  Ops::rms_norm_forward(execution, x, weights.norm, shape.epsilon, normed, state.inverse_rms);
  Ops::template matmul<T, T, T>(execution, transpose::no, normed, transpose::yes, weights.qkv,
                                state.projected);
  Ops::attention_forward(execution,
                         detail::self_attention_inputs(shape, mask, tokens, weights, state, dropout.weights),
                         state.context, state.log_sum_exp);
  const matrix_view<float> branch = scratch.branch(x.rows);
  Ops::template matmul<T, T, float>(execution, transpose::no, state.context, transpose::yes, weights.o,
                                    branch);
  Ops::residual_dropout_add(execution, x, branch, dropout.output, tokens, x_out);
}

/// grad: gradient of x_out on entry, of x on return.
template <class Ops, element T, class Execution>
void self_attention_backward(Execution& execution, const model_shape& shape, attention_mask mask,
                             const ragged_view& tokens, const self_attention_weights<T>& weights,
                             const attention_dropout& dropout, matrix_view<const float> x,
                             const attention_state<T>& state, const sublayer_scratch<T>& all_scratch,
                             const self_attention_gradients& gradients, stream_gradient<T>& grad) {
  const index_t inner = shape.inner_dim();
  // What still reads this set of buffers is the gradient of an earlier sublayer's weights.
  const sublayer_scratch<T> scratch = all_scratch.of(branch_of::self_attention);
  execution.join(branch_of::self_attention);
  const matrix_view<T> grad_branch = scratch.grad_branch(x.rows);
  begin_sublayer_backward<Ops>(execution, grad, dropout.output, tokens, grad_branch);
  const matrix_view<T> normed = scratch.normed(x.rows);
  Execution& beside = execution.fork(branch_of::self_attention);
  Ops::template matmul<T, T>(beside, transpose::yes, grad_branch, transpose::no, state.context, gradients.o);
  Ops::rms_norm_forward(beside, x, weights.norm, shape.epsilon, normed, /*inverse_rms=*/vector_view<float>{});
  const matrix_view<T> grad_context = scratch.grad_context(x.rows);
  Ops::template matmul<T, T, T>(execution, transpose::no, grad_branch, transpose::no, weights.o,
                                grad_context);

  const matrix_view<T> grad_projected = scratch.grad_projected(x.rows, 3 * inner);
  Ops::attention_backward(execution,
                          detail::self_attention_inputs(shape, mask, tokens, weights, state, dropout.weights),
                          state.context, state.log_sum_exp, grad_context,
                          grad_projected.column_block(0, inner), grad_projected.column_block(inner, inner),
                          grad_projected.column_block(2 * inner, inner), gradients.relative_bias);
  Ops::template matmul<T, T>(execution.fork(branch_of::self_attention), transpose::yes, grad_projected,
                             transpose::no, normed, gradients.qkv);
  const matrix_view<float> grad_normed = all_scratch.pending_grad_normed(x.rows);
  Ops::template matmul<T, T, float>(execution, transpose::no, grad_projected, transpose::no, weights.qkv,
                                    grad_normed);
  grad.leave_norm(grad_normed, x, weights.norm, state.inverse_rms, gradients.norm);
}

/// As self_attention_forward; the keys and values were projected for all layers at once.
template <class Ops, element T, class Execution>
void cross_attention_forward(Execution& execution, const model_shape& shape, const ragged_view& queries,
                             const ragged_view& keys, const cross_attention_weights<T>& weights,
                             const cross_key_value<const T>& key_value, const attention_dropout& dropout,
                             matrix_view<const float> x, const attention_state<T>& state,
                             const sublayer_scratch<T>& scratch, matrix_view<float> x_out) {
  const matrix_view<T> normed = scratch.normed(x.rows);
  Ops::rms_norm_forward(execution, x, weights.norm, shape.epsilon, normed, state.inverse_rms);
  Ops::template matmul<T, T, T>(execution, transpose::no, normed, transpose::yes, weights.q, state.projected);
  Ops::attention_forward(
      execution, detail::cross_attention_inputs(shape, queries, keys, key_value, state, dropout.weights),
      state.context, state.log_sum_exp);
  const matrix_view<float> branch = scratch.branch(x.rows);
  Ops::template matmul<T, T, float>(execution, transpose::no, state.context, transpose::yes, weights.o,
                                    branch);
  Ops::residual_dropout_add(execution, x, branch, dropout.output, queries, x_out);
}

/// As self_attention_backward; also writes the gradient of this layer's keys and values.
template <class Ops, element T, class Execution>
void cross_attention_backward(Execution& execution, const model_shape& shape, const ragged_view& queries,
                              const ragged_view& keys, const cross_attention_weights<T>& weights,
                              const cross_key_value<const T>& key_value, const attention_dropout& dropout,
                              matrix_view<const float> x, const attention_state<T>& state,
                              const sublayer_scratch<T>& all_scratch,
                              const cross_attention_gradients& gradients,
                              const cross_key_value<T>& grad_key_value, stream_gradient<T>& grad) {
  const sublayer_scratch<T> scratch = all_scratch.of(branch_of::cross_attention);
  execution.join(branch_of::cross_attention);
  const matrix_view<T> grad_branch = scratch.grad_branch(x.rows);
  begin_sublayer_backward<Ops>(execution, grad, dropout.output, queries, grad_branch);
  const matrix_view<T> normed = scratch.normed(x.rows);
  Execution& beside = execution.fork(branch_of::cross_attention);
  Ops::template matmul<T, T>(beside, transpose::yes, grad_branch, transpose::no, state.context, gradients.o);
  Ops::rms_norm_forward(beside, x, weights.norm, shape.epsilon, normed, /*inverse_rms=*/vector_view<float>{});
  const matrix_view<T> grad_context = scratch.grad_context(x.rows);
  Ops::template matmul<T, T, T>(execution, transpose::no, grad_branch, transpose::no, weights.o,
                                grad_context);

  const matrix_view<T> grad_query = scratch.grad_projected(x.rows, shape.inner_dim());
  Ops::attention_backward(
      execution, detail::cross_attention_inputs(shape, queries, keys, key_value, state, dropout.weights),
      state.context, state.log_sum_exp, grad_context, grad_query, grad_key_value.key, grad_key_value.value,
      matrix_view<float>{});
  Ops::template matmul<T, T>(execution.fork(branch_of::cross_attention), transpose::yes, grad_query,
                             transpose::no, normed, gradients.q);
  const matrix_view<float> grad_normed = all_scratch.pending_grad_normed(x.rows);
  Ops::template matmul<T, T, float>(execution, transpose::no, grad_query, transpose::no, weights.q,
                                    grad_normed);
  grad.leave_norm(grad_normed, x, weights.norm, state.inverse_rms, gradients.norm);
}

}  // namespace t5zero::nn
