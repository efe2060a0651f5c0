// The CPU's primitive operations under the names that nn/ composes sublayers from.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <numeric>

#include <t5zero/backend/backend.hpp>
#include <t5zero/backend/cpu/activation.hpp>
#include <t5zero/backend/cpu/adafactor.hpp>
#include <t5zero/backend/cpu/adamw.hpp>
#include <t5zero/backend/cpu/attention.hpp>
#include <t5zero/backend/cpu/cross_entropy.hpp>
#include <t5zero/backend/cpu/decode_attention.hpp>
#include <t5zero/backend/cpu/dropout.hpp>
#include <t5zero/backend/cpu/embedding.hpp>
#include <t5zero/backend/cpu/initialize.hpp>
#include <t5zero/backend/cpu/matmul.hpp>
#include <t5zero/backend/cpu/rms_norm.hpp>
#include <t5zero/backend/cpu/search.hpp>
#include <t5zero/backend/cpu/top_candidates.hpp>

namespace t5zero::cpu {

/// T: element type of weights and saved activations. All functions are static; see the headers above for
/// contracts.
template <element T>
struct operations {
  template <element A, element B, element C>
  static void matmul(execution& e, transpose ta, matrix_view<const A> a, transpose tb, matrix_view<const B> b,
                     matrix_view<C> c, gradient_mode mode = gradient_mode::overwrite, float alpha = 1.0F) {
    cpu::matmul<A, B, C>(e, ta, a, tb, b, c, mode, alpha);
  }
  template <element A, element B>
  static void matmul(execution& e, transpose ta, matrix_view<const A> a, transpose tb, matrix_view<const B> b,
                     const gradient_view& c) {
    cpu::matmul<A, B>(e, ta, a, tb, b, c);
  }

  /// grad_hidden = grad_y weight through relu and dropout, of which `activated` is the result.
  static void relu_gradient_matmul(execution& e, matrix_view<const T> grad_y, matrix_view<const T> weight,
                                   matrix_view<const T> activated, const dropout_site& site,
                                   matrix_view<T> grad_hidden) {
    matmul<T, T, T>(e, transpose::no, grad_y, transpose::no, weight, grad_hidden);
    relu_dropout_backward(e, grad_hidden, activated, site, grad_hidden);
  }

  static void rms_norm_forward(execution& e, matrix_view<const float> x, vector_view<const T> weight,
                               float epsilon, matrix_view<T> y, vector_view<float> inverse_rms) {
    cpu::rms_norm_forward<T>(e, x, weight, epsilon, y, inverse_rms);
  }
  static void rms_norm_backward(execution& e, matrix_view<const float> grad_y, matrix_view<const float> x,
                                vector_view<const T> weight, vector_view<const float> inverse_rms,
                                matrix_view<float> grad_x, const gradient_view& grad_weight) {
    cpu::rms_norm_backward<T>(e, grad_y, x, weight, inverse_rms, grad_x, grad_weight);
  }
  /// The same, and grad_branch = dropout(grad_x).
  static void rms_norm_dropout_backward(execution& e, matrix_view<const float> grad_y,
                                        matrix_view<const float> x, vector_view<const T> weight,
                                        vector_view<const float> inverse_rms, matrix_view<float> grad_x,
                                        const gradient_view& grad_weight, const dropout_site& site,
                                        const ragged_view& tokens, matrix_view<T> grad_branch) {
    rms_norm_backward(e, grad_y, x, weight, inverse_rms, grad_x, grad_weight);
    dropout_backward(e, grad_x, site, tokens, grad_branch);
  }

  static void attention_forward(execution& e, const attention_inputs<T>& inputs, matrix_view<T> context,
                                matrix_view<float> log_sum_exp) {
    cpu::attention_forward<T>(e, inputs, context, log_sum_exp);
  }
  static void attention_backward(execution& e, const attention_inputs<T>& inputs,
                                 matrix_view<const T> context, matrix_view<const float> log_sum_exp,
                                 matrix_view<const T> grad_context, matrix_view<T> grad_query,
                                 matrix_view<T> grad_key, matrix_view<T> grad_value,
                                 matrix_view<float> grad_bias) {
    cpu::attention_backward<T>(e, inputs, context, log_sum_exp, grad_context, grad_query, grad_key,
                               grad_value, grad_bias);
  }

