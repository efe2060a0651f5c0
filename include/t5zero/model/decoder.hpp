// T5's decoder: embedding, blocks of causal self-attention, cross-attention and feed-forward, final norm.
#pragma once

#include <optional>
#include <utility>
#include <vector>

#include <t5zero/model/activations.hpp>
#include <t5zero/model/dropout_sites.hpp>
#include <t5zero/model/stack_weights.hpp>
#include <t5zero/nn/decode.hpp>
#include <t5zero/nn/parameter_source.hpp>
#include <t5zero/tensor/batch_view.hpp>

namespace t5zero::model {

/// Sublayers: a backend's sublayer operations for element type T.
template <class Sublayers, element T>
class decoder {
 public:
  explicit decoder(const model_shape& shape)
      : shape_(&shape),
        embedding_(find_parameter(shape, parameter_stack::shared, 0, parameter_role::embedding).range()),
        bias_(find_parameter(shape, parameter_stack::decoder, 0, parameter_role::relative_bias).range()),
        final_norm_(find_parameter(shape, parameter_stack::decoder, 0, parameter_role::final_norm).range()) {
    for (index_t layer = 0; layer < shape.n_decoder_layers; ++layer) {
      layers_.push_back(find_layer(shape, parameter_stack::decoder, layer));
    }
  }

  /// Reads saved.cross_key_value; fills activations up to decoder_output.
  template <class Execution, parameter_source_of<T> Source>
  void forward(Execution& execution, Source& source, const batch_view& batch, const dropout_state& dropout,
               const activations<T>& saved) const {
    const model_shape& shape = *shape_;
    const ragged_view& tokens = batch.target;
    const index_t n = tokens.tokens;
    const matrix_view<const T> key_value = saved.cross_key_value(batch.source.tokens);
    {
      const auto lease = source.acquire_rows(embedding_);
      Sublayers::embed_forward(execution, batch.decoder_ids, tokens,
                               matrix_view<const T>(lease.data(), shape.vocab_size, shape.d_model),
                               place(dropout, 0, dropout_place::embedding), saved.decoder_stream(0, n));
    }
    const auto bias = source.acquire(bias_);
    for (index_t i = 0; i < shape.n_decoder_layers; ++i) {
      const auto& layer = layers_[static_cast<std::size_t>(i)];
      const auto lease = source.acquire(layer.all);
      layer_forward(execution, {lease.data(), layer.all.first}, bias.data(), batch, key_value, dropout, i,
                    saved);
    }
    const auto lease = source.acquire(final_norm_);
    Sublayers::final_norm_forward(execution, shape, tokens, {lease.data(), shape.d_model},
                                  place(dropout, 0, dropout_place::final_norm),
                                  saved.decoder_stream(3 * shape.n_decoder_layers, n),
                                  saved.decoder_final_inverse_rms(n), saved.decoder_output(n));
  }

  /// One more token for each row. Reads saved.cross_key_value (of `source_tokens`), extends cache(layer) and
  /// fills the stream, up to what next_token_logits reads. cache(i): matrix_view<T>, keys beside values of
  /// layer i.
  template <class Execution, parameter_source_of<T> Source, class Cache>
  void decode(Execution& execution, Source& source, const nn::decode_rows& step, index_t source_tokens,
              const Cache& cache, const activations<T>& saved) const {
    const model_shape& shape = *shape_;
    const index_t n = step.rows;
    const matrix_view<const T> key_value = saved.cross_key_value(source_tokens);
    {
      const auto lease = source.acquire_rows(embedding_);
      Sublayers::embed_decode(execution, step,
                              matrix_view<const T>(lease.data(), shape.vocab_size, shape.d_model),
                              saved.decoder_stream(0, n));
    }
    const auto bias = source.acquire(bias_);
    for (index_t i = 0; i < shape.n_decoder_layers; ++i) {
      const auto& layer = layers_[static_cast<std::size_t>(i)];
      const auto lease = source.acquire(layer.all);
      const weight_views<T> weights{lease.data(), layer.all.first};
      Sublayers::self_attention_decode(execution, shape, step,
                                       weights.self_attention(shape, layer, bias.data()), cache(i),
                                       saved.decoder_stream(3 * i, n), saved.decoder_attention(i, n),
                                       saved.scratch(), saved.decoder_stream(3 * i + 1, n));
      Sublayers::cross_attention_decode(execution, shape, step, weights.cross_attention(shape, layer),
                                        key_value_of_layer(key_value, i, shape.inner_dim()),
                                        saved.decoder_stream(3 * i + 1, n), saved.cross_attention(i, n),
                                        saved.scratch(), saved.decoder_stream(3 * i + 2, n));
      Sublayers::feed_forward_decode(execution, shape, step, weights.feed_forward(shape, layer),
                                     saved.decoder_stream(3 * i + 2, n), saved.decoder_feed_forward(i, n),
                                     saved.scratch(), saved.decoder_stream(3 * i + 3, n));
    }
  }
  /// After decode: calls use(first row, logits [chunk, vocab_size]).
  template <class Execution, parameter_source_of<T> Source, class Use>
  void next_token_logits(Execution& execution, Source& source, index_t rows, matrix_view<const T> head,
                         float output_scale, const activations<T>& saved, const Use& use) const {
    const auto lease = source.acquire(final_norm_);
    Sublayers::next_token_logits(execution, *shape_, {lease.data(), shape_->d_model}, head, output_scale,
                                 saved.decoder_stream(3 * shape_->n_decoder_layers, rows),
                                 saved.decoder_final_inverse_rms(rows), saved.decoder_output(rows),
                                 saved.scratch(), use);
  }

