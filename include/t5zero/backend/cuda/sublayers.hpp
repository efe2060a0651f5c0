// The GPU's sublayers. In 16-bit precisions and for few tokens, where launches cost more than arithmetic, a
// sublayer is two or three launches: what stands before and after a matmul is fused into it
// (token_matmul.hpp). Otherwise it is composed from primitive operations (nn/), with cuBLASLt's matmuls.
//
// Backward, fused: a norm's gradient is left for the next sublayer (nn/stream_gradient.hpp), whose first
// product adds it to the gradient of the stream while it reads it. On one of three branches, which sublayers
// take in turn with a set of scratch buffers each, the sublayer's input is normed again, and one launch makes
// the gradients of its weights and that of the norm's weight that the sublayer before left.
#pragma once

#include <utility>

#include <t5zero/backend/backend.hpp>
#include <t5zero/backend/cuda/current_device.hpp>
#include <t5zero/backend/cuda/execution.hpp>
#include <t5zero/backend/cuda/operations.hpp>
#include <t5zero/backend/cuda/row_sublayers.hpp>
#include <t5zero/backend/cuda/token_matmul.hpp>
#include <t5zero/backend/cuda/token_matmul_limits.hpp>
#include <t5zero/nn/composed_sublayers.hpp>

namespace t5zero::cuda {

/// Up to so many tokens, and elements of a weight, fused sublayers are faster than cuBLASLt's matmuls with
/// separate kernels between them (measured on an H100: bench/NOTES.md).
inline constexpr index_t most_fused_tokens = 64;
inline constexpr index_t most_fused_weights = index_t{1} << 20;

/// Gradient of the residual stream between sublayers that may be fused.
template <token_element T>
struct fused_stream_gradient : nn::stream_gradient<T> {
  matrix_view<float> spare;  ///< [tokens, d_model]: where the next value goes
  index_t turn = 0;          ///< sublayers so far
};

namespace detail {

/// Can sublayers of this shape be fused on this GPU?
[[nodiscard]] inline bool takes_shape(const model_shape& shape) {
  const index_t shared = current_device_limits().shared_bytes;
  const index_t d = shape.d_model;
  const index_t inner = shape.inner_dim();
  const index_t hidden = shape.gated() ? 2 * shape.d_ff : shape.d_ff;
  return computes_token_rows(d, 3 * inner, shared) && computes_token_rows(d, hidden, shared) &&
         copies_token_rows(inner, d, shared) && copies_token_rows(3 * inner, d, shared) &&
         copies_token_rows(hidden, d, shared);
}

}  // namespace detail

/// Of 16-bit weights.
template <token_element T>
struct token_sublayers : nn::composed_sublayers<operations<T>, T> {
  using composed = nn::composed_sublayers<operations<T>, T>;
  using gradient = fused_stream_gradient<T>;

  [[nodiscard]] static bool fuses(const model_shape& shape, index_t tokens) {
    return tokens <= most_fused_tokens && shape.d_model * shape.d_ff <= most_fused_weights &&
           detail::takes_shape(shape);
  }

  static void self_attention_forward(execution& e, const model_shape& shape, attention_mask mask,
                                     const ragged_view& tokens, const nn::self_attention_weights<T>& weights,
                                     const nn::attention_dropout& dropout, matrix_view<const float> x,
                                     const nn::attention_state<T>& state,
                                     const nn::sublayer_scratch<T>& scratch, matrix_view<float> x_out) {
    if (!fuses(shape, x.rows))
      return composed::self_attention_forward(e, shape, mask, tokens, weights, dropout, x, state, scratch,
                                              x_out);
    project(e, shape, x, weights.norm, weights.qkv, state.projected, state.inverse_rms);
    operations<T>::attention_forward(
        e, nn::detail::self_attention_inputs(shape, mask, tokens, weights, state, dropout.weights),
        state.context, state.log_sum_exp);
    add_to_stream(e, state.context, weights.o, x, dropout.output, tokens, x_out);
  }