  static void scatter_rows(execution& e, matrix_view<const T> from, const index_t* rows, matrix_view<T> to) {
    cpu::scatter_rows<T>(e, from, rows, to);
  }
  static void decode_attention(execution& e, const decode_attention_inputs<T>& inputs,
                               matrix_view<T> context) {
    cpu::decode_attention<T>(e, inputs, context);
  }
  static void log_softmax_rows(execution& e, matrix_view<float> logits) { cpu::log_softmax_rows(e, logits); }
  static void top_candidates(execution& e, matrix_view<const float> values, matrix_view<float> scores,
                             matrix_view<std::int32_t> ids) {
    cpu::top_candidates(e, values, scores, ids);
  }
  static void rank_tokens(execution& e, const search_arrays& search, index_t first_row,
                          matrix_view<float> logits, matrix_view<float> scores,
                          matrix_view<std::int32_t> ids) {
    cpu::rank_tokens(e, search, first_row, logits, scores, ids);
  }
  static void advance_search(execution& e, const search_arrays& search, matrix_view<const float> scores,
                             matrix_view<const std::int32_t> ids) {
    cpu::advance_search(e, search, scores, ids);
  }

  static void residual_dropout_add(execution& e, matrix_view<const float> x, matrix_view<const float> branch,
                                   const dropout_site& site, const ragged_view& tokens,
                                   matrix_view<float> out) {
    cpu::residual_dropout_add(e, x, branch, site, tokens, out);
  }
  static void dropout_backward(execution& e, matrix_view<const float> grad, const dropout_site& site,
                               const ragged_view& tokens, matrix_view<T> grad_branch) {
    cpu::dropout<float, T>(e, grad, site, tokens, grad_branch);
  }
  template <element U>
  static void dropout_in_place(execution& e, matrix_view<U> x, const dropout_site& site,
                               const ragged_view& tokens) {
    cpu::dropout<U, U>(e, x, site, tokens, x);
  }
  static void fill_zero(execution& e, matrix_view<float> x) {
    for_each_row(e, x.rows, [&](index_t t) { std::fill_n(x.row(t).data, x.cols, 0.0F); });
  }

  static void relu_dropout_forward(execution& e, matrix_view<T> hidden, const dropout_site& site,
                                   const ragged_view& tokens) {
    cpu::relu_dropout_forward<T>(e, hidden, site, tokens);
  }
  static void relu_dropout_backward(execution& e, matrix_view<const T> grad_activated,
                                    matrix_view<const T> activated, const dropout_site& site,
                                    matrix_view<T> grad_hidden) {
    cpu::relu_dropout_backward<T>(e, grad_activated, activated, site, grad_hidden);
  }
  static void gated_gelu_dropout_forward(execution& e, matrix_view<const T> hidden, const dropout_site& site,
                                         const ragged_view& tokens, matrix_view<T> out) {
    cpu::gated_gelu_dropout_forward<T>(e, hidden, site, tokens, out);
  }
  static void gated_gelu_dropout_backward(execution& e, matrix_view<const T> grad_activated,
                                          matrix_view<const T> hidden, const dropout_site& site,
                                          const ragged_view& tokens, matrix_view<T> grad_hidden) {
    cpu::gated_gelu_dropout_backward<T>(e, grad_activated, hidden, site, tokens, grad_hidden);
  }

  static void embedding_forward(execution& e, const std::int32_t* ids, const ragged_view& tokens,
                                matrix_view<const T> table, const dropout_site& site,
                                matrix_view<float> out) {
    cpu::embedding_forward<T>(e, ids, tokens, table, site, out);
  }
  static void embedding_backward(execution& e, const std::int32_t* ids, const ragged_view& tokens,
                                 const dropout_site& site, matrix_view<const float> grad,
                                 matrix_view<float> grad_table) {
    cpu::embedding_backward(e, ids, tokens, site, grad, grad_table);
  }

  static void cross_entropy_forward(execution& e, matrix_view<float> logits, const std::int32_t* labels,
                                    float label_smoothing, matrix_view<double> row_loss) {
    cpu::cross_entropy_forward(e, logits, labels, label_smoothing, row_loss);
  }
  static void cross_entropy_backward(execution& e, matrix_view<float> logits, const std::int32_t* labels,
                                     float label_smoothing, const float* scale, float factor,
                                     matrix_view<T> grad_logits, matrix_view<double> row_loss) {
    cpu::cross_entropy_backward<T>(e, logits, labels, label_smoothing, *scale * factor, grad_logits,
                                   row_loss);
  }
  /// *result = sums of the two columns of row_loss, and the labels that count.
  static void sum_losses(execution& /*e*/, matrix_view<const double> row_loss, const std::int32_t* labels,
                         loss_sums* result) {
    loss_sums sums;
    for (index_t t = 0; t < row_loss.rows; ++t) {
      sums.negative_log_likelihood += row_loss(t, 0);
      sums.uniform += row_loss(t, 1);
      sums.labels += labels[t] >= 0 ? 1 : 0;
    }
    *result = sums;
  }

