// Every sublayer of T5 from a backend's primitive operations: the default composition. A backend that fuses
// one hides that function in a class derived from this one and keeps the rest.
#pragma once

#include <cstdint>
#include <utility>

#include <t5zero/nn/attention.hpp>
#include <t5zero/nn/decode.hpp>
#include <t5zero/nn/feed_forward.hpp>
#include <t5zero/nn/head_and_loss.hpp>

namespace t5zero::nn {

/// Ops: static primitive operations for stored element type T.
template <class Ops, element T>
struct composed_sublayers {
  /// out = dropout(table[ids]).
  template <class Execution>
  static void embed_forward(Execution& execution, const std::int32_t* ids, const ragged_view& tokens,
                            matrix_view<const T> table, const dropout_site& dropout, matrix_view<float> out) {
    Ops::embedding_forward(execution, ids, tokens, table, dropout, out);
  }
  /// Adds to grad_table, which a tied head may have begun.
  template <class Execution>
  static void embed_backward(Execution& execution, const std::int32_t* ids, const ragged_view& tokens,
                             const dropout_site& dropout, matrix_view<const float> grad,
                             matrix_view<float> grad_table) {
    execution.join(branch_of::head);
    Ops::embedding_backward(execution, ids, tokens, dropout, grad, grad_table);
  }

  /// The gradient of the residual stream, which sublayers' backward takes and changes.
  template <class Activations>
  static stream_gradient<T> begin_stream_gradient(const Activations& saved, index_t tokens) {
    stream_gradient<T> result;
    result.value = saved.grad_stream(0, tokens);
    return result;
  }
  template <class Execution>
  static matrix_view<float> whole_stream_gradient(Execution& execution, stream_gradient<T>& grad) {
    finish_norm<Ops>(execution, grad);
    return grad.value;
  }

  template <class... Args>
  static void self_attention_forward(Args&&... args) {
    nn::self_attention_forward<Ops>(std::forward<Args>(args)...);
  }
  template <class... Args>
  static void self_attention_backward(Args&&... args) {
    nn::self_attention_backward<Ops>(std::forward<Args>(args)...);
  }
  template <class... Args>
  static void cross_attention_forward(Args&&... args) {
    nn::cross_attention_forward<Ops>(std::forward<Args>(args)...);
  }
  template <class... Args>
  static void cross_attention_backward(Args&&... args) {
    nn::cross_attention_backward<Ops>(std::forward<Args>(args)...);
  }
  template <class... Args>
  static void self_attention_decode(Args&&... args) {
    nn::self_attention_decode<Ops>(std::forward<Args>(args)...);
  }
  template <class... Args>
  static void cross_attention_decode(Args&&... args) {
    nn::cross_attention_decode<Ops>(std::forward<Args>(args)...);
  }
  template <class... Args>
  static void feed_forward_forward(Args&&... args) {
    nn::feed_forward_forward<Ops>(std::forward<Args>(args)...);
  }
  template <class... Args>
  static void feed_forward_backward(Args&&... args) {
    nn::feed_forward_backward<Ops>(std::forward<Args>(args)...);
  }

  /// out = dropout(norm(x)): the end of a stack.
  template <class Execution>
  static void final_norm_forward(Execution& execution, const model_shape& shape, const ragged_view& tokens,
                                 vector_view<const T> weight, const dropout_site& dropout,
                                 matrix_view<const float> x, vector_view<float> inverse_rms,
                                 matrix_view<T> out) {
    Ops::rms_norm_forward(execution, x, weight, shape.epsilon, out, inverse_rms);
    if (dropout.active()) Ops::dropout_in_place(execution, out, dropout, tokens);
  }
  /// grad_out is used up; grad is overwritten.
  template <class Execution>
  static void final_norm_backward(Execution& execution, const ragged_view& tokens,
                                  vector_view<const T> weight, const dropout_site& dropout,
                                  matrix_view<const float> x, vector_view<const float> inverse_rms,
                                  matrix_view<float> grad_out, stream_gradient<T>& grad,
                                  const gradient_view& grad_weight) {
    require(!grad.has_norm(), "final_norm_backward: the gradient of another stack's norm was left");
    if (dropout.active()) Ops::dropout_in_place(execution, grad_out, dropout, tokens);
    Ops::fill_zero(execution, grad.value);
    Ops::rms_norm_backward(execution, grad_out, x, weight, inverse_rms, grad.value, grad_weight);
  }

  /// The beginning of a generation step.
  template <class Execution>
  static void embed_decode(Execution& execution, const decode_rows& step, matrix_view<const T> table,
                           matrix_view<float> out) {
    Ops::embedding_forward(execution, step.ids, step.tokens(), table, dropout_site{}, out);
  }
  /// A generation step's feed-forward.
  template <class Execution>
  static void feed_forward_decode(Execution& execution, const model_shape& shape, const decode_rows& step,
                                  const feed_forward_weights<T>& weights, matrix_view<const float> x,
                                  const feed_forward_state<T>& state, const sublayer_scratch<T>& scratch,
                                  matrix_view<float> x_out) {
    nn::feed_forward_forward<Ops>(execution, shape, step.tokens(), weights, feed_forward_dropout{}, x, state,
                                  scratch, x_out);
  }
  /// The end of a generation step: logits of norm(x) in chunks, use(first row, logits [chunk, vocab_size]).
  template <class Execution, class Use>
  static void next_token_logits(Execution& execution, const model_shape& shape, vector_view<const T> norm,
                                matrix_view<const T> head, float output_scale, matrix_view<const float> x,
                                vector_view<float> inverse_rms, matrix_view<T> normed,
                                const sublayer_scratch<T>& scratch, const Use& use) {
    Ops::rms_norm_forward(execution, x, norm, shape.epsilon, normed, inverse_rms);
    nn::for_each_logits_chunk<Ops, T>(execution, head, output_scale, matrix_view<const T>(normed), scratch,
                                      use);
  }

  /// y = x weight^T.
  template <class Out, class Execution>
  static void linear_forward(Execution& execution, matrix_view<const T> x, matrix_view<const T> weight,
                             matrix_view<Out> y) {
    Ops::template matmul<T, T, Out>(execution, transpose::no, x, transpose::yes, weight, y);
  }
  /// grad_x = grad_y weight (overwritten), grad_weight = grad_y^T x, the latter on
  /// branch_of::cross_attention.
  template <class In, class Execution>
  static void linear_backward(Execution& execution, matrix_view<const T> x, matrix_view<const T> weight,
                              matrix_view<const In> grad_y, matrix_view<float> grad_x,
                              const gradient_view& grad_weight) {
    Ops::template matmul<In, T>(execution.fork(branch_of::cross_attention), transpose::yes, grad_y,
                                transpose::no, x, grad_weight);
    Ops::template matmul<In, T, float>(execution, transpose::no, grad_y, transpose::no, weight, grad_x);
  }

  template <class... Args>
  static void head_and_loss_forward(Args&&... args) {
    nn::head_and_loss_forward<Ops, T>(std::forward<Args>(args)...);
  }
  template <class... Args>
  static void head_and_loss_backward(Args&&... args) {
    nn::head_and_loss_backward<Ops, T>(std::forward<Args>(args)...);
  }
  template <class... Args>
  static void for_each_logits_chunk(Args&&... args) {
    nn::for_each_logits_chunk<Ops, T>(std::forward<Args>(args)...);
  }
};

}  // namespace t5zero::nn
