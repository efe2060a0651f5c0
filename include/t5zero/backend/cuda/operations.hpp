// The GPU's primitive operations under the names that nn/ composes sublayers from: declarations that a plain
// C++ compiler reads. kernels/operations.cuh defines them; the library t5zero::kernels holds them once for
// all programs.
//
// Contracts are those of the CPU's operations of the same names (backend/cpu). What differs: all memory is
// the device's, but for the arguments themselves; nothing waits, so results are there when the stream has
// come to them; a ragged_view's batch, tokens and max_length are fixed for a captured step, its arrays are
// read when it runs: sequences may be empty, and tokens that pad a batch form sequences of their own;
// top_candidates gives NaN out as it is, last.
#pragma once

#include <concepts>
#include <cstddef>
#include <cstdint>

#include <t5zero/backend/backend.hpp>
#include <t5zero/backend/cuda/execution.hpp>
#include <t5zero/backend/cuda/matmul.hpp>
#include <t5zero/backend/search.hpp>

namespace t5zero::cuda {

/// T: element type of weights and saved activations.
template <element T>
struct operations {
  template <element A, element B, element C>
  static void matmul(execution& e, transpose ta, matrix_view<const A> a, transpose tb, matrix_view<const B> b,
                     matrix_view<C> c, gradient_mode mode = gradient_mode::overwrite, float alpha = 1.0F) {
    cuda::matmul<A, B, C>(e, ta, a, tb, b, c, mode, alpha);
  }
  template <element A, element B>
  static void matmul(execution& e, transpose ta, matrix_view<const A> a, transpose tb, matrix_view<const B> b,
                     const gradient_view& c) {
    cuda::matmul<A, B>(e, ta, a, tb, b, c);
  }

  /// grad_hidden = grad_y weight where `activated`, the result of relu_dropout_forward, is positive, scaled
  /// as that was; elsewhere zero.
  static void relu_gradient_matmul(execution& e, matrix_view<const T> grad_y, matrix_view<const T> weight,
                                   matrix_view<const T> activated, const dropout_site& site,
                                   matrix_view<T> grad_hidden) {
    if constexpr (std::same_as<T, float>) {
      if (const auto division = preferred_split(e, transpose::no, grad_y, transpose::no, weight, grad_hidden))
        return split_matmul(e, transpose::no, grad_y, transpose::no, weight, grad_hidden,
                            gradient_mode::overwrite, 1.0F, *division, {activated, site.scale()});
    }
    matmul<T, T, T>(e, transpose::no, grad_y, transpose::no, weight, grad_hidden);
    relu_dropout_backward(e, grad_hidden, activated, site, grad_hidden);
  }

  // kernels/rms_norm.cuh
  static void rms_norm_forward(execution& e, matrix_view<const float> x, vector_view<const T> weight,
                               float epsilon, matrix_view<T> y, vector_view<float> inverse_rms);
  static void rms_norm_backward(execution& e, matrix_view<const float> grad_y, matrix_view<const float> x,
                                vector_view<const T> weight, vector_view<const float> inverse_rms,
                                matrix_view<float> grad_x, const gradient_view& grad_weight);
  /// The same, and grad_branch = mask(grad_x).
  static void rms_norm_dropout_backward(execution& e, matrix_view<const float> grad_y,
                                        matrix_view<const float> x, vector_view<const T> weight,
                                        vector_view<const float> inverse_rms, matrix_view<float> grad_x,
                                        const gradient_view& grad_weight, const dropout_site& site,
                                        const ragged_view& tokens, matrix_view<T> grad_branch);

  // kernels/attention_forward.cuh, kernels/attention_backward.cuh
  static void attention_forward(execution& e, const attention_inputs<T>& inputs, matrix_view<T> context,
                                matrix_view<float> log_sum_exp);
  static void attention_backward(execution& e, const attention_inputs<T>& inputs,
                                 matrix_view<const T> context, matrix_view<const float> log_sum_exp,
                                 matrix_view<const T> grad_context, matrix_view<T> grad_query,
                                 matrix_view<T> grad_key, matrix_view<T> grad_value,
                                 matrix_view<float> grad_bias);

  // kernels/decode_attention.cuh
  static void scatter_rows(execution& e, matrix_view<const T> from, const index_t* rows, matrix_view<T> to);
  static void decode_attention(execution& e, const decode_attention_inputs<T>& inputs,
                               matrix_view<T> context);

  // kernels/top_candidates.cuh
  static void log_softmax_rows(execution& e, matrix_view<float> logits);
  static void top_candidates(execution& e, matrix_view<const float> values, matrix_view<float> scores,
                             matrix_view<std::int32_t> ids);

  // kernels/search.cuh
  /// The best next tokens of rows [first_row, + logits.rows) of a search; logits are used up. Without beams
  /// the rows go on with them.
  static void rank_tokens(execution& e, const search_arrays& search, index_t first_row,
                          matrix_view<float> logits, matrix_view<float> scores,
                          matrix_view<std::int32_t> ids);
  /// Every sentence with beams that is not closed goes on by one token.
  static void advance_search(execution& e, const search_arrays& search, matrix_view<const float> scores,
                             matrix_view<const std::int32_t> ids);

