// T5's encoder: embedding, blocks of self-attention and feed-forward, final norm; and the projection of its
// output to the keys and values of every decoder layer.
#pragma once

#include <optional>
#include <utility>
#include <vector>

#include <t5zero/model/activations.hpp>
#include <t5zero/model/dropout_sites.hpp>
#include <t5zero/model/stack_weights.hpp>
#include <t5zero/nn/parameter_source.hpp>
#include <t5zero/tensor/batch_view.hpp>

namespace t5zero::model {

/// Sublayers: a backend's sublayer operations for element type T.
template <class Sublayers, element T>
class encoder {
 public:
  explicit encoder(const model_shape& shape)
      : shape_(&shape),
        embedding_(find_parameter(shape, parameter_stack::shared, 0, parameter_role::embedding).range()),
        bias_(find_parameter(shape, parameter_stack::encoder, 0, parameter_role::relative_bias).range()),
        final_norm_(find_parameter(shape, parameter_stack::encoder, 0, parameter_role::final_norm).range()),
        cross_key_value_(span_of(find_parameter(shape, parameter_stack::decoder, 0, parameter_role::cross_k),
                                 find_parameter(shape, parameter_stack::decoder, shape.n_decoder_layers - 1,
                                                parameter_role::cross_v))) {
    for (index_t layer = 0; layer < shape.n_encoder_layers; ++layer) {
      layers_.push_back(find_layer(shape, parameter_stack::encoder, layer));
    }
  }

  /// Fills activations up to encoder_output and cross_key_value.
  template <class Execution, parameter_source_of<T> Source>
  void forward(Execution& execution, Source& source, const batch_view& batch, const dropout_state& dropout,
               const activations<T>& saved) const {
    const model_shape& shape = *shape_;
    const ragged_view& tokens = batch.source;
    const index_t n = tokens.tokens;
    {
      const auto lease = source.acquire_rows(embedding_);
      Sublayers::embed_forward(execution, batch.source_ids, tokens,
                               matrix_view<const T>(lease.data(), shape.vocab_size, shape.d_model),
                               place(dropout, 0, dropout_place::embedding), saved.encoder_stream(0, n));
    }
    const auto bias = source.acquire(bias_);
    for (index_t i = 0; i < shape.n_encoder_layers; ++i) {
      const auto& layer = layers_[static_cast<std::size_t>(i)];
      const auto lease = source.acquire(layer.all);
      layer_forward(execution, {lease.data(), layer.all.first}, bias.data(), tokens, dropout, i, saved);
    }
    {
      const auto lease = source.acquire(final_norm_);
      Sublayers::final_norm_forward(execution, shape, tokens, {lease.data(), shape.d_model},
                                    place(dropout, 0, dropout_place::final_norm),
                                    saved.encoder_stream(2 * shape.n_encoder_layers, n),
                                    saved.encoder_final_inverse_rms(n), saved.encoder_output(n));
    }
    const auto lease = source.acquire(cross_key_value_);
    Sublayers::template linear_forward<T>(
        execution, saved.encoder_output(n),
        matrix_view<const T>(lease.data(), cross_key_value_.count / shape.d_model, shape.d_model),
        saved.cross_key_value(n));
  }

