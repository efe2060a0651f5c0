// Sublayers of a generation step of few rows, two or three launches each: what stands before and after a
// matmul is fused into it (row_matmul.hpp). Steps of more rows, or of models whose weights keep the memory
// busy longer than launches take, are composed as Base does it.
#pragma once

#include <t5zero/backend/backend.hpp>
#include <t5zero/backend/cuda/current_device.hpp>
#include <t5zero/backend/cuda/execution.hpp>
#include <t5zero/backend/cuda/operations.hpp>
#include <t5zero/backend/cuda/row_attention.hpp>
#include <t5zero/backend/cuda/row_matmul.hpp>
#include <t5zero/nn/decode.hpp>
#include <t5zero/nn/feed_forward.hpp>

namespace t5zero::cuda {

/// Base: sublayers for stored element type T.
template <element T, class Base>
struct row_sublayers : Base {
  [[nodiscard]] static bool fuses_rows(const execution& e, const model_shape& shape, index_t rows) {
    const index_t d = shape.d_model;
    const index_t hidden = shape.gated() ? 2 * shape.d_ff : shape.d_ff;
    return rows <= most_matmul_rows && multiplies_rows(d, 3 * shape.inner_dim(), true) &&
           multiplies_rows(d, hidden, true) && multiplies_rows(shape.inner_dim(), d, false) &&
           multiplies_rows(shape.d_ff, d, false) && row_clusters_work<T>(e);
  }

  static void embed_decode(execution& e, const nn::decode_rows& step, matrix_view<const T> table,
                           matrix_view<float> out) {
    if (table.cols % 4 != 0) return Base::embed_decode(e, step, table, out);
    rows_embedding<T>(e, {.ids = step.ids, .table = table, .out = out, .overlap = overlap_of(e)});
  }

  static void self_attention_decode(execution& e, const model_shape& shape, const nn::decode_rows& step,
                                    const nn::self_attention_weights<T>& weights, matrix_view<T> cache,
                                    matrix_view<const float> x, const nn::attention_state<T>& state,
                                    const nn::sublayer_scratch<T>& scratch, matrix_view<float> x_out) {
    if (!fuses_rows(e, shape, x.rows))
      return Base::self_attention_decode(e, shape, step, weights, cache, x, state, scratch, x_out);
    const index_t inner = shape.inner_dim();
    decode_attention_inputs<T> inputs = nn::detail::decode_inputs<T>(shape, step.self_keys);
    inputs.key = cache.column_block(0, inner);
    inputs.value = cache.column_block(inner, inner);
    inputs.relative_bias = weights.relative_bias;
    const rows_cache<T> own{cache, step.cache_rows};
    if (attends_with_rows(x.rows, x.cols, true, inputs)) {
      attend(e, shape, x, weights.norm, weights.qkv, own, inputs, state.context);
    } else {
      inputs.query = state.projected.column_block(0, inner);
      inputs.early = early_keys::all_but_last;  // `project` scatters: it has waited when it starts the next
      project(
          e, shape, x, weights.norm, weights.qkv,
          {.y = state.projected.column_block(0, inner), .scattered = own.data, .scattered_rows = own.rows});
      operations<T>::decode_attention(e, inputs, state.context);
    }
    add_to_stream(e, state.context, weights.o, x, x_out);
  }

  static void cross_attention_decode(execution& e, const model_shape& shape, const nn::decode_rows& step,
                                     const nn::cross_attention_weights<T>& weights,
                                     const nn::cross_key_value<const T>& key_value,
                                     matrix_view<const float> x, const nn::attention_state<T>& state,
                                     const nn::sublayer_scratch<T>& scratch, matrix_view<float> x_out) {
    if (!fuses_rows(e, shape, x.rows))
      return Base::cross_attention_decode(e, shape, step, weights, key_value, x, state, scratch, x_out);
    decode_attention_inputs<T> inputs = nn::detail::decode_inputs<T>(shape, step.cross_keys);
    inputs.key = key_value.key;
    inputs.value = key_value.value;
    if (attends_with_rows(x.rows, x.cols, false, inputs)) {
      attend(e, shape, x, weights.norm, weights.q, {}, inputs, state.context);
    } else {
      project(e, shape, x, weights.norm, weights.q, {.y = state.projected});
      inputs.query = state.projected;
      inputs.early = early_keys::all;
      operations<T>::decode_attention(e, inputs, state.context);
    }
    add_to_stream(e, state.context, weights.o, x, x_out);
  }

