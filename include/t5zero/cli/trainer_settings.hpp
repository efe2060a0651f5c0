// The options of a run as those of the trainer, the loop and the plan.
#pragma once

#include <algorithm>
#include <cstdint>
#include <string>

#include <t5zero/cli/generation_choice.hpp>
#include <t5zero/cli/label_padding.hpp>
#include <t5zero/cli/options.hpp>
#include <t5zero/core/error.hpp>
#include <t5zero/core/integers.hpp>
#include <t5zero/plan/batch_shape.hpp>
#include <t5zero/plan/memory_plan.hpp>
#include <t5zero/train/loop_options.hpp>
#include <t5zero/train/step_arithmetic.hpp>
#include <t5zero/train/trainer.hpp>

namespace t5zero::cli {

template <class Backend>
[[nodiscard]] int threads_of(const options& chosen) {
  return chosen.threads > 0 ? static_cast<int>(chosen.threads) : Backend::default_threads();
}

/// Whether the plan of the options alone holds what training needs; without any --do_... that is what is
/// asked.
[[nodiscard]] inline bool plans_training(const options& chosen) {
  return chosen.do_train || !(chosen.do_eval || chosen.do_predict);
}

/// The worst batch that the options allow.
[[nodiscard]] inline batch_shape longest_batch(const options& chosen) {
  const index_t target_length = std::max(chosen.max_target_length, chosen.evaluation_target_length());
  const target_padding padding = padding_of_labels(chosen, target_length);
  return batch_shape::of_lengths(
      plans_training(chosen) ? chosen.per_device_train_batch_size : chosen.per_device_eval_batch_size,
      chosen.max_source_length, padding.counts_in_loss ? padding.padded(target_length) : target_length);
}

/// The plan of the options alone, before any file is read. vocab_size: of the compiled model.
template <class Backend>
[[nodiscard]] plan_options plan_options_of(const options& chosen, index_t vocab_size) {
  return {.threads = threads_of<Backend>(chosen),
          .micro_batches = chosen.gradient_accumulation_steps,
          .trains = plans_training(chosen),
          .optimizer = chosen.uses_adafactor() ? optimizer_kind::adafactor : optimizer_kind::adamw,
          .recomputes_activations = chosen.gradient_checkpointing,
          .generation = generation_bounds(chosen, {}, vocab_size),
          .uses_graphs = chosen.cuda_graphs};
}

/// The command line's optimizer.
[[nodiscard]] inline optimizer_options optimizer_of(const options& chosen) {
  if (chosen.uses_adafactor()) {
    adafactor_options adafactor;
    adafactor.weight_decay = chosen.weight_decay;
    return adafactor;
  }
  return adamw_options{chosen.adam_beta1, chosen.adam_beta2, chosen.adam_epsilon, chosen.weight_decay,
                       weight_decay_scope::hugging_face};
}

/// All but what a DeepSpeed configuration decides, the batches and the generations.
template <class Backend>
[[nodiscard]] trainer_options trainer_options_of(const options& chosen, double dropout_rate) {
  trainer_options settings;
  settings.trains = chosen.do_train;
  settings.threads = threads_of<Backend>(chosen);
  settings.uses_graphs = chosen.cuda_graphs;
  settings.gradient_accumulation = chosen.gradient_accumulation_steps;
  settings.recomputes_activations = chosen.gradient_checkpointing;
  settings.max_grad_norm = chosen.max_grad_norm;
  settings.label_smoothing = static_cast<float>(chosen.label_smoothing_factor);
  settings.dropout_rate = static_cast<float>(dropout_rate);
  settings.seed = static_cast<std::uint32_t>(chosen.seed);
  settings.optimizer = optimizer_of(chosen);
  settings.scaler = loss_scaler_options::grad_scaler();
  return settings;
}

/// The seed of the order of the examples.
[[nodiscard]] inline std::uint32_t order_seed(const options& chosen) {
  return static_cast<std::uint32_t>(chosen.data_seed.value_or(chosen.seed));
}

[[nodiscard]] inline loop_options loop_options_of(const options& chosen, const step_arithmetic& steps,
                                                  std::int32_t decoder_start_token_id) {
  loop_options how;
  how.batch_size = chosen.per_device_train_batch_size;
  how.gradient_accumulation = chosen.gradient_accumulation_steps;
  how.order_seed = order_seed(chosen);
  how.groups_by_length = chosen.group_by_length;
  how.decoder_start_token_id = decoder_start_token_id;
  how.padding = padding_of_labels(chosen, chosen.max_target_length);
  how.rounds_sources_to_8 = chosen.fp16;
  how.fixed_source_length = chosen.pad_to_max_length ? chosen.max_source_length : 0;
  how.replaces_nan_in_logs = chosen.logging_nan_inf_filter;
  const auto updates = [&](step_count count) { return std::max<index_t>(1, count.steps(steps.max_steps)); };
  how.logging = chosen.logging_strategy;
  how.log_every = updates(chosen.logging_steps);
  how.logs_first_step = chosen.logging_first_step;
  how.evaluating = chosen.eval_strategy;
  how.evaluate_every = updates(chosen.eval_steps.value_or(chosen.logging_steps));
  how.evaluation_delay = chosen.eval_delay;
  how.evaluates_on_start = chosen.eval_on_start;
  how.saving = chosen.save_strategy;
  how.save_every = updates(chosen.save_steps);
  return how;
}

/// Throws input_error where the best model's checkpoints would not lie on evaluations: shares of the updates
/// are multiples of each other until they are rounded to updates.
inline void check_best_model_intervals(const options& chosen, const loop_options& how) {
  if (!chosen.load_best_model_at_end || how.evaluating != interval_strategy::steps ||
      how.saving != interval_strategy::steps || how.save_every % how.evaluate_every == 0)
    return;
  throw input_error(
      "--load_best_model_at_end requires --save_steps to be a multiple of --eval_steps: in this run "
      "they are " +
      std::to_string(how.save_every) + " and " + std::to_string(how.evaluate_every) +
      " updates; give whole numbers");
}

}  // namespace t5zero::cli
