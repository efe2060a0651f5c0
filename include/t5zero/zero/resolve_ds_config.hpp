// Replaces "auto" in a DeepSpeed configuration by the training arguments, and checks what is not "auto"
// against them, as Hugging Face's Trainer does (transformers, integrations/deepspeed.py:
// HfTrainerDeepSpeedConfig).
#pragma once

#include <array>
#include <charconv>
#include <string>
#include <string_view>
#include <vector>

#include <t5zero/core/error.hpp>
#include <t5zero/core/integers.hpp>
#include <t5zero/zero/ds_config.hpp>

namespace t5zero {

/// The training arguments that fill "auto". Plain values: this room knows no command line.
struct ds_arguments {
  index_t world_size = 1;
  index_t per_device_train_batch_size = 8;  ///< sentences
  index_t gradient_accumulation_steps = 1;
  double max_grad_norm = 1.0;
  double learning_rate = 5e-5;
  std::array<double, 2> adam_betas = {0.9, 0.999};
  double adam_epsilon = 1e-8;
  double weight_decay = 0.0;
  index_t warmup_steps = 0;  ///< updates; a ratio is already turned into steps
  index_t total_steps = 0;   ///< updates of the whole run
  bool fp16 = false;
  bool bf16 = false;
  index_t d_model = 0;  ///< for the bucket sizes
};

/// Sizes of one update.
struct batch_sizes {
  index_t train_batch_size = 0;                ///< sentences, over all ranks
  index_t train_micro_batch_size_per_gpu = 0;  ///< sentences
  index_t gradient_accumulation_steps = 0;     ///< micro-batches
  friend constexpr bool operator==(const batch_sizes&, const batch_sizes&) = default;
};

namespace detail {

inline std::string show(bool value) {
  return value ? "True" : "False";
}
inline std::string show(index_t value) {
  return std::to_string(value);
}
inline std::string show(double value) {
  std::array<char, 32> text{};
  const auto end = std::to_chars(text.data(), text.data() + text.size(), value);
  return {text.data(), end.ptr};
}
inline std::string show(const std::array<double, 2>& value) {
  std::string text("[");
  text.append(show(value[0])).append(", ").append(show(value[1])).append("]");
  return text;
}

/// Fills one setting, or notes that it contradicts the argument.
template <class T>
void fill_or_compare(setting<T>& target, const T& argument, std::string_view key,
                     std::string_view argument_name, std::vector<std::string>& mismatches) {
  if (!target) return;
  if (target->is_auto()) {
    target = auto_or<T>(argument);
  } else if (!(target->value() == argument)) {
    mismatches.push_back("- ds " + std::string(key) + "=" + show(target->value()) + " vs hf " +
                         std::string(argument_name) + "=" + show(argument));
  }
}

template <class T>
void fill_only(setting<T>& target, const T& value) {
  if (target && target->is_auto()) target = auto_or<T>(value);
}

}  // namespace detail

/// Fills every "auto"; keys that are absent stay absent. Under stages below 3 an "auto" of a stage-3 size
/// becomes absent. Throws one input_error that lists every value that contradicts its argument.
inline void fill_auto(ds_config& config, const ds_arguments& arguments) {
  using detail::fill_only;
  using detail::fill_or_compare;
  std::vector<std::string> mismatches;
  fill_or_compare(config.train_micro_batch_size_per_gpu, arguments.per_device_train_batch_size,
                  "train_micro_batch_size_per_gpu", "per_device_train_batch_size", mismatches);
  fill_or_compare(config.gradient_accumulation_steps, arguments.gradient_accumulation_steps,
                  "gradient_accumulation_steps", "gradient_accumulation_steps", mismatches);
  const index_t train_batch_size =
      arguments.world_size * arguments.per_device_train_batch_size * arguments.gradient_accumulation_steps;
  fill_or_compare(config.train_batch_size, train_batch_size, "train_batch_size",
                  "train_batch_size (calculated)", mismatches);
  fill_or_compare(config.gradient_clipping, arguments.max_grad_norm, "gradient_clipping", "max_grad_norm",
                  mismatches);
  if (config.optimizer) {
    ds_optimizer_section& optimizer = *config.optimizer;
    fill_or_compare(optimizer.lr, arguments.learning_rate, "optimizer.params.lr", "learning_rate",
                    mismatches);
    fill_or_compare(optimizer.betas, arguments.adam_betas, "optimizer.params.betas", "adam_beta1+adam_beta2",
                    mismatches);
    fill_or_compare(optimizer.eps, arguments.adam_epsilon, "optimizer.params.eps", "adam_epsilon",
                    mismatches);
    fill_or_compare(optimizer.weight_decay, arguments.weight_decay, "optimizer.params.weight_decay",
                    "weight_decay", mismatches);
  }
  if (config.scheduler) {
    ds_scheduler_section& scheduler = *config.scheduler;
    fill_only(scheduler.warmup_min_lr, 0.0);
    fill_or_compare(scheduler.warmup_max_lr, arguments.learning_rate, "scheduler.params.warmup_max_lr",
                    "learning_rate", mismatches);
    fill_or_compare(scheduler.warmup_num_steps, arguments.warmup_steps, "scheduler.params.warmup_num_steps",
                    "warmup_steps", mismatches);
    fill_or_compare(scheduler.total_num_steps, arguments.total_steps, "scheduler.params.total_num_steps",
                    "num_training_steps (calculated)", mismatches);
  }
  fill_or_compare(config.fp16.enabled, arguments.fp16, "fp16.enabled", "fp16", mismatches);
  fill_or_compare(config.bf16_enabled, arguments.bf16, "bf16.enabled", "bf16", mismatches);

  const index_t d_model = arguments.d_model;
  fill_only(config.zero.reduce_bucket_size, d_model * d_model);
  const auto fill_stage_3 = [&](setting<index_t>& target, index_t value) {
    if (!target || !target->is_auto()) return;
    if (config.zero.stage == 3) {
      target = auto_or<index_t>(value);
    } else {
      target.reset();
    }
  };
  // 0.9 h^2, truncated: 9 h^2 / 10 in integers avoids the double's rounding.
  fill_stage_3(config.zero.stage3_prefetch_bucket_size, 9 * d_model * d_model / 10);
  fill_stage_3(config.zero.stage3_param_persistence_threshold, 10 * d_model);
  // Saves are always complete here, so the value has no effect; true is what happens.
  fill_only(config.zero.stage3_gather_16bit_weights_on_model_save, true);

  if (!mismatches.empty()) {
    std::string text = config.source + ": values that contradict the command line:";
    for (const std::string& line : mismatches) text += "\n" + line;
    throw input_error(text + "\nGive both the same value, or write \"auto\" in the file.");
  }
}

/// The three batch sizes from those that the file gives (absent ones are derived; DeepSpeed,
/// runtime/config.py, _configure_train_batch_size). Needs a filled configuration. Throws input_error if they
/// do not multiply up.
[[nodiscard]] inline batch_sizes resolve_batch_sizes(const ds_config& config, index_t world_size) {
  const auto given = [](const setting<index_t>& value) { return value ? value->value() : index_t{0}; };
  const bool has_batch = config.train_batch_size.has_value();
  const bool has_micro = config.train_micro_batch_size_per_gpu.has_value();
  const bool has_accumulation = config.gradient_accumulation_steps.has_value();
  index_t batch = given(config.train_batch_size);
  index_t micro = given(config.train_micro_batch_size_per_gpu);
  index_t accumulation = given(config.gradient_accumulation_steps);
  if (!has_batch && !has_micro) {
    throw input_error(config.source + ": train_batch_size or train_micro_batch_size_per_gpu is needed");
  }
  if (!has_accumulation) accumulation = has_batch && has_micro && micro > 0 ? batch / micro / world_size : 1;
  if (!has_micro) micro = accumulation > 0 ? batch / world_size / accumulation : 0;
  if (!has_batch) batch = micro * accumulation * world_size;
  if (batch <= 0 || micro <= 0 || accumulation <= 0 || batch != micro * accumulation * world_size) {
    throw input_error(
        config.source +
        ": train_batch_size is not train_micro_batch_size_per_gpu * gradient_accumulation_steps * "
        "ranks: " +
        std::to_string(batch) + " != " + std::to_string(micro) + " * " + std::to_string(accumulation) +
        " * " + std::to_string(world_size) + "; correct one, or write \"auto\"");
  }
  return {batch, micro, accumulation};
}

}  // namespace t5zero