  /// From saved.grad_cross_key_value to the gradients of all encoder weights and of the embedding.
  template <class Execution, parameter_source_of<T> Source, gradient_sink Sink>
  void backward(Execution& execution, Source& source, Sink& sink, const batch_view& batch,
                const dropout_state& dropout, const activations<T>& saved) const {
    const model_shape& shape = *shape_;
    const ragged_view& tokens = batch.source;
    const index_t n = tokens.tokens;
    auto grad = Sublayers::begin_stream_gradient(saved, n);
    {
      const auto lease = source.acquire(cross_key_value_);
      Sublayers::template linear_backward<T>(
          execution, saved.encoder_output(n),
          matrix_view<const T>(lease.data(), cross_key_value_.count / shape.d_model, shape.d_model),
          saved.grad_cross_key_value(n), saved.grad_encoder_output(n),
          contribute_matrix(sink, cross_key_value_, shape.d_model));
      sink.complete(cross_key_value_);
    }
    {
      const auto lease = source.acquire(final_norm_);
      Sublayers::final_norm_backward(
          execution, tokens, {lease.data(), shape.d_model}, place(dropout, 0, dropout_place::final_norm),
          saved.encoder_stream(2 * shape.n_encoder_layers, n), saved.encoder_final_inverse_rms(n),
          saved.grad_encoder_output(n), grad, contribute_vector(sink, final_norm_));
      sink.complete(final_norm_);
    }
    const auto bias = source.acquire(bias_);
    // Of the layer after: the gradient of its first norm is left to the first sublayer here.
    std::optional<decltype(source.acquire(bias_))> after;
    for (index_t i = shape.n_encoder_layers - 1; i >= 0; --i) {
      const auto& layer = layers_[static_cast<std::size_t>(i)];
      auto lease = source.acquire(layer.all);
      const weight_views<T> weights{lease.data(), layer.all.first};
      // The last layer's activations are still those of the forward.
      if (saved.recomputes() && i + 1 < shape.n_encoder_layers) {
        execution.join_branches();  // they read the activations of the layer after
        layer_forward(execution, weights, bias.data(), tokens, dropout, i, saved);
      }
      Sublayers::feed_forward_backward(execution, shape, tokens, weights.feed_forward(shape, layer),
                                       feed_forward_places(dropout, i), saved.encoder_stream(2 * i + 1, n),
                                       saved.encoder_feed_forward(i, n), saved.scratch(),
                                       feed_forward_gradients_of(sink, shape, layer), grad);
      after.reset();
      sink.complete(layer.feed_forward_completes);
      Sublayers::self_attention_backward(
          execution, shape, attention_mask::full, tokens, weights.self_attention(shape, layer, bias.data()),
          attention_places(dropout, i), saved.encoder_stream(2 * i, n), saved.encoder_attention(i, n),
          saved.scratch(), self_attention_gradients_of(sink, shape, layer, bias_), grad);
      sink.complete(layer.self_completes);
      after.emplace(std::move(lease));
    }
    Sublayers::embed_backward(execution, batch.source_ids, tokens,
                              place(dropout, 0, dropout_place::embedding),
                              Sublayers::whole_stream_gradient(execution, grad),
                              sink.accumulator(embedding_, shape.vocab_size, shape.d_model));
    sink.complete(layers_.front().self_norm);
    sink.complete(bias_);
  }

 private:
  /// Fills the activations of layer i and the stream after it.
  template <class Execution>
  void layer_forward(Execution& execution, const weight_views<T>& weights, const T* bias,
                     const ragged_view& tokens, const dropout_state& dropout, index_t i,
                     const activations<T>& saved) const {
    const model_shape& shape = *shape_;
    const auto& layer = layers_[static_cast<std::size_t>(i)];
    const index_t n = tokens.tokens;
    Sublayers::self_attention_forward(
        execution, shape, attention_mask::full, tokens, weights.self_attention(shape, layer, bias),
        attention_places(dropout, i), saved.encoder_stream(2 * i, n), saved.encoder_attention(i, n),
        saved.scratch(), saved.encoder_stream(2 * i + 1, n));
    Sublayers::feed_forward_forward(execution, shape, tokens, weights.feed_forward(shape, layer),
                                    feed_forward_places(dropout, i), saved.encoder_stream(2 * i + 1, n),
                                    saved.encoder_feed_forward(i, n), saved.scratch(),
                                    saved.encoder_stream(2 * i + 2, n));
  }

  static dropout_site place(const dropout_state& dropout, index_t layer, dropout_place where) {
    return dropout.at(parameter_stack::encoder, layer, where);
  }
  static nn::attention_dropout attention_places(const dropout_state& dropout, index_t layer) {
    return {place(dropout, layer, dropout_place::self_attention_weights),
            place(dropout, layer, dropout_place::self_attention_output)};
  }
  static nn::feed_forward_dropout feed_forward_places(const dropout_state& dropout, index_t layer) {
    return {place(dropout, layer, dropout_place::feed_forward_hidden),
            place(dropout, layer, dropout_place::feed_forward_output)};
  }

  const model_shape* shape_;
  parameter_range embedding_;
  parameter_range bias_;
  parameter_range final_norm_;
  parameter_range cross_key_value_;  ///< of all decoder layers
  std::vector<layer_ranges> layers_;
};

}  // namespace t5zero::model
