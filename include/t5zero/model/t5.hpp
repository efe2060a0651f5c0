// T5 for conditional generation: encoder, decoder, head and loss, forward and backward.
#pragma once

#include <t5zero/model/activations.hpp>
#include <t5zero/model/decoder.hpp>
#include <t5zero/model/dropout_sites.hpp>
#include <t5zero/model/encoder.hpp>
#include <t5zero/nn/head_and_loss.hpp>
#include <t5zero/tensor/batch_view.hpp>

namespace t5zero::model {

/// The computation of a T5; it owns no weights, gradients or activations. `Sublayers` are a backend's
/// operations for element type T. `shape` outlives the model.
template <class Sublayers, element T>
class t5 {
 public:
  explicit t5(const model_shape& shape)
      : shape_(&shape),
        encoder_(shape),
        decoder_(shape),
        embedding_(find_parameter(shape, parameter_stack::shared, 0, parameter_role::embedding).range()),
        head_(shape.ties_embeddings
                  ? embedding_
                  : find_parameter(shape, parameter_stack::shared, 0, parameter_role::lm_head).range()) {
    require(shape.n_encoder_layers <= dropout_state::max_layers &&
                shape.n_decoder_layers <= dropout_state::max_layers &&
                shape.n_heads <= dropout_state::max_heads,
            "t5: more layers or heads than dropout sites are numbered for");
  }

  /// Loss of a batch without gradients, to *loss.sums: evaluation when dropout.rate is 0.
  template <class Execution, parameter_source_of<T> Source>
  void forward(Execution& execution, Source& source, const batch_view& batch, const dropout_state& dropout,
               const nn::loss_options& loss, const activations<T>& saved) const {
    encoder_.forward(execution, source, batch, dropout, saved);
    decoder_.forward(execution, source, batch, dropout, saved);
    const auto lease = source.acquire(head_);
    Sublayers::head_and_loss_forward(execution, head(lease.data()), output_scale(),
                                     matrix_view<const T>(saved.decoder_output(batch.target.tokens)),
                                     batch.labels, loss, saved.scratch(),
                                     saved.row_loss(batch.target.tokens));
  }

  /// Loss (to *loss.sums) and gradients of a batch: every parameter's gradient is contributed to the sink and
  /// completed.
  template <class Execution, parameter_source_of<T> Source, gradient_sink Sink>
  void forward_backward(Execution& execution, Source& source, Sink& sink, const batch_view& batch,
                        const dropout_state& dropout, const nn::loss_options& loss,
                        const activations<T>& saved) const {
    encoder_.forward(execution, source, batch, dropout, saved);
    decoder_.forward(execution, source, batch, dropout, saved);
    const index_t n = batch.target.tokens;
    const matrix_view<float> grad_output = saved.grad_output(n);
    {
      const auto lease = source.acquire(head_);
      Sublayers::head_and_loss_backward(execution, head(lease.data()), output_scale(),
                                        matrix_view<const T>(saved.decoder_output(n)), batch.labels, loss,
                                        saved.scratch(), saved.row_loss(n), grad_output,
                                        contribute_matrix(sink, head_, shape_->d_model));
    }
    decoder_.backward(execution, source, sink, batch, dropout, saved, grad_output);
    encoder_.backward(execution, source, sink, batch, dropout, saved);
    execution.join_branches();
    if (!shape_->ties_embeddings) sink.complete(head_);
    sink.complete(embedding_);
  }

  /// The encoder alone, without dropout: fills saved.cross_key_value for the steps of a generation.
  template <class Execution, parameter_source_of<T> Source>
  void encode(Execution& execution, Source& source, const batch_view& batch,
              const activations<T>& saved) const {
    encoder_.forward(execution, source, batch, dropout_state{}, saved);
  }
  /// One step of a generation; its logits come from next_token_logits.
  template <class Execution, parameter_source_of<T> Source, class Cache>
  void decode(Execution& execution, Source& source, const nn::decode_rows& step, index_t source_tokens,
              const Cache& cache, const activations<T>& saved) const {
    decoder_.decode(execution, source, step, source_tokens, cache, saved);
  }

  /// Logits of the last step: calls use(first row, logits [chunk, vocab_size]).
  template <class Execution, parameter_source_of<T> Source, class Use>
  void next_token_logits(Execution& execution, Source& source, index_t rows, const activations<T>& saved,
                         const Use& use) const {
    const auto lease = source.acquire(head_);
    decoder_.next_token_logits(execution, source, rows, head(lease.data()), output_scale(), saved, use);
  }

  /// Logits of the last forward: calls use(first target token, logits [chunk, vocab_size]).
  template <class Execution, parameter_source_of<T> Source, class Use>
  void logits(Execution& execution, Source& source, index_t target_tokens, const activations<T>& saved,
              const Use& use) const {
    const auto lease = source.acquire(head_);
    Sublayers::for_each_logits_chunk(execution, head(lease.data()), output_scale(),
                                     matrix_view<const T>(saved.decoder_output(target_tokens)),
                                     saved.scratch(), use);
  }

 private:
  [[nodiscard]] matrix_view<const T> head(const T* data) const {
    return {data, shape_->vocab_size, shape_->d_model};
  }
  /// A tied head reads h * d_model^-0.5 (Raffel et al.'s Mesh TensorFlow code; transformers'
  /// scale_decoder_outputs).
  [[nodiscard]] float output_scale() const {
    return shape_->scales_output ? static_cast<float>(t5zero::detail::inverse_sqrt(shape_->d_model)) : 1.0F;
  }

  const model_shape* shape_;
  encoder<Sublayers, T> encoder_;
  decoder<Sublayers, T> decoder_;
  parameter_range embedding_;
  parameter_range head_;
};

}  // namespace t5zero::model