  static void feed_forward_decode(execution& e, const model_shape& shape, const nn::decode_rows& step,
                                  const nn::feed_forward_weights<T>& weights, matrix_view<const float> x,
                                  const nn::feed_forward_state<T>& state,
                                  const nn::sublayer_scratch<T>& scratch, matrix_view<float> x_out) {
    if (!fuses_rows(e, shape, x.rows))
      return Base::feed_forward_decode(e, shape, step, weights, x, state, scratch, x_out);
    project(e, shape, x, weights.norm, weights.wi, {.y = state.hidden, .relu = !shape.gated()});
    matrix_view<T> activated = state.hidden;
    if (shape.gated()) {
      activated = scratch.activated(x.rows);
      operations<T>::gated_gelu_dropout_forward(e, state.hidden, dropout_site{}, step.tokens(), activated);
    }
    add_to_stream(e, activated, weights.wo, x, x_out);
  }

  template <class Use>
  static void next_token_logits(execution& e, const model_shape& shape, vector_view<const T> norm,
                                matrix_view<const T> head, float output_scale, matrix_view<const float> x,
                                vector_view<float> inverse_rms, matrix_view<T> normed,
                                const nn::sublayer_scratch<T>& scratch, const Use& use) {
    if (x.rows > scratch.head_chunk() || !fuses_rows(e, shape, x.rows) ||
        row_logits_bytes(sizeof(T), x.cols, x.rows) > current_device_limits().shared_bytes) {
      return Base::next_token_logits(e, shape, norm, head, output_scale, x, inverse_rms, normed, scratch,
                                     use);
    }
    const matrix_view<float> logits = scratch.logits(x.rows);
    norm_rows_logits<T>(e, {.x = x,
                            .norm_weight = norm,
                            .epsilon = shape.epsilon,
                            .weight = head,
                            .scale = output_scale,
                            .y = logits,
                            .overlap = overlap_of(e)});
    use(index_t{0}, logits);
  }

 private:
  /// target = norm(x) weight^T.
  static void project(execution& e, const model_shape& shape, matrix_view<const float> x,
                      vector_view<const T> norm, matrix_view<const T> weight, const rows_target<T>& target) {
    norm_rows_matmul<T>(e, {.x = x,
                            .norm_weight = norm,
                            .epsilon = shape.epsilon,
                            .weight = weight,
                            .target = target,
                            .overlap = overlap_of(e)});
  }
  /// context = the attention of norm(x) weight^T, whose keys and values go to `cache` if there is one.
  static void attend(execution& e, const model_shape& shape, matrix_view<const float> x,
                     vector_view<const T> norm, matrix_view<const T> weight, const rows_cache<T>& cache,
                     const decode_attention_inputs<T>& attention, matrix_view<T> context) {
    norm_rows_attention<T>(e, {.x = x,
                               .norm_weight = norm,
                               .epsilon = shape.epsilon,
                               .weight = weight,
                               .cache = cache,
                               .attention = attention,
                               .context = context,
                               .overlap = overlap_of(e)});
  }
  /// x_out = x + a weight^T.
  static void add_to_stream(execution& e, matrix_view<const T> a, matrix_view<const T> weight,
                            matrix_view<const float> x, matrix_view<float> x_out) {
    rows_residual<T>(e, {.a = a, .weight = weight, .x = x, .out = x_out, .overlap = overlap_of(e)});
  }
};

}  // namespace t5zero::cuda