  static void cross_attention_forward(execution& e, const model_shape& shape, const ragged_view& queries,
                                      const ragged_view& keys, const nn::cross_attention_weights<T>& weights,
                                      const nn::cross_key_value<const T>& key_value,
                                      const nn::attention_dropout& dropout, matrix_view<const float> x,
                                      const nn::attention_state<T>& state,
                                      const nn::sublayer_scratch<T>& scratch, matrix_view<float> x_out) {
    if (!fuses(shape, x.rows)) {
      return composed::cross_attention_forward(e, shape, queries, keys, weights, key_value, dropout, x, state,
                                               scratch, x_out);
    }
    project(e, shape, x, weights.norm, weights.q, state.projected, state.inverse_rms);
    operations<T>::attention_forward(
        e, nn::detail::cross_attention_inputs(shape, queries, keys, key_value, state, dropout.weights),
        state.context, state.log_sum_exp);
    add_to_stream(e, state.context, weights.o, x, dropout.output, queries, x_out);
  }

  static void feed_forward_forward(execution& e, const model_shape& shape, const ragged_view& tokens,
                                   const nn::feed_forward_weights<T>& weights,
                                   const nn::feed_forward_dropout& dropout, matrix_view<const float> x,
                                   const nn::feed_forward_state<T>& state,
                                   const nn::sublayer_scratch<T>& scratch, matrix_view<float> x_out) {
    if (!fuses(shape, x.rows))
      return composed::feed_forward_forward(e, shape, tokens, weights, dropout, x, state, scratch, x_out);
    norm_matmul<T>(e, {.x = x,
                       .norm_weight = weights.norm,
                       .epsilon = shape.epsilon,
                       .weight = weights.wi,
                       .y = state.hidden,
                       .inverse_rms = state.inverse_rms,
                       .relu = !shape.gated(),
                       .dropout = shape.gated() ? dropout_site{} : dropout.hidden,
                       .tokens = tokens,
                       .overlap = overlap_of(e)});
    matrix_view<T> activated = state.hidden;
    if (shape.gated()) {
      activated = scratch.activated(x.rows);
      operations<T>::gated_gelu_dropout_forward(e, state.hidden, dropout.hidden, tokens, activated);
    }
    add_to_stream(e, activated, weights.wo, x, dropout.output, tokens, x_out);
  }

  static void self_attention_decode(execution& e, const model_shape& shape, const nn::decode_rows& step,
                                    const nn::self_attention_weights<T>& weights, matrix_view<T> cache,
                                    matrix_view<const float> x, const nn::attention_state<T>& state,
                                    const nn::sublayer_scratch<T>& scratch, matrix_view<float> x_out) {
    if (!fuses(shape, x.rows))
      return composed::self_attention_decode(e, shape, step, weights, cache, x, state, scratch, x_out);
    const index_t inner = shape.inner_dim();
    project(e, shape, x, weights.norm, weights.qkv, state.projected, state.inverse_rms);
    operations<T>::scatter_rows(e, state.projected.column_block(inner, 2 * inner), step.cache_rows, cache);
    decode_attention_inputs<T> inputs = nn::detail::decode_inputs<T>(shape, step.self_keys);
    inputs.query = state.projected.column_block(0, inner);
    inputs.key = cache.column_block(0, inner);
    inputs.value = cache.column_block(inner, inner);
    inputs.relative_bias = weights.relative_bias;
    operations<T>::decode_attention(e, inputs, state.context);
    add_to_stream(e, state.context, weights.o, x, dropout_site{}, step.tokens(), x_out);
  }

