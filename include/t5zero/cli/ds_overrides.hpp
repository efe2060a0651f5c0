// What a ds_config decides about training: DeepSpeed's optimizer, scheduler, clipping and loss scale, with
// "auto" filled as transformers fills it.
#pragma once

#include <array>
#include <cmath>
#include <optional>
#include <string>

#include <t5zero/cli/options.hpp>
#include <t5zero/core/error.hpp>
#include <t5zero/core/integers.hpp>
#include <t5zero/optim/adamw.hpp>
#include <t5zero/optim/loss_scaler.hpp>
#include <t5zero/optim/lr_schedule.hpp>
#include <t5zero/train/python_repr.hpp>
#include <t5zero/zero/ds_config.hpp>
#include <t5zero/zero/resolve_ds_config.hpp>

namespace t5zero::cli {

/// Where the file leaves something out, DeepSpeed's defaults stand, not the command line's.
struct ds_overrides {
  std::optional<adamw_options> optimizer;  ///< nothing: --optim stands
  double learning_rate = 0.0;              ///< peak
  double max_grad_norm = 0.0;
  loss_scaler_options scaler;
  std::optional<warmup_lr_schedule> schedule;  ///< nothing: --lr_scheduler_type stands
};

namespace detail {

template <class Setting, class T>
T value_or(const Setting& setting, T fallback) {
  return setting ? setting->value() : fallback;
}

inline loss_scaler_options scaler_of(const ds_config& config) {
  const ds_fp16_section& fp16 = config.fp16;
  loss_scaler_options scaler;
  scaler.dynamic = fp16.loss_scale == 0;
  scaler.initial_scale =
      fp16.loss_scale > 0 ? fp16.loss_scale : std::ldexp(1.0, static_cast<int>(fp16.initial_scale_power));
  scaler.window = fp16.loss_scale_window;
  // Stage 0 is FP16_Optimizer, which halves at once.
  scaler.hysteresis = config.zero.stage == 0 ? 1 : static_cast<int>(fp16.hysteresis);
  scaler.minimum_scale = fp16.min_loss_scale;
  scaler.consecutive_hysteresis = fp16.consecutive_hysteresis;
  return scaler;
}

inline warmup_lr_schedule schedule_of(const ds_scheduler_section& section, double learning_rate,
                                      index_t total_steps) {
  warmup_lr_schedule schedule;
  schedule.kind = section.type == "WarmupDecayLR"    ? warmup_lr_kind::decay
                  : section.type == "WarmupCosineLR" ? warmup_lr_kind::cosine
                                                     : warmup_lr_kind::constant;
  schedule.minimum = value_or(section.warmup_min_lr, 0.0);
  // WarmupLR takes the optimizer's rate where the file gives none (since 0.17.2), WarmupDecayLR its own
  // default.
  schedule.maximum =
      value_or(section.warmup_max_lr, schedule.kind == warmup_lr_kind::decay ? 1e-3 : learning_rate);
  if (schedule.kind == warmup_lr_kind::cosine) {
    schedule.minimum = section.warmup_min_ratio * learning_rate;
    schedule.maximum = learning_rate;
    schedule.final_ratio = section.cos_min_ratio;
  }
  schedule.warmup_steps = value_or(section.warmup_num_steps, index_t{1000});
  schedule.total_steps = value_or(section.total_num_steps, total_steps);
  schedule.logarithmic = section.warmup_type != "linear";
  return schedule;
}

}  // namespace detail

/// Fills the "auto" values of `config` and reads what it decides. Throws input_error listing every value that
/// contradicts the command line.
inline ds_overrides apply_ds_config(ds_config& config, const options& chosen, index_t d_model,
                                    index_t max_steps) {
  ds_arguments arguments;
  arguments.per_device_train_batch_size = chosen.per_device_train_batch_size;
  arguments.gradient_accumulation_steps = chosen.gradient_accumulation_steps;
  arguments.max_grad_norm = chosen.max_grad_norm;
  arguments.learning_rate = chosen.learning_rate;
  arguments.adam_betas = {chosen.adam_beta1, chosen.adam_beta2};
  arguments.adam_epsilon = chosen.adam_epsilon;
  arguments.weight_decay = chosen.weight_decay;
  arguments.warmup_steps = chosen.warmup_updates(max_steps);
  arguments.total_steps = max_steps;
  arguments.fp16 = chosen.fp16;
  arguments.bf16 = chosen.bf16;
  arguments.d_model = d_model;
  fill_auto(config, arguments);
  static_cast<void>(resolve_batch_sizes(config, 1));  // checks that the sizes agree

  ds_overrides result;
  result.learning_rate = chosen.learning_rate;
  if (config.optimizer) {
    if (chosen.uses_adafactor()) {
      throw input_error(config.source +
                        ": --adafactor was passed, but also found `optimizer` configured in the DeepSpeed "
                        "config. Only one optimizer can be configured: remove one of them");
    }
    const ds_optimizer_section& optimizer = *config.optimizer;
    const std::array<double, 2> betas = detail::value_or(optimizer.betas, std::array{0.9, 0.999});
    result.optimizer =
        adamw_options{betas[0], betas[1], detail::value_or(optimizer.eps, 1e-8),
                      detail::value_or(optimizer.weight_decay, 0.0), weight_decay_scope::everything};
    result.learning_rate = detail::value_or(optimizer.lr, 1e-3);
  }
  result.max_grad_norm = detail::value_or(config.gradient_clipping, 1.0);
  result.scaler = detail::scaler_of(config);
  if (config.scheduler) {
    result.schedule = detail::schedule_of(*config.scheduler, result.learning_rate, max_steps);
  }
  return result;
}

/// One line for every flag that the file stands over; empty if there is none.
inline std::string overrides_notice(const ds_config& config, const options& chosen,
                                    const ds_overrides& result) {
  std::string text;
  const auto add = [&](const char* flag, double asked, double used) {
    if (asked == used) return;
    text += (text.empty() ? "" : ", ") + std::string(flag) + " is " + python_repr(used) + ", not " +
            python_repr(asked);
  };
  add("--learning_rate", chosen.learning_rate, result.learning_rate);
  if (result.optimizer) {
    add("--weight_decay", chosen.weight_decay, result.optimizer->weight_decay);
    add("--adam_beta1", chosen.adam_beta1, result.optimizer->beta1);
    add("--adam_beta2", chosen.adam_beta2, result.optimizer->beta2);
    add("--adam_epsilon", chosen.adam_epsilon, result.optimizer->epsilon);
  }
  add("--max_grad_norm", chosen.max_grad_norm, result.max_grad_norm);
  if (config.scheduler) {
    text += std::string(text.empty() ? "" : ", ") + "the learning rate follows " + config.scheduler->type +
            ", not --lr_scheduler_type";
  }
  return text.empty() ? text : config.source + ": " + text;
}

}  // namespace t5zero::cli