  // Between the program's memory and the backend's; the second waits.
  static void from_host(execution& /*e*/, const void* from, void* to, index_t bytes) {
    std::memcpy(to, from, static_cast<std::size_t>(bytes));
  }
  static void to_host(execution& /*e*/, const void* from, void* to, index_t bytes) {
    std::memcpy(to, from, static_cast<std::size_t>(bytes));
  }

  static void begin_micro_batch(execution& /*e*/, const update_settings& settings, step_state* state,
                                index_t labels, index_t loss_divisor) {
    t5zero::begin_micro_batch(settings, *state, labels, loss_divisor);
  }
  static void finish_micro_batch(execution& /*e*/, step_state* state, loss_sums* losses) {
    t5zero::finish_micro_batch(*state, losses);
  }
  /// outcome and outcome_losses ([count], copies of losses) are in the host's memory.
  static void finish_update(execution& /*e*/, const update_settings& settings, const update_rates& rates,
                            step_state* state, const loss_sums* losses, index_t count,
                            update_outcome* outcome, loss_sums* outcome_losses) {
    t5zero::finish_update(settings, rates, *state, *outcome);
    std::copy_n(losses, count, outcome_losses);
  }
  static void end_update(execution& /*e*/, step_state* state) { t5zero::end_update(*state); }

  static void initialize(execution& e, vector_view<float> values, double std, double factor,
                         std::uint32_t seed, std::uint64_t first_element) {
    cpu::initialize(e, values, std, factor, seed, first_element);
  }
  /// to[i] = from[i] rounded to `type`.
  static void convert(execution& e, const float* from, void* to, dtype type, index_t count) {
    constexpr index_t per_task = index_t{1} << 16;
    visit(type, [&](auto zero) {
      auto* out = static_cast<decltype(zero)*>(to);
      e.threads().run(ceil_div(count, per_task), [&](index_t task) {
        const index_t first = task * per_task;
        convert_range(from + first, out + first, std::min(per_task, count - first));
      });
    });
  }
  /// parts: [1], the sum of squares of the gradients `range`.
  static void partial_squares(execution& e, const std::byte* gradients, dtype type, parameter_range range,
                              vector_view<double> parts) {
    parts[0] = visit(type, [&](auto zero) {
      const auto* gradient = reinterpret_cast<const decltype(zero)*>(gradients);
      return cpu::sum_of_squares(e, gradient + range.first, range.count);
    });
  }
  static void sum_parts(execution& /*e*/, vector_view<const double> parts, double* result) {
    *result = std::accumulate(parts.data, parts.data + parts.size, 0.0);
  }
  /// One update by *params (nothing where params->applies is false) of the elements `range` of the arrays.
  /// decay_boundaries: ascending elements, multiples of 8, at which weight decay begins, ends, begins, ...
  /// (none: nowhere). weights: 16-bit copies to write back, or null.
  static void adamw(execution& e, const adamw_params* params, vector_view<const index_t> decay_boundaries,
                    float* master, float* first, float* second, const std::byte* gradients, dtype type,
                    T* weights, parameter_range range) {
    if (!params->applies) return;
    visit(type, [&](auto zero) {
      const auto* gradient = reinterpret_cast<const decltype(zero)*>(gradients);
      adamw_params piece = *params;
      index_t at = range.first;
      const index_t last = range.first + range.count;
      for (index_t i = 0; i <= decay_boundaries.size && at < last; ++i) {
        const index_t end = i < decay_boundaries.size ? std::min(last, decay_boundaries[i]) : last;
        if (end <= at) continue;
        piece.weight_decay = i % 2 == 1 ? params->weight_decay : 0.0F;
        cpu::adamw(e, piece, master + at, first + at, second + at, gradient + at,
                   weights == nullptr ? nullptr : weights + at, end - at);
        at = end;
      }
    });
  }
  /// Of one tensor; see cpu/adafactor.hpp. decays: does weight decay apply to it?
  static void adafactor(execution& e, const adafactor_params* state_params, bool decays, bool is_vector,
                        index_t rows, index_t cols, float* master, float* row_moments, float* column_moments,
                        const std::byte* gradients, dtype type, T* weights) {
    if (!state_params->applies) return;
    adafactor_params params = *state_params;
    if (!decays) params.weight_decay = 0.0F;
    visit(type, [&](auto zero) {
      cpu::adafactor(e, params, is_vector, rows, cols, master, row_moments, column_moments,
                     reinterpret_cast<const decltype(zero)*>(gradients), weights);
    });
  }
};

}  // namespace t5zero::cpu