  static void cross_attention_decode(execution& e, const model_shape& shape, const nn::decode_rows& step,
                                     const nn::cross_attention_weights<T>& weights,
                                     const nn::cross_key_value<const T>& key_value,
                                     matrix_view<const float> x, const nn::attention_state<T>& state,
                                     const nn::sublayer_scratch<T>& scratch, matrix_view<float> x_out) {
    if (!fuses(shape, x.rows))
      return composed::cross_attention_decode(e, shape, step, weights, key_value, x, state, scratch, x_out);
    project(e, shape, x, weights.norm, weights.q, state.projected, state.inverse_rms);
    decode_attention_inputs<T> inputs = nn::detail::decode_inputs<T>(shape, step.cross_keys);
    inputs.query = state.projected;
    inputs.key = key_value.key;
    inputs.value = key_value.value;
    operations<T>::decode_attention(e, inputs, state.context);
    add_to_stream(e, state.context, weights.o, x, dropout_site{}, step.tokens(), x_out);
  }

  template <class Activations>
  static gradient begin_stream_gradient(const Activations& saved, index_t tokens) {
    gradient result;
    result.value = saved.grad_stream(0, tokens);
    result.spare = saved.grad_stream(1, tokens);
    return result;
  }
  static matrix_view<float> whole_stream_gradient(execution& e, gradient& grad) {
    nn::finish_norm<operations<T>>(e, grad);
    if (grad.turn > 0) {  // the next stack begins with the first set of buffers again
      e.join(branch_of::feed_forward);
      e.join(branch_of::self_attention);
      e.join(branch_of::cross_attention);
    }
    return grad.value;
  }

  static void self_attention_backward(execution& e, const model_shape& shape, attention_mask mask,
                                      const ragged_view& tokens, const nn::self_attention_weights<T>& weights,
                                      const nn::attention_dropout& dropout, matrix_view<const float> x,
                                      const nn::attention_state<T>& state,
                                      const nn::sublayer_scratch<T>& all_scratch,
                                      const nn::self_attention_gradients& gradients, gradient& grad) {
    if (!fuses(shape, x.rows)) {
      return composed::self_attention_backward(e, shape, mask, tokens, weights, dropout, x, state,
                                               all_scratch, gradients, grad);
    }
    const index_t inner = shape.inner_dim();
    const branch_of branch = begin_turn(e, grad);
    const nn::sublayer_scratch<T> scratch = all_scratch.of(branch);
    const gradient before = grad;
    const matrix_view<T> grad_branch = scratch.grad_branch(x.rows);
    const matrix_view<T> grad_context = scratch.grad_context(x.rows);
    from_stream(e, grad, dropout.output, tokens, grad_branch, weights.o, {}, {}, grad_context);
    const matrix_view<T> grad_projected = scratch.grad_projected(x.rows, 3 * inner);
    operations<T>::attention_backward(
        e, nn::detail::self_attention_inputs(shape, mask, tokens, weights, state, dropout.weights),
        state.context, state.log_sum_exp, grad_context, grad_projected.column_block(0, inner),
        grad_projected.column_block(inner, inner), grad_projected.column_block(2 * inner, inner),
        gradients.relative_bias);
    weights_beside(e, branch, shape, x, weights.norm, scratch, before,
                   {grad_branch, state.context, gradients.o}, grad_projected, gradients.qkv);
    to_normed(e, all_scratch, grad_projected, weights.qkv, x, weights.norm, state.inverse_rms, gradients.norm,
              grad);
  }

