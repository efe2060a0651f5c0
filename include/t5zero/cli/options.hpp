// The options of a run as plain data, with Hugging Face's defaults. parse_options.hpp fills it from a command
// line.
#pragma once

#include <cmath>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <t5zero/core/integers.hpp>
#include <t5zero/optim/lr_schedule.hpp>
#include <t5zero/train/interval.hpp>

namespace t5zero {

/// Element type of saved weights: `automatic` is 16-bit under a 16-bit ZeRO run, else fp32.
enum class save_dtype_choice : std::uint8_t { automatic, fp32, half };

/// Names are those of the command line; defaults those of transformers 4.49.
struct options {
  // Model
  std::string model_name_or_path;  ///< empty only with from_scratch
  std::optional<std::string> config_name, tokenizer_name, cache_dir;
  std::string model_revision = "main";
  bool from_scratch = false;

  // Data
  std::string source_lang, target_lang;
  std::optional<std::string> dataset_name, dataset_config_name;
  std::optional<std::string> train_file, validation_file, test_file;
  index_t max_source_length = 1024;              ///< tokens
  index_t max_target_length = 128;               ///< tokens
  std::optional<index_t> val_max_target_length;  ///< tokens; see evaluation_target_length
  bool pad_to_max_length = false;
  std::optional<index_t> max_train_samples, max_eval_samples, max_predict_samples;
  bool ignore_pad_token_for_loss = true;
  std::optional<std::string> source_prefix;
  index_t num_beams = 1;

  // What to do
  std::string output_dir = "trainer_output";
  bool overwrite_output_dir = false;
  bool do_train = false, do_eval = false, do_predict = false;
  bool plan = false;  ///< print the memory plan and exit
  std::optional<std::string> resume_from_checkpoint;

  // Batches and steps
  index_t per_device_train_batch_size = 8, per_device_eval_batch_size = 8;  ///< sentences
  index_t gradient_accumulation_steps = 1;                                  ///< micro-batches
  double num_train_epochs = 3.0;
  index_t max_steps = -1;  ///< updates; positive overrides the epochs
  bool dataloader_drop_last = false;
  bool group_by_length = false;  ///< also train_sampling_strategy group_by_length
  std::uint64_t seed = 42;
  std::optional<std::uint64_t> data_seed;

  // Optimizer
  double learning_rate = 5e-5, weight_decay = 0.0;
  double adam_beta1 = 0.9, adam_beta2 = 0.999, adam_epsilon = 1e-8;
  double max_grad_norm = 1.0;  ///< 0: no clipping
  lr_schedule_kind lr_scheduler_type = lr_schedule_kind::linear;
  std::optional<std::string> lr_scheduler_kwargs;  ///< a JSON object
  double warmup_ratio = 0.0;
  step_count warmup_steps;
  double label_smoothing_factor = 0.0;
  std::string optim = "adamw_torch";
  bool adafactor = false;  ///< old spelling of optim adafactor

  // Logging, evaluation, checkpoints
  interval_strategy logging_strategy = interval_strategy::steps;
  step_count logging_steps{500};
  bool logging_first_step = false, logging_nan_inf_filter = true;
  interval_strategy eval_strategy = interval_strategy::no;
  std::optional<step_count> eval_steps;
  double eval_delay = 0.0;  ///< updates or epochs before the first evaluation, by eval_strategy
  bool eval_on_start = false;
  interval_strategy save_strategy = interval_strategy::steps;
  step_count save_steps{500};
  std::optional<index_t> save_total_limit;
  bool save_only_model = false, ignore_data_skip = false;
  bool load_best_model_at_end = false;
  std::optional<std::string> metric_for_best_model;  ///< with or without "eval_"
  std::optional<bool> greater_is_better;
  save_dtype_choice save_dtype = save_dtype_choice::automatic;
  std::optional<bool> disable_tqdm;
  std::string report_to = "none";  ///< names joined by blanks
  std::optional<std::string> logging_dir;

  // Precision and machine
  bool fp16 = false, bf16 = false, fp16_full_eval = false, bf16_full_eval = false;
  std::optional<bool> tf32;
  bool use_cpu = false;
  index_t threads = 0;  ///< 0: all cores
  bool cuda_graphs = true;
  index_t num_gpus = 1, local_rank = -1;
  std::optional<std::string> deepspeed;  ///< the file as given
  bool gradient_checkpointing = false;

  // Generation
  bool predict_with_generate = false;  ///< with prediction_loss_only, false
  bool prediction_loss_only = false;
  std::optional<index_t> generation_max_length, generation_num_beams;
  std::optional<std::string> generation_config;  ///< file, directory or Hub name

  /// Not empty: print it on stdout and exit with 0; the other fields are then not checked.
  std::string help_text;
  /// Accepted flags that change nothing, in one line for stderr; empty if there are none.
  std::string notice;
  /// Where some of the arguments were read; empty: all are of the command line.
  std::string args_file;

  [[nodiscard]] bool reports_to_tensorboard() const {
    return (" " + report_to + " ").find(" tensorboard ") != std::string::npos || report_to == "all";
  }
  [[nodiscard]] bool uses_adafactor() const { return adafactor || optim == "adafactor"; }
  [[nodiscard]] bool evaluates_during_training() const {
    return do_train && (eval_strategy != interval_strategy::no || eval_on_start);
  }
  /// Whether a best evaluation is looked for.
  [[nodiscard]] bool chooses_best() const {
    return load_best_model_at_end || save_strategy == interval_strategy::best ||
           metric_for_best_model.has_value();
  }
  /// What decides which evaluation is the best, without "eval_".
  [[nodiscard]] std::string best_metric() const {
    std::string name = metric_for_best_model.value_or("loss");
    if (name.starts_with("eval_")) name.erase(0, 5);
    return name;
  }
  /// By default a loss is better when smaller, everything else when larger.
  [[nodiscard]] bool larger_is_better() const {
    return greater_is_better.value_or(!best_metric().ends_with("loss"));
  }
  /// Tokens of a target in evaluation.
  [[nodiscard]] index_t evaluation_target_length() const {
    return val_max_target_length.value_or(max_target_length);
  }
  /// Updates that warm up: warmup_steps if positive, else the ratio, rounded up.
  [[nodiscard]] index_t warmup_updates(index_t total_steps) const {
    if (warmup_steps.value > 0) return warmup_steps.steps(total_steps);
    return static_cast<index_t>(std::ceil(static_cast<double>(total_steps) * warmup_ratio));
  }
};

/// The name of the precision policy that the flags ask for.
[[nodiscard]] inline std::string_view requested_precision(const options& chosen) {
  if (chosen.fp16) return "fp16";
  if (chosen.bf16) return "bf16";
  return chosen.tf32.value_or(false) ? "tf32" : "fp32";
}

}  // namespace t5zero