  // kernels/dropout.cuh
  static void residual_dropout_add(execution& e, matrix_view<const float> x, matrix_view<const float> branch,
                                   const dropout_site& site, const ragged_view& tokens,
                                   matrix_view<float> out);
  static void dropout_backward(execution& e, matrix_view<const float> grad, const dropout_site& site,
                               const ragged_view& tokens, matrix_view<T> grad_branch);
  template <element U>
  static void dropout_in_place(execution& e, matrix_view<U> x, const dropout_site& site,
                               const ragged_view& tokens);
  static void fill_zero(execution& e, matrix_view<float> x);

  // kernels/activation.cuh
  static void relu_dropout_forward(execution& e, matrix_view<T> hidden, const dropout_site& site,
                                   const ragged_view& tokens);
  static void relu_dropout_backward(execution& e, matrix_view<const T> grad_activated,
                                    matrix_view<const T> activated, const dropout_site& site,
                                    matrix_view<T> grad_hidden);
  static void gated_gelu_dropout_forward(execution& e, matrix_view<const T> hidden, const dropout_site& site,
                                         const ragged_view& tokens, matrix_view<T> out);
  static void gated_gelu_dropout_backward(execution& e, matrix_view<const T> grad_activated,
                                          matrix_view<const T> hidden, const dropout_site& site,
                                          const ragged_view& tokens, matrix_view<T> grad_hidden);

  // kernels/embedding.cuh
  static void embedding_forward(execution& e, const std::int32_t* ids, const ragged_view& tokens,
                                matrix_view<const T> table, const dropout_site& site, matrix_view<float> out);
  static void embedding_backward(execution& e, const std::int32_t* ids, const ragged_view& tokens,
                                 const dropout_site& site, matrix_view<const float> grad,
                                 matrix_view<float> grad_table);

  // kernels/cross_entropy.cuh
  static void cross_entropy_forward(execution& e, matrix_view<float> logits, const std::int32_t* labels,
                                    float label_smoothing, matrix_view<double> row_loss);
  /// Gradients are multiplied by *scale times factor.
  static void cross_entropy_backward(execution& e, matrix_view<float> logits, const std::int32_t* labels,
                                     float label_smoothing, const float* scale, float factor,
                                     matrix_view<T> grad_logits, matrix_view<double> row_loss);
  /// *sums = sums of the two columns of row_loss, and the labels that count.
  static void sum_losses(execution& e, matrix_view<const double> row_loss, const std::int32_t* labels,
                         loss_sums* sums);

  // Between the program's memory and the device's; the second waits.
  static void from_host(execution& e, const void* from, void* to, index_t bytes) {
    e.note_barrier();
    check(cudaMemcpyAsync(to, from, static_cast<std::size_t>(bytes), cudaMemcpyHostToDevice, e.stream()));
  }
  static void to_host(execution& e, const void* from, void* to, index_t bytes) {
    e.note_barrier();
    check(cudaMemcpyAsync(to, from, static_cast<std::size_t>(bytes), cudaMemcpyDeviceToHost, e.stream()));
    check(cudaStreamSynchronize(e.stream()));
  }

  // kernels/step.cuh; see optim/update_step.hpp
  static void begin_micro_batch(execution& e, const update_settings& settings, step_state* state,
                                index_t labels, index_t loss_divisor);
  static void finish_micro_batch(execution& e, step_state* state, loss_sums* losses);
  /// outcome and outcome_losses ([count], copies of losses) are in the host's memory.
  static void finish_update(execution& e, const update_settings& settings, const update_rates& rates,
                            step_state* state, const loss_sums* losses, index_t count,
                            update_outcome* outcome, loss_sums* outcome_losses);
  static void end_update(execution& e, step_state* state);

  // kernels/initialize.cuh
  static void initialize(execution& e, vector_view<float> values, double std, double factor,
                         std::uint32_t seed, std::uint64_t first_element);

  // kernels/optimizer.cuh
  /// to[i] = from[i] rounded to `type`.
  static void convert(execution& e, const float* from, void* to, dtype type, index_t count);
  /// parts = sums whose sum is that of the squares of the gradients `range`.
  static void partial_squares(execution& e, const std::byte* gradients, dtype type, parameter_range range,
                              vector_view<double> parts);
  static void sum_parts(execution& e, vector_view<const double> parts, double* result);
  /// One update by *params (nothing where params->applies is false) of the elements `range` of the arrays;
  /// range.first is a multiple of 8. decay_boundaries: ascending elements, multiples of 8, at which weight
  /// decay begins, ends, begins, ... (none: nowhere). weights: 16-bit copies to write back, or null.
  static void adamw(execution& e, const adamw_params* params, vector_view<const index_t> decay_boundaries,
                    float* master, float* first, float* second, const std::byte* gradients, dtype type,
                    T* weights, parameter_range range);
  /// The 16-bit copies alone of rows of a table (`table` of the arrays, rows of `cols`), as that update will
  /// leave them: those that ids and more_ids name.
  static void adamw_rows(execution& e, const adamw_params* params,
                         vector_view<const index_t> decay_boundaries, const float* master, const float* first,
                         const float* second, const std::byte* gradients, dtype type, T* weights,
                         parameter_range table, index_t cols, vector_view<const std::int32_t> ids,
                         vector_view<const std::int32_t> more_ids);
  /// Of one tensor; see cpu/adafactor.hpp. decays: does weight decay apply to it?
  static void adafactor(execution& e, const adafactor_params* params, bool decays, bool is_vector,
                        index_t rows, index_t cols, float* master, float* row_moments, float* column_moments,
                        const std::byte* gradients, dtype type, T* weights);
};

}  // namespace t5zero::cuda
