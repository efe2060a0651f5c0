// The attention sublayers of a generation step: one new token for each row, keys and values from a cache.
#pragma once

#include <t5zero/backend/backend.hpp>
#include <t5zero/nn/attention.hpp>
#include <t5zero/nn/sublayer_scratch.hpp>
#include <t5zero/tensor/tensor_view.hpp>

namespace t5zero::nn {

/// Rows of one step; all stand at the same position.
struct decode_rows {
  index_t rows = 0;
  const std::int32_t* ids = nullptr;    ///< [rows]: the tokens at this position
  const index_t* cache_rows = nullptr;  ///< [rows]: where their keys and values go
  decode_keys self_keys;                ///< positions 0 to this one, in the cache
  decode_keys cross_keys;               ///< the source tokens of each row's sentence

  /// The rows as a batch without dropout.
  [[nodiscard]] ragged_view tokens() const {
    ragged_view result;
    result.tokens = rows;
    return result;
  }
};

namespace detail {

template <element T>
decode_attention_inputs<T> decode_inputs(const model_shape& shape, const decode_keys& keys) {
  decode_attention_inputs<T> inputs;
  inputs.n_heads = shape.n_heads;
  inputs.d_kv = shape.d_kv;
  inputs.n_buckets = shape.n_buckets;
  inputs.max_distance = shape.max_distance;
  inputs.keys = keys;
  return inputs;
}

/// x_out = x + o(context).
template <class Ops, element T, class Execution>
void add_projected_context(Execution& execution, const decode_rows& step, matrix_view<const T> o,
                           matrix_view<const float> x, matrix_view<const T> context,
                           const sublayer_scratch<T>& scratch, matrix_view<float> x_out) {
  const matrix_view<float> branch = scratch.branch(x.rows);
  Ops::template matmul<T, T, float>(execution, transpose::no, context, transpose::yes, o, branch);
  Ops::residual_dropout_add(execution, x, branch, dropout_site{}, step.tokens(), x_out);
}

}  // namespace detail

/// cache: [any, 2 * inner_dim], keys beside values. x, x_out: [rows, d_model]; they may not alias.
template <class Ops, element T, class Execution>
void self_attention_decode(Execution& execution, const model_shape& shape, const decode_rows& step,
                           const self_attention_weights<T>& weights, matrix_view<T> cache,
                           matrix_view<const float> x, const attention_state<T>& state,
                           const sublayer_scratch<T>& scratch, matrix_view<float> x_out) {
  const index_t inner = shape.inner_dim();
  const matrix_view<T> normed = scratch.normed(x.rows);
  Ops::rms_norm_forward(execution, x, weights.norm, shape.epsilon, normed, state.inverse_rms);
  Ops::template matmul<T, T, T>(execution, transpose::no, normed, transpose::yes, weights.qkv,
                                state.projected);
  Ops::scatter_rows(execution, state.projected.column_block(inner, 2 * inner), step.cache_rows, cache);
  decode_attention_inputs<T> inputs = detail::decode_inputs<T>(shape, step.self_keys);
  inputs.query = state.projected.column_block(0, inner);
  inputs.key = cache.column_block(0, inner);
  inputs.value = cache.column_block(inner, inner);
  inputs.relative_bias = weights.relative_bias;
  Ops::decode_attention(execution, inputs, state.context);
  detail::add_projected_context<Ops, T>(execution, step, weights.o, x, state.context, scratch, x_out);
}

/// The encoder's keys and values were projected once, for all steps.
template <class Ops, element T, class Execution>
void cross_attention_decode(Execution& execution, const model_shape& shape, const decode_rows& step,
                            const cross_attention_weights<T>& weights,
                            const cross_key_value<const T>& key_value, matrix_view<const float> x,
                            const attention_state<T>& state, const sublayer_scratch<T>& scratch,
                            matrix_view<float> x_out) {
  const matrix_view<T> normed = scratch.normed(x.rows);
  Ops::rms_norm_forward(execution, x, weights.norm, shape.epsilon, normed, state.inverse_rms);
  Ops::template matmul<T, T, T>(execution, transpose::no, normed, transpose::yes, weights.q, state.projected);
  decode_attention_inputs<T> inputs = detail::decode_inputs<T>(shape, step.cross_keys);
  inputs.query = state.projected;
  inputs.key = key_value.key;
  inputs.value = key_value.value;
  Ops::decode_attention(execution, inputs, state.context);
  detail::add_projected_context<Ops, T>(execution, step, weights.o, x, state.context, scratch, x_out);
}

}  // namespace t5zero::nn