  static void cross_attention_backward(execution& e, const model_shape& shape, const ragged_view& queries,
                                       const ragged_view& keys, const nn::cross_attention_weights<T>& weights,
                                       const nn::cross_key_value<const T>& key_value,
                                       const nn::attention_dropout& dropout, matrix_view<const float> x,
                                       const nn::attention_state<T>& state,
                                       const nn::sublayer_scratch<T>& all_scratch,
                                       const nn::cross_attention_gradients& gradients,
                                       const nn::cross_key_value<T>& grad_key_value, gradient& grad) {
    if (!fuses(shape, x.rows)) {
      return composed::cross_attention_backward(e, shape, queries, keys, weights, key_value, dropout, x,
                                                state, all_scratch, gradients, grad_key_value, grad);
    }
    const branch_of branch = begin_turn(e, grad);
    const nn::sublayer_scratch<T> scratch = all_scratch.of(branch);
    const gradient before = grad;
    const matrix_view<T> grad_branch = scratch.grad_branch(x.rows);
    const matrix_view<T> grad_context = scratch.grad_context(x.rows);
    from_stream(e, grad, dropout.output, queries, grad_branch, weights.o, {}, {}, grad_context);
    const matrix_view<T> grad_query = scratch.grad_projected(x.rows, shape.inner_dim());
    operations<T>::attention_backward(
        e, nn::detail::cross_attention_inputs(shape, queries, keys, key_value, state, dropout.weights),
        state.context, state.log_sum_exp, grad_context, grad_query, grad_key_value.key, grad_key_value.value,
        matrix_view<float>{});
    weights_beside(e, branch, shape, x, weights.norm, scratch, before,
                   {grad_branch, state.context, gradients.o}, grad_query, gradients.q);
    to_normed(e, all_scratch, grad_query, weights.q, x, weights.norm, state.inverse_rms, gradients.norm,
              grad);
  }

  static void feed_forward_backward(execution& e, const model_shape& shape, const ragged_view& tokens,
                                    const nn::feed_forward_weights<T>& weights,
                                    const nn::feed_forward_dropout& dropout, matrix_view<const float> x,
                                    const nn::feed_forward_state<T>& state,
                                    const nn::sublayer_scratch<T>& all_scratch,
                                    const nn::feed_forward_gradients& gradients, gradient& grad) {
    if (!fuses(shape, x.rows)) {
      return composed::feed_forward_backward(e, shape, tokens, weights, dropout, x, state, all_scratch,
                                             gradients, grad);
    }
    const branch_of branch = begin_turn(e, grad);
    const nn::sublayer_scratch<T> scratch = all_scratch.of(branch);
    const gradient before = grad;
    const matrix_view<T> grad_branch = scratch.grad_branch(x.rows);
    const matrix_view<T> grad_hidden = scratch.grad_hidden(x.rows);
    matrix_view<T> activated = state.hidden;
    if (shape.gated()) {
      activated = scratch.activated(x.rows);
      operations<T>::gated_gelu_dropout_forward(e, state.hidden, dropout.hidden, tokens, activated);
      const matrix_view<T> grad_activated = scratch.grad_activated(x.rows);
      from_stream(e, grad, dropout.output, tokens, grad_branch, weights.wo, {}, {}, grad_activated);
      operations<T>::gated_gelu_dropout_backward(e, grad_activated, state.hidden, dropout.hidden, tokens,
                                                 grad_hidden);
    } else {
      from_stream(e, grad, dropout.output, tokens, grad_branch, weights.wo, activated, dropout.hidden,
                  grad_hidden);
    }
    weights_beside(e, branch, shape, x, weights.norm, scratch, before, {grad_branch, activated, gradients.wo},
                   grad_hidden, gradients.wi);
    to_normed(e, all_scratch, grad_hidden, weights.wi, x, weights.norm, state.inverse_rms, gradients.norm,
              grad);
  }

 private:
  /// projected = norm(x) weight^T.
  static void project(execution& e, const model_shape& shape, matrix_view<const float> x,
                      vector_view<const T> norm, matrix_view<const T> weight, matrix_view<T> projected,
                      vector_view<float> inverse_rms) {
    norm_matmul<T>(e, {.x = x,
                       .norm_weight = norm,
                       .epsilon = shape.epsilon,
                       .weight = weight,
                       .y = projected,
                       .inverse_rms = inverse_rms,
                       .overlap = overlap_of(e)});
  }
  /// x_out = x + dropout(a weight^T).
  static void add_to_stream(execution& e, matrix_view<const T> a, matrix_view<const T> weight,
                            matrix_view<const float> x, const dropout_site& dropout,
                            const ragged_view& tokens, matrix_view<float> x_out) {
    matmul_residual<T>(e, {.a = a,
                           .weight = weight,
                           .x = x,
                           .out = x_out,
                           .dropout = dropout,
                           .tokens = tokens,
                           .overlap = overlap_of(e)});
  }