  /// grad_output: gradient of decoder_output, [target tokens, d_model]; it is used up. Fills
  /// saved.grad_cross_key_value and the gradients of all decoder weights and of the embedding.
  template <class Execution, parameter_source_of<T> Source, gradient_sink Sink>
  void backward(Execution& execution, Source& source, Sink& sink, const batch_view& batch,
                const dropout_state& dropout, const activations<T>& saved,
                matrix_view<float> grad_output) const {
    const model_shape& shape = *shape_;
    const ragged_view& tokens = batch.target;
    const index_t n = tokens.tokens;
    const matrix_view<const T> key_value = saved.cross_key_value(batch.source.tokens);
    const matrix_view<T> grad_key_value = saved.grad_cross_key_value(batch.source.tokens);
    auto grad = Sublayers::begin_stream_gradient(saved, n);
    {
      const auto lease = source.acquire(final_norm_);
      Sublayers::final_norm_backward(
          execution, tokens, {lease.data(), shape.d_model}, place(dropout, 0, dropout_place::final_norm),
          saved.decoder_stream(3 * shape.n_decoder_layers, n), saved.decoder_final_inverse_rms(n),
          grad_output, grad, contribute_vector(sink, final_norm_));
      sink.complete(final_norm_);
    }
    const auto bias = source.acquire(bias_);
    // Of the layer after: the gradient of its first norm is left to the first sublayer here.
    std::optional<decltype(source.acquire(bias_))> after;
    for (index_t i = shape.n_decoder_layers - 1; i >= 0; --i) {
      const auto& layer = layers_[static_cast<std::size_t>(i)];
      auto lease = source.acquire(layer.all);
      const weight_views<T> weights{lease.data(), layer.all.first};
      // The last layer's activations are still those of the forward.
      if (saved.recomputes() && i + 1 < shape.n_decoder_layers) {
        execution.join_branches();  // they read the activations of the layer after
        layer_forward(execution, weights, bias.data(), batch, key_value, dropout, i, saved);
      }
      Sublayers::feed_forward_backward(execution, shape, tokens, weights.feed_forward(shape, layer),
                                       feed_forward_places(dropout, i), saved.decoder_stream(3 * i + 2, n),
                                       saved.decoder_feed_forward(i, n), saved.scratch(),
                                       feed_forward_gradients_of(sink, shape, layer), grad);
      after.reset();
      sink.complete(layer.feed_forward_completes);
      Sublayers::cross_attention_backward(
          execution, shape, tokens, batch.source, weights.cross_attention(shape, layer),
          key_value_of_layer(key_value, i, shape.inner_dim()), cross_places(dropout, i),
          saved.decoder_stream(3 * i + 1, n), saved.cross_attention(i, n), saved.scratch(),
          cross_attention_gradients_of(sink, shape, layer),
          key_value_of_layer(grad_key_value, i, shape.inner_dim()), grad);
      sink.complete(layer.cross_completes);
      Sublayers::self_attention_backward(
          execution, shape, attention_mask::causal, tokens, weights.self_attention(shape, layer, bias.data()),
          self_places(dropout, i), saved.decoder_stream(3 * i, n), saved.decoder_attention(i, n),
          saved.scratch(), self_attention_gradients_of(sink, shape, layer, bias_), grad);
      sink.complete(layer.self_completes);
      after.emplace(std::move(lease));
    }
    Sublayers::embed_backward(execution, batch.decoder_ids, tokens,
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
                     const batch_view& batch, matrix_view<const T> key_value, const dropout_state& dropout,
                     index_t i, const activations<T>& saved) const {
    const model_shape& shape = *shape_;
    const auto& layer = layers_[static_cast<std::size_t>(i)];
    const ragged_view& tokens = batch.target;
    const index_t n = tokens.tokens;
    Sublayers::self_attention_forward(execution, shape, attention_mask::causal, tokens,
                                      weights.self_attention(shape, layer, bias), self_places(dropout, i),
                                      saved.decoder_stream(3 * i, n), saved.decoder_attention(i, n),
                                      saved.scratch(), saved.decoder_stream(3 * i + 1, n));
    Sublayers::cross_attention_forward(
        execution, shape, tokens, batch.source, weights.cross_attention(shape, layer),
        key_value_of_layer(key_value, i, shape.inner_dim()), cross_places(dropout, i),
        saved.decoder_stream(3 * i + 1, n), saved.cross_attention(i, n), saved.scratch(),
        saved.decoder_stream(3 * i + 2, n));
    Sublayers::feed_forward_forward(execution, shape, tokens, weights.feed_forward(shape, layer),
                                    feed_forward_places(dropout, i), saved.decoder_stream(3 * i + 2, n),
                                    saved.decoder_feed_forward(i, n), saved.scratch(),
                                    saved.decoder_stream(3 * i + 3, n));
  }

  static dropout_site place(const dropout_state& dropout, index_t layer, dropout_place where) {
    return dropout.at(parameter_stack::decoder, layer, where);
  }
  static nn::attention_dropout self_places(const dropout_state& dropout, index_t layer) {
    return {place(dropout, layer, dropout_place::self_attention_weights),
            place(dropout, layer, dropout_place::self_attention_output)};
  }
  static nn::attention_dropout cross_places(const dropout_state& dropout, index_t layer) {
    return {place(dropout, layer, dropout_place::cross_attention_weights),
            place(dropout, layer, dropout_place::cross_attention_output)};
  }
  static nn::feed_forward_dropout feed_forward_places(const dropout_state& dropout, index_t layer) {
    return {place(dropout, layer, dropout_place::feed_forward_hidden),
            place(dropout, layer, dropout_place::feed_forward_output)};
  }

  const model_shape* shape_;
  parameter_range embedding_;
  parameter_range bias_;
  parameter_range final_norm_;
  std::vector<layer_ranges> layers_;
};

}  // namespace t5zero::model
