// Views of the weights and gradients of one layer, made from ranges of the flat parameter buffer.
#pragma once

#include <t5zero/nn/attention.hpp>
#include <t5zero/nn/feed_forward.hpp>
#include <t5zero/nn/gradient_sink.hpp>
#include <t5zero/plan/parameter_table.hpp>

namespace t5zero::model {

/// The ranges of one encoder or decoder layer, looked up once.
struct layer_ranges {
  parameter_range all;  ///< from the first to the last of the layer: what a lease covers
  parameter_range self_norm, self_qkv, self_o;
  parameter_range cross_norm, cross_q, cross_o;  ///< decoder only
  parameter_range feed_forward_norm, wi, wo;
  /// Whose gradients are complete once the backward of a sublayer is submitted: its matrices and the norm of
  /// the sublayer after it, for a norm's gradient may be left to the sublayer before.
  parameter_range self_completes, cross_completes, feed_forward_completes;
};

/// From the first element of `first` to the last of `last`.
constexpr parameter_range span_of(const parameter_row& first, const parameter_row& last) {
  return {first.offset, last.offset + last.count() - first.offset};
}

constexpr layer_ranges find_layer(const model_shape& shape, parameter_stack stack, index_t layer) {
  using enum parameter_role;
  auto find = [&](parameter_role role) { return find_parameter(shape, stack, layer, role); };
  layer_ranges ranges;
  ranges.self_norm = find(self_norm).range();
  ranges.self_qkv = span_of(find(self_q), find(self_v));
  ranges.self_o = find(self_o).range();
  const bool is_decoder = stack == parameter_stack::decoder;
  if (is_decoder) {
    ranges.cross_norm = find(cross_norm).range();
    ranges.cross_q = find(cross_q).range();
    ranges.cross_o = find(cross_o).range();
    ranges.cross_completes = span_of(find(cross_q), find(feed_forward_norm));
  }
  ranges.feed_forward_norm = find(feed_forward_norm).range();
  ranges.wi = shape.gated() ? span_of(find(wi_0), find(wi_1)) : find(wi).range();
  ranges.wo = find(wo).range();
  ranges.all = span_of(find(self_norm), find(wo));
  const index_t layers = is_decoder ? shape.n_decoder_layers : shape.n_encoder_layers;
  const parameter_row after_layer =
      layer + 1 < layers ? find_parameter(shape, stack, layer + 1, self_norm) : find(wo);
  ranges.self_completes = span_of(find(self_q), find(is_decoder ? cross_norm : feed_forward_norm));
  ranges.feed_forward_completes = span_of(find(shape.gated() ? wi_0 : wi), after_layer);
  return ranges;
}

/// Turns ranges into views of leased memory: `base` holds element `first` of the flat buffer.
template <element T>
struct weight_views {
  const T* base = nullptr;
  index_t first = 0;

  [[nodiscard]] const T* at(parameter_range range) const { return base + (range.first - first); }
  [[nodiscard]] vector_view<const T> vector(parameter_range range) const { return {at(range), range.count}; }
  [[nodiscard]] matrix_view<const T> matrix(parameter_range range, index_t cols) const {
    return {at(range), range.count / cols, cols};
  }
  [[nodiscard]] nn::self_attention_weights<T> self_attention(const model_shape& shape,
                                                             const layer_ranges& layer,
                                                             const T* relative_bias) const {
    return {vector(layer.self_norm), matrix(layer.self_qkv, shape.d_model),
            matrix(layer.self_o, shape.inner_dim()), relative_bias};
  }
  [[nodiscard]] nn::cross_attention_weights<T> cross_attention(const model_shape& shape,
                                                               const layer_ranges& layer) const {
    return {vector(layer.cross_norm), matrix(layer.cross_q, shape.d_model),
            matrix(layer.cross_o, shape.inner_dim())};
  }
  [[nodiscard]] nn::feed_forward_weights<T> feed_forward(const model_shape& shape,
                                                         const layer_ranges& layer) const {
    return {vector(layer.feed_forward_norm), matrix(layer.wi, shape.d_model), matrix(layer.wo, shape.d_ff)};
  }
};

/// The matching gradients.
template <gradient_sink Sink>
gradient_view contribute_matrix(Sink& sink, parameter_range range, index_t cols) {
  return sink.contribute(range, range.count / cols, cols);
}
template <gradient_sink Sink>
gradient_view contribute_vector(Sink& sink, parameter_range range) {
  return sink.contribute(range, 1, range.count);
}

template <gradient_sink Sink>
nn::self_attention_gradients self_attention_gradients_of(Sink& sink, const model_shape& shape,
                                                         const layer_ranges& layer, parameter_range bias) {
  return {contribute_vector(sink, layer.self_norm), contribute_matrix(sink, layer.self_qkv, shape.d_model),
          contribute_matrix(sink, layer.self_o, shape.inner_dim()),
          sink.accumulator(bias, shape.n_buckets, shape.n_heads)};
}
template <gradient_sink Sink>
nn::cross_attention_gradients cross_attention_gradients_of(Sink& sink, const model_shape& shape,
                                                           const layer_ranges& layer) {
  return {contribute_vector(sink, layer.cross_norm), contribute_matrix(sink, layer.cross_q, shape.d_model),
          contribute_matrix(sink, layer.cross_o, shape.inner_dim())};
}
template <gradient_sink Sink>
nn::feed_forward_gradients feed_forward_gradients_of(Sink& sink, const model_shape& shape,
                                                     const layer_ranges& layer) {
  return {contribute_vector(sink, layer.feed_forward_norm), contribute_matrix(sink, layer.wi, shape.d_model),
          contribute_matrix(sink, layer.wo, shape.d_ff)};
}

}  // namespace t5zero::model