  /// The branch of the next sublayer; the buffers that go with it are free.
  [[nodiscard]] static branch_of begin_turn(execution& e, gradient& grad) {
    const auto branch = static_cast<branch_of>(grad.turn % 3);
    ++grad.turn;
    e.join(branch);
    return branch;
  }
  /// Takes the whole gradient of the stream: grad_branch = dropout(gradient), y = grad_branch weight, through
  /// relu where there is `activated`.
  static void from_stream(execution& e, gradient& grad, const dropout_site& dropout,
                          const ragged_view& tokens, matrix_view<T> grad_branch, matrix_view<const T> weight,
                          matrix_view<const T> activated, const dropout_site& activated_dropout,
                          matrix_view<T> y) {
    grad_matmul_arguments<T> arguments{.grad = grad.value,
                                       .dropout = dropout,
                                       .tokens = tokens,
                                       .dropped = grad_branch,
                                       .weight = weight,
                                       .activated = activated,
                                       .activated_dropout = activated_dropout,
                                       .y = y,
                                       .overlap = overlap_of(e)};
    if (grad.has_norm()) {
      arguments.grad_normed = grad.grad_normed;
      arguments.x = grad.x;
      arguments.norm_weight = grad.norm_weight;
      arguments.inverse_rms = grad.inverse_rms;
      arguments.gradient = grad.spare;
    }
    grad_matmul<T>(e, arguments);
    if (grad.has_norm()) {
      std::swap(grad.value, grad.spare);
      grad.grad_normed = {};
    }
  }
  /// On the branch: the gradients of the sublayer's two matrices, and of the norm's weight that the sublayer
  /// before left.
  static void weights_beside(execution& e, branch_of branch, const model_shape& shape,
                             matrix_view<const float> x, vector_view<const T> norm,
                             const nn::sublayer_scratch<T>& scratch, const gradient& before,
                             const weight_gradient<T>& output, matrix_view<const T> grad_input,
                             const gradient_view& input) {
    execution& beside = e.fork(branch);
    const matrix_view<T> normed = scratch.normed(x.rows);
    operations<T>::rms_norm_forward(beside, x, norm, shape.epsilon, normed, vector_view<float>{});
    weight_gradients_arguments<T> arguments;
    arguments.products[0] = output;
    arguments.products[1] = {grad_input, normed, input};
    if (before.has_norm())
      arguments.norms[0] = {before.grad_normed, before.x, before.inverse_rms, before.grad_norm_weight};
    weight_gradients<T>(beside, arguments);
  }
  /// The gradient of the norm's output, left for the next sublayer to add.
  static void to_normed(execution& e, const nn::sublayer_scratch<T>& scratch, matrix_view<const T> grad_input,
                        matrix_view<const T> weight, matrix_view<const float> x, vector_view<const T> norm,
                        vector_view<const float> inverse_rms, const gradient_view& grad_norm_weight,
                        gradient& grad) {
    // A set more than there are branches: the next sublayer's branch reads it, too.
    const matrix_view<float> grad_normed = scratch.grad_normed(grad.turn % 4, x.rows);
    plain_matmul<T>(e, {.a = grad_input, .weight = weight, .y = grad_normed, .overlap = overlap_of(e)});
    grad.leave_norm(grad_normed, x, norm, inverse_rms, grad_norm_weight);
  }
};

/// Sublayers of training, and of generation steps of many rows.
template <element T>
struct sublayers_of {
  using type = token_sublayers<T>;
};
template <>
struct sublayers_of<float> {
  using type = nn::composed_sublayers<operations<float>, float>;
};
template <element T>
using sublayers = row_sublayers<T, typename sublayers_of<T>::type>;

}  // namespace t5zero::cuda
