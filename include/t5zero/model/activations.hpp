// The saved activations of one micro-batch as views of the arena, by stack and layer.
#pragma once

#include <cstddef>

#include <t5zero/nn/attention.hpp>
#include <t5zero/nn/feed_forward.hpp>
#include <t5zero/nn/sublayer_scratch.hpp>
#include <t5zero/plan/activation_plan.hpp>

namespace t5zero::model {

/// Views as long as the batch at hand: a plan's slices hold up to its tokens.
template <element T>
class activations {
 public:
  activations(std::byte* arena, const activation_plan& plan, const model_shape& shape)
      : arena_(arena), plan_(&plan), shape_(&shape), scratch_(arena, plan, shape) {}

  [[nodiscard]] const nn::sublayer_scratch<T>& scratch() const { return scratch_; }

  /// Are layers computed again before their backward?
  [[nodiscard]] bool recomputes() const { return plan_->recomputes; }

  /// Residual stream before sublayer i, [tokens, d_model].
  [[nodiscard]] matrix_view<float> encoder_stream(index_t i, index_t tokens) const {
    return stream(plan_->encoder_stream, plan_->encoder_inner_stream, i, 2, tokens);
  }
  [[nodiscard]] matrix_view<float> decoder_stream(index_t i, index_t tokens) const {
    return stream(plan_->decoder_stream, plan_->decoder_inner_stream, i, 3, tokens);
  }
  [[nodiscard]] nn::attention_state<T> encoder_attention(index_t layer, index_t tokens) const {
    return attention(plan_->encoder_attention, layer, tokens, 3 * shape_->inner_dim());
  }
  [[nodiscard]] nn::attention_state<T> decoder_attention(index_t layer, index_t tokens) const {
    return attention(plan_->decoder_attention, layer, tokens, 3 * shape_->inner_dim());
  }
  [[nodiscard]] nn::attention_state<T> cross_attention(index_t layer, index_t tokens) const {
    return attention(plan_->cross_attention, layer, tokens, shape_->inner_dim());
  }
  [[nodiscard]] nn::feed_forward_state<T> encoder_feed_forward(index_t layer, index_t tokens) const {
    return feed_forward(plan_->encoder_feed_forward, layer, tokens);
  }
  [[nodiscard]] nn::feed_forward_state<T> decoder_feed_forward(index_t layer, index_t tokens) const {
    return feed_forward(plan_->decoder_feed_forward, layer, tokens);
  }
  [[nodiscard]] vector_view<float> encoder_final_inverse_rms(index_t tokens) const {
    return {at<float>(plan_->encoder_final_inverse_rms), tokens};
  }
  [[nodiscard]] vector_view<float> decoder_final_inverse_rms(index_t tokens) const {
    return {at<float>(plan_->decoder_final_inverse_rms), tokens};
  }
  /// After the final norm and dropout, [tokens, d_model].
  [[nodiscard]] matrix_view<T> encoder_output(index_t tokens) const {
    return view<T>(plan_->encoder_output, tokens, shape_->d_model);
  }
  [[nodiscard]] matrix_view<T> decoder_output(index_t tokens) const {
    return view<T>(plan_->decoder_output, tokens, shape_->d_model);
  }
  /// Keys and values of all decoder layers, [source tokens, n_decoder_layers * 2 * inner_dim].
  [[nodiscard]] matrix_view<T> cross_key_value(index_t tokens) const {
    return view<T>(plan_->cross_key_value, tokens, shape_->n_decoder_layers * 2 * shape_->inner_dim());
  }
  [[nodiscard]] matrix_view<T> grad_cross_key_value(index_t tokens) const {
    return view<T>(plan_->grad_cross_key_value, tokens, shape_->n_decoder_layers * 2 * shape_->inner_dim());
  }
  /// Buffer i of the gradient of the residual stream; only a backend with several scratch sets has a second
  /// one.
  [[nodiscard]] matrix_view<float> grad_stream(index_t i, index_t tokens) const {
    return view<float>(plan_->grad_stream[i], tokens, shape_->d_model);
  }
  [[nodiscard]] matrix_view<float> grad_encoder_output(index_t tokens) const {
    return view<float>(plan_->grad_output, tokens, shape_->d_model);
  }
  /// Gradient of decoder_output. It is used up before grad_encoder_output is written, so both share bytes.
  [[nodiscard]] matrix_view<float> grad_output(index_t target_tokens) const {
    return view<float>(plan_->grad_output, target_tokens, shape_->d_model);
  }
  /// [target tokens, 2]: negative log-likelihood and uniform part of each label.
  [[nodiscard]] matrix_view<double> row_loss(index_t tokens) const {
    return view<double>(plan_->row_loss, tokens, 2);
  }

 private:
  template <class U>
  [[nodiscard]] U* at(slice where) const {
    return reinterpret_cast<U*>(arena_ + where.offset);
  }
  template <class U>
  [[nodiscard]] matrix_view<U> view(slice where, index_t rows, index_t cols) const {
    require(rows * cols * static_cast<index_t>(sizeof(U)) <= where.bytes,
            "activations: the batch has more tokens than were planned");
    return {at<U>(where), rows, cols};
  }
  [[nodiscard]] matrix_view<float> stream(const slice_array& before, const slice_array& inner, index_t i,
                                          index_t sublayers, index_t tokens) const {
    if (!plan_->recomputes) return view<float>(before[i], tokens, shape_->d_model);
    const index_t place = i % sublayers;
    return view<float>(place == 0 ? before[i / sublayers] : inner[place - 1], tokens, shape_->d_model);
  }
  [[nodiscard]] nn::attention_state<T> attention(const attention_slices& slices, index_t layer,
                                                 index_t tokens, index_t projected) const {
    return {{at<float>(slices.inverse_rms[layer]), tokens},
            view<T>(slices.projected[layer], tokens, projected),
            view<T>(slices.context[layer], tokens, shape_->inner_dim()),
            view<float>(slices.log_sum_exp[layer], tokens, shape_->n_heads)};
  }
  [[nodiscard]] nn::feed_forward_state<T> feed_forward(const feed_forward_slices& slices, index_t layer,
                                                       index_t tokens) const {
    return {{at<float>(slices.inverse_rms[layer]), tokens},
            view<T>(slices.hidden[layer], tokens, shape_->gated() ? 2 * shape_->d_ff : shape_->d_ff)};
  }

  std::byte* arena_;
  const activation_plan* plan_;
  const model_shape* shape_;
  nn::sublayer_scratch<T> scratch_;
};

/// Key and value columns of one layer in a buffer of all layers.
template <class T>
nn::cross_key_value<T> key_value_of_layer(matrix_view<T> all, index_t layer, index_t inner_dim) {
  return {all.column_block(2 * layer * inner_dim, inner_dim),
          all.column_block((2 * layer + 1) * inner_dim, inner_dim)};
}

}  // namespace t5zero::model
