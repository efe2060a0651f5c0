// Every argument with a field in `options`: its name, type and range.
#pragma once

#include <cstdint>
#include <limits>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <t5zero/cli/lr_schedule_options.hpp>
#include <t5zero/cli/option_binder.hpp>
#include <t5zero/cli/options.hpp>
#include <t5zero/core/integers.hpp>

namespace t5zero::detail {

// Within these no size of a memory plan leaves 64 bits.
inline constexpr index_t longest_sequence = index_t{1} << 20;  // tokens
inline constexpr index_t largest_batch = index_t{1} << 16;     // sentences
inline constexpr index_t most_beams = 1024;
inline constexpr index_t most_threads = 1024;

inline void bind_model_and_data(option_binder& bind, options& to) {
  bind.text("model_name_or_path", to.model_name_or_path);
  bind.text("config_name", to.config_name);
  bind.text("tokenizer_name", to.tokenizer_name);
  bind.text("cache_dir", to.cache_dir);
  bind.text("model_revision", to.model_revision);
  bind.boolean("from_scratch", to.from_scratch);
  bind.text("source_lang", to.source_lang);
  bind.text("target_lang", to.target_lang);
  bind.text("dataset_name", to.dataset_name);
  bind.text("dataset_config_name", to.dataset_config_name);
  bind.text("train_file", to.train_file);
  bind.text("validation_file", to.validation_file);
  bind.text("test_file", to.test_file);
  bind.integer("max_source_length", to.max_source_length, 1, "a number of tokens of at least 1",
               longest_sequence);
  bind.integer("max_target_length", to.max_target_length, 1, "a number of tokens of at least 1",
               longest_sequence);
  bind.integer("val_max_target_length", to.val_max_target_length, 1, "a number of tokens of at least 1",
               longest_sequence);
  bind.boolean("pad_to_max_length", to.pad_to_max_length);
  bind.integer("max_train_samples", to.max_train_samples, 1, "a number of rows of at least 1");
  bind.integer("max_eval_samples", to.max_eval_samples, 1, "a number of rows of at least 1");
  bind.integer("max_predict_samples", to.max_predict_samples, 1, "a number of rows of at least 1");
  bind.boolean("ignore_pad_token_for_loss", to.ignore_pad_token_for_loss);
  bind.text("source_prefix", to.source_prefix);
  bind.integer("num_beams", to.num_beams, 1, "a number of beams of at least 1", most_beams);
  bind.boolean("predict_with_generate", to.predict_with_generate);
  bind.boolean("prediction_loss_only", to.prediction_loss_only);
  bind.text("generation_config", to.generation_config);
  bind.integer("generation_max_length", to.generation_max_length, 1, "a number of tokens of at least 1",
               longest_sequence);
  bind.integer("generation_num_beams", to.generation_num_beams, 1, "a number of beams of at least 1",
               most_beams);
}

inline void bind_training(option_binder& bind, options& to) {
  bind.text("output_dir", to.output_dir);
  bind.boolean("overwrite_output_dir", to.overwrite_output_dir);
  bind.boolean("do_train", to.do_train);
  bind.boolean("do_eval", to.do_eval);
  bind.boolean("do_predict", to.do_predict);
  bind.boolean("plan", to.plan);
  bind.text("resume_from_checkpoint", to.resume_from_checkpoint);
  bind.integer("per_device_train_batch_size", to.per_device_train_batch_size, 1,
               "a batch of at least 1 sentence", largest_batch);
  bind.integer("per_device_eval_batch_size", to.per_device_eval_batch_size, 1,
               "a batch of at least 1 sentence", largest_batch);
  bind.integer("gradient_accumulation_steps", to.gradient_accumulation_steps, 1,
               "a number of micro-batches of at least 1", largest_batch);
  bind.number("num_train_epochs", to.num_train_epochs, {0, 1e9, "a number of epochs of at least 0"});
  // As in Hugging Face, nothing below 1 is a number of updates.
  bind.integer("max_steps", to.max_steps, -largest_count, "a number of updates, or -1 for none,");
  bind.boolean("dataloader_drop_last", to.dataloader_drop_last);
  bind.boolean("group_by_length", to.group_by_length);
  bind.choice("train_sampling_strategy", to.group_by_length, {{"random", false}, {"group_by_length", true}});
  bind.seed("seed", [&to](std::uint64_t seed) { to.seed = seed; });
  bind.seed("data_seed", [&to](std::uint64_t seed) { to.data_seed = seed; });
  const double infinity = std::numeric_limits<double>::infinity();
  bind.number("learning_rate", to.learning_rate, {0, infinity, "a rate of at least 0"});
  bind.number("weight_decay", to.weight_decay, {0, infinity, "a number of at least 0"});
  bind.number("adam_beta1", to.adam_beta1, {0, 1, "a number in [0,1)", /*open_high=*/true});
  bind.number("adam_beta2", to.adam_beta2, {0, 1, "a number in [0,1)", /*open_high=*/true});
  bind.number("adam_epsilon", to.adam_epsilon, {0, infinity, "a number of at least 0"});
  bind.number("max_grad_norm", to.max_grad_norm, {0, infinity, "a norm, or 0 for no clipping,"});
  bind.choice<lr_schedule_kind>("lr_scheduler_type", to.lr_scheduler_type,
                                {lr_schedule_names.begin(), lr_schedule_names.end()});
  bind.text("lr_scheduler_kwargs", to.lr_scheduler_kwargs);
  bind.number("warmup_ratio", to.warmup_ratio, {0, 1, "a share in [0,1]"});
  bind.steps("warmup_steps", to.warmup_steps, 0);
  bind.number("label_smoothing_factor", to.label_smoothing_factor,
              {0, 1, "a number in [0,1)", /*open_high=*/true});
  bind.choice<std::string>("optim", to.optim,
                           {{"adamw_torch", "adamw_torch"},
                            {"adamw_torch_fused", "adamw_torch_fused"},
                            {"adafactor", "adafactor"}},
                           "; adamw_torch stands for every kind of AdamW");
  bind.boolean("adafactor", to.adafactor);
}

inline void bind_running(option_binder& bind, options& to) {
  const std::vector<std::pair<std::string_view, interval_strategy>> when = {
      {"no", interval_strategy::no},
      {"steps", interval_strategy::steps},
      {"epoch", interval_strategy::epoch}};
  bind.choice("logging_strategy", to.logging_strategy, when);
  bind.steps("logging_steps", to.logging_steps, 0);
  bind.boolean("logging_first_step", to.logging_first_step);
  bind.boolean("logging_nan_inf_filter", to.logging_nan_inf_filter);
  bind.choice("eval_strategy", to.eval_strategy, when);
  bind.choice("evaluation_strategy", to.eval_strategy, when);
  bind.steps("eval_steps", to.eval_steps, 1);
  bind.number("eval_delay", to.eval_delay, {0, 1e18, "a number of updates or epochs of at least 0"});
  bind.boolean("eval_on_start", to.eval_on_start);
  bind.boolean("load_best_model_at_end", to.load_best_model_at_end);
  bind.text("metric_for_best_model", to.metric_for_best_model);
  bind.boolean("greater_is_better", to.greater_is_better);
  bind.boolean("save_only_model", to.save_only_model);
  bind.boolean("ignore_data_skip", to.ignore_data_skip);
  auto when_saving = when;
  when_saving.emplace_back("best", interval_strategy::best);
  bind.choice("save_strategy", to.save_strategy, when_saving);
  bind.steps("save_steps", to.save_steps, 1);
  // As in Hugging Face, nothing below 1 is a limit.
  bind.integer("save_total_limit", to.save_total_limit, -largest_count,
               "a number of checkpoints, or 0 for all,");
  bind.choice<save_dtype_choice>("save_dtype", to.save_dtype,
                                 {{"auto", save_dtype_choice::automatic},
                                  {"fp32", save_dtype_choice::fp32},
                                  {"16bit", save_dtype_choice::half}});
  bind.boolean("disable_tqdm", to.disable_tqdm);
  bind.text("report_to", to.report_to);
  bind.text("logging_dir", to.logging_dir);
  bind.boolean("fp16", to.fp16);
  bind.boolean("bf16", to.bf16);
  bind.boolean("fp16_full_eval", to.fp16_full_eval);
  bind.boolean("bf16_full_eval", to.bf16_full_eval);
  bind.boolean("tf32", to.tf32);
  bind.boolean("use_cpu", to.use_cpu);
  bind.boolean("no_cuda", to.use_cpu);
  bind.boolean("cuda_graphs", to.cuda_graphs);
  bind.integer("threads", to.threads, 0, "a number of threads, or 0 for all cores,", most_threads);
  bind.integer("num_gpus", to.num_gpus, 1, "a number of ranks of at least 1");
  bind.integer("local_rank", to.local_rank, -1, "a rank, or -1 for none,");
  bind.text("deepspeed", to.deepspeed);
  bind.boolean("gradient_checkpointing", to.gradient_checkpointing);
  bind.boolean("activation_checkpointing", to.gradient_checkpointing);
}

}  // namespace t5zero::detail
