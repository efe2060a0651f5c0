// The head (tied or not) and the cross entropy, over chunks of target tokens so that few logits exist at a
// time. In training one pass computes the loss and, from the same logits, all gradients: the scale of the
// loss is known before.
#pragma once

#include <algorithm>
#include <cstdint>

#include <t5zero/backend/backend.hpp>
#include <t5zero/nn/sublayer_scratch.hpp>
#include <t5zero/tensor/tensor_view.hpp>

namespace t5zero::nn {

/// How the sums of a batch become its loss.
struct loss_options {
  float label_smoothing = 0.0F;  ///< Szegedy et al. 2016, with transformers' LabelSmoother conventions
  const float* gradient_scale =
      nullptr;                ///< times d loss, in the backend's memory: step_state::loss_multiplier
  loss_sums* sums = nullptr;  ///< where the sums of the batch go, in the backend's memory
};

/// Logits of `hidden` [tokens, d_model] in chunks: calls use(first token, logits [chunk, vocab_size]).
template <class Ops, element T, class Execution, class Use>
void for_each_logits_chunk(Execution& execution, matrix_view<const T> head, float output_scale,
                           matrix_view<const T> hidden, const sublayer_scratch<T>& scratch, const Use& use) {
  for (index_t first = 0; first < hidden.rows; first += scratch.head_chunk()) {
    const index_t count = std::min(scratch.head_chunk(), hidden.rows - first);
    const matrix_view<float> logits = scratch.logits(count);
    Ops::template matmul<T, T, float>(execution, transpose::no, hidden.row_block(first, count),
                                      transpose::yes, head, logits, gradient_mode::overwrite, output_scale);
    use(first, logits);
  }
}

/// Loss only, to *options.sums. labels: [tokens], negative ones do not count. row_loss: scratch [tokens, 2].
template <class Ops, element T, class Execution>
void head_and_loss_forward(Execution& execution, matrix_view<const T> head, float output_scale,
                           matrix_view<const T> hidden, const std::int32_t* labels,
                           const loss_options& options, const sublayer_scratch<T>& scratch,
                           matrix_view<double> row_loss) {
  for_each_logits_chunk<Ops, T>(
      execution, head, output_scale, hidden, scratch, [&](index_t first, matrix_view<float> logits) {
        Ops::cross_entropy_forward(execution, logits, labels + first, options.label_smoothing,
                                   row_loss.row_block(first, logits.rows));
      });
  Ops::sum_losses(execution, row_loss, labels, options.sums);
}

/// Loss and gradients; join branch_of::head before reading grad_head. grad_hidden: float [tokens, d_model],
/// overwritten. grad_head: [vocab_size, d_model].
template <class Ops, element T, class Execution>
void head_and_loss_backward(Execution& execution, matrix_view<const T> head, float output_scale,
                            matrix_view<const T> hidden, const std::int32_t* labels,
                            const loss_options& options, const sublayer_scratch<T>& scratch,
                            matrix_view<double> row_loss, matrix_view<float> grad_hidden,
                            gradient_view grad_head) {
  for_each_logits_chunk<Ops, T>(
      execution, head, output_scale, hidden, scratch, [&](index_t first, matrix_view<float> logits) {
        const index_t count = logits.rows;
        const matrix_view<T> grad_logits = scratch.grad_logits(count);
        // The output scale of a tied head belongs to both gradients, so it is folded into the logits'
        // gradient.
        Ops::cross_entropy_backward(execution, logits, labels + first, options.label_smoothing,
                                    options.gradient_scale, output_scale, grad_logits,
                                    row_loss.row_block(first, count));
        Ops::template matmul<T, T, float>(execution, transpose::no, grad_logits, transpose::no, head,
                                          grad_hidden.row_block(first, count));
        Ops::template matmul<T, T>(execution.fork(branch_of::head), transpose::yes, grad_logits,
                                   transpose::no, hidden.row_block(first, count), grad_head);
        grad_head.mode = gradient_mode::accumulate;
        if (first + count < hidden.rows) execution.join(branch_of::head);  // the next chunk takes its buffers
      });
  Ops::sum_losses(execution, row_loss, labels, options.sums);
}

}  // namespace t5zero::nn
