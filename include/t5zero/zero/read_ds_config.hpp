// Reads DeepSpeed's JSON configuration. Which keys exist, their types and defaults: DeepSpeed's configuration
// reference and runtime/config.py, runtime/zero/config.py.
#pragma once

#include <algorithm>
#include <array>
#include <cctype>
#include <cmath>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>

#include <t5zero/core/error.hpp>
#include <t5zero/core/integers.hpp>
#include <t5zero/io/strict_json.hpp>
#include <t5zero/zero/ds_config.hpp>
#include <t5zero/zero/ds_section.hpp>

namespace t5zero {
namespace detail {

inline std::string lower_case(std::string text) {
  std::transform(text.begin(), text.end(), text.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return text;
}

inline offload_device read_offload(ds_section& zero, ds_config& config, const std::string& key,
                                   const char* deprecated_key) {
  const nlohmann::json* old_value = zero.find(deprecated_key);
  const nlohmann::json* section = zero.find(key);
  if (old_value != nullptr) {
    if (section != nullptr)
      zero.fail(deprecated_key, *old_value, "is the old spelling of " + key + "; keep one");
    if (!old_value->is_boolean()) zero.fail(deprecated_key, *old_value, "true or false is needed");
    if (!old_value->get<bool>()) return offload_device::none;
    config.not_honoured.push_back(zero.name(deprecated_key));
    return offload_device::cpu;
  }
  if (section == nullptr) return offload_device::none;
  ds_section offload(*section, config.source, zero.name(key), config.not_honoured);
  const std::string device = offload.read_or<std::string>("device", "none");
  if (device != "none" && device != "cpu") {
    offload.fail("device", device, "\"none\" or \"cpu\" is needed; there is no offload to disks");
  }
  offload.refuse_unless("super_offload", false, "SuperOffload is not implemented");
  if (device == "cpu") config.not_honoured.push_back(offload.name("device"));
  offload.accept({"pin_memory", "ratio", "nvme_path", "buffer_count", "buffer_size", "max_in_cpu", "pipeline",
                  "pipeline_read", "pipeline_write", "fast_init", "cpuadam_cores_perc"});
  offload.refuse_unknown();
  return device == "cpu" ? offload_device::cpu : offload_device::none;
}

inline void read_zero_section(const nlohmann::json& value, ds_config& config) {
  if (value.is_boolean()) {  // the spelling before stages: true means stage 1
    config.zero.stage = value.get<bool>() ? 1 : 0;
    return;
  }
  ds_section zero(value, config.source, "zero_optimization", config.not_honoured);
  const index_t stage = zero.read_or<index_t>("stage", 0);
  if (stage > 3) zero.fail("stage", stage, "0, 1, 2 or 3 is needed");
  config.zero.stage = static_cast<int>(stage);
  config.zero.reduce_bucket_size = zero.read<index_t>("reduce_bucket_size");
  config.zero.stage3_prefetch_bucket_size = zero.read<index_t>("stage3_prefetch_bucket_size");
  config.zero.stage3_param_persistence_threshold = zero.read<index_t>("stage3_param_persistence_threshold");
  const std::string gather = "stage3_gather_16bit_weights_on_model_save";
  const std::string old_gather = "stage3_gather_fp16_weights_on_model_save";
  config.zero.stage3_gather_16bit_weights_on_model_save = zero.read<bool>(gather);
  if (const nlohmann::json* old_value = zero.find(old_gather); old_value != nullptr) {
    if (config.zero.stage3_gather_16bit_weights_on_model_save) {
      zero.fail(old_gather, *old_value, "is the old spelling of " + gather + "; keep one");
    }
    config.zero.stage3_gather_16bit_weights_on_model_save = zero.read<bool>(old_gather);
  }
  // One rank has nothing to bucket or prefetch, and every save is complete: these are read and not acted on.
  zero.accept({"reduce_bucket_size", "stage3_prefetch_bucket_size", "stage3_param_persistence_threshold",
               "stage3_gather_16bit_weights_on_model_save", "stage3_gather_fp16_weights_on_model_save"});
  config.zero.offload_optimizer = read_offload(zero, config, "offload_optimizer", "cpu_offload");
  config.zero.offload_param = read_offload(zero, config, "offload_param", "cpu_offload_param");
  if (config.zero.offload_param == offload_device::cpu && stage != 3) {
    throw input_error(config.source +
                      ": zero_optimization.offload_param: parameters can be offloaded with stage 3 only, "
                      "this file has stage " +
                      std::to_string(stage) + "; remove the section or set stage 3");
  }
  zero.accept({"contiguous_gradients",
               "reduce_scatter",
               "use_multi_rank_bucket_allreduce",
               "allgather_partitions",
               "allgather_bucket_size",
               "overlap_comm",
               "load_from_fp32_weights",
               "round_robin_gradients",
               "ignore_unused_parameters",
               "sub_group_size",
               "stage3_model_persistence_threshold",
               "stage3_max_live_parameters",
               "stage3_max_reuse_distance",
               "stage3_module_granularity_threshold",
               "stage3_use_all_reduce_for_fetch_params",
               "stage3_allgather_sequential",
               "memory_efficient_linear",
               "override_module_apply",
               "log_trace_cache_warnings",
               "enable_sanity_checks",
               "pipeline_loading_checkpoint",
               "leaf_module",
               "cpu_offload_use_pin_memory",
               "save_muon_momentum_buffer_in_memory"});
  const std::string other_layout = "changes numbers or layouts in a way that is not implemented";
  zero.refuse_unless("elastic_checkpoint", false, "every checkpoint is re-sharded on load");
  zero.refuse_unless("zero_hpz_partition_size", 1, other_layout);
  zero.refuse_unless("mics_shard_size", -1, other_layout);
  for (const char* key : {"zero_quantized_weights", "zero_quantized_nontrainable_weights",
                          "zero_quantized_gradients", "mics_hierarchical_params_gather", "legacy_stage1"}) {
    zero.refuse_unless(key, false, other_layout);
  }
  zero.refuse_unless("zeropp_loco_param", nullptr, other_layout);
  zero.refuse_unless("zenflow", nullptr, other_layout);
  zero.refuse_unknown();
}

/// Parallelism over ranks that is not implemented may be left at one rank.
inline void refuse_other_parallelism(ds_section& top) {
  top.refuse_unless("sequence_parallel_size", 1, "is not implemented");
  const nlohmann::json* tensor = top.find("tensor_parallel");
  const auto size = tensor != nullptr && tensor->is_object() ? tensor->find("autotp_size")
                                                             : nlohmann::json::const_iterator();
  const bool off = tensor != nullptr && tensor->is_object() && size != tensor->end() && *size == 0;
  if (!off) top.refuse_unless("tensor_parallel", nullptr, "is not implemented");
}

inline void read_fp16_section(const nlohmann::json& value, ds_config& config) {
  ds_section section(value, config.source, "fp16", config.not_honoured);
  ds_fp16_section& fp16 = config.fp16;
  fp16.enabled = section.read<bool>("enabled");
  fp16.loss_scale = section.read_or<double>("loss_scale", fp16.loss_scale);
  fp16.initial_scale_power = section.read_or<index_t>("initial_scale_power", fp16.initial_scale_power);
  fp16.loss_scale_window = section.read_or<index_t>("loss_scale_window", fp16.loss_scale_window);
  fp16.hysteresis = section.read_or<index_t>("hysteresis", fp16.hysteresis);
  fp16.min_loss_scale = section.read_or<double>("min_loss_scale", fp16.min_loss_scale);
  fp16.consecutive_hysteresis = section.read_or<bool>("consecutive_hysteresis", fp16.consecutive_hysteresis);
  if (!(fp16.loss_scale >= 0) || fp16.loss_scale > std::ldexp(1.0, 127)) {
    section.fail("loss_scale", fp16.loss_scale, "0 (dynamic) or a positive number up to 2^127 is needed");
  }
  if (fp16.loss_scale == 0 && fp16.hysteresis == 0) {
    section.fail("hysteresis", 0, "at least 1 is needed: 1 halves the scale at every overflow");
  }
  if (fp16.loss_scale == 0 && fp16.loss_scale_window == 0) {
    section.fail("loss_scale_window", 0, "a dynamic loss scale needs at least 1");
  }
  if (fp16.loss_scale == 0 && !(fp16.min_loss_scale > 0)) {
    section.fail("min_loss_scale", fp16.min_loss_scale, "a dynamic loss scale needs a positive minimum");
  }
  // 2^127 is the last power of two that fp32 holds; beyond it the first scaled loss is infinite.
  if (fp16.initial_scale_power > 127) {
    section.fail("initial_scale_power", fp16.initial_scale_power, "at most 127 is needed");
  }
  section.accept({"auto_cast"});
  section.refuse_unless("fp16_master_weights_and_grads", false, "master weights are always fp32");
  section.refuse_unknown();
}

inline void read_bf16_section(const nlohmann::json& value, const std::string& spelling, ds_config& config) {
  ds_section section(value, config.source, spelling, config.not_honoured);
  config.bf16_enabled = section.read<bool>("enabled");
  section.accept({"check_grad_overflow", "immediate_grad_update"});
  section.refuse_unless("bf16_master_weights_and_grads", false, "master weights are always fp32");
  section.refuse_unless("bf16_optimizer_states", false, "moments are always fp32");
  section.refuse_unknown();
}

inline void read_optimizer_section(const nlohmann::json& value, ds_config& config) {
  ds_section section(value, config.source, "optimizer", config.not_honoured);
  ds_optimizer_section optimizer;
  optimizer.type = section.read_or<std::string>("type", "");
  const std::string type = lower_case(optimizer.type);
  if (type != "adam" && type != "adamw") {
    section.fail("type", optimizer.type, "Adam and AdamW are implemented; use one of them");
  }
  if (const nlohmann::json* given = section.find("params"); given != nullptr) {
    ds_section params(*given, config.source, "optimizer.params", config.not_honoured);
    optimizer.lr = params.read<double>("lr");
    optimizer.betas = params.read<std::array<double, 2>>("betas");
    optimizer.eps = params.read<double>("eps");
    optimizer.weight_decay = params.read<double>("weight_decay");
    params.refuse_unless("bias_correction", true, "moments are always corrected for their bias");
    if (type == "adamw")
      params.accept({"adam_w_mode"});  // as in DeepSpeed, where AdamW is always decoupled
    else
      params.refuse_unless("adam_w_mode", true, "decay is always decoupled from the gradient; use AdamW");
    params.refuse_unless("amsgrad", false, "AMSGrad is not implemented");
    params.refuse_unless("max_grad_norm", nullptr, "clipping is set by gradient_clipping");
    params.accept({"torch_adam", "fp32_optimizer_states", "fused", "foreach"});
    params.refuse_unknown();
  }
  section.accept({"legacy_fusion"});
  section.refuse_unknown();
  config.optimizer = optimizer;
}

inline void read_scheduler_section(const nlohmann::json& value, ds_config& config) {
  ds_section section(value, config.source, "scheduler", config.not_honoured);
  ds_scheduler_section scheduler;
  scheduler.type = section.read_or<std::string>("type", "");
  const bool decay = scheduler.type == "WarmupDecayLR";
  const bool cosine = scheduler.type == "WarmupCosineLR";
  if (scheduler.type != "WarmupLR" && !decay && !cosine) {
    section.fail("type", scheduler.type,
                 "WarmupLR, WarmupDecayLR and WarmupCosineLR are implemented; use one of them");
  }
  if (const nlohmann::json* given = section.find("params"); given != nullptr) {
    ds_section params(*given, config.source, "scheduler.params", config.not_honoured);
    scheduler.warmup_num_steps = params.read<index_t>("warmup_num_steps");
    scheduler.warmup_type = params.read_or<std::string>("warmup_type", "log");
    if (scheduler.warmup_type != "log" && scheduler.warmup_type != "linear") {
      params.fail("warmup_type", scheduler.warmup_type, "\"log\" or \"linear\" is needed");
    }
    if (cosine) {
      scheduler.warmup_min_ratio = params.read_or<double>("warmup_min_ratio", scheduler.warmup_min_ratio);
      scheduler.cos_min_ratio = params.read_or<double>("cos_min_ratio", scheduler.cos_min_ratio);
    } else {
      scheduler.warmup_min_lr = params.read<double>("warmup_min_lr");
      scheduler.warmup_max_lr = params.read<double>("warmup_max_lr");
    }
    if (decay || cosine) scheduler.total_num_steps = params.read<index_t>("total_num_steps");
    params.accept({"last_batch_iteration"});
    params.refuse_unknown();
  }
  if ((decay || cosine) && !scheduler.total_num_steps) {
    throw input_error(config.source + ": scheduler.params.total_num_steps: " + scheduler.type +
                      " needs it; give the number of updates or \"auto\"");
  }
  section.refuse_unknown();
  config.scheduler = scheduler;
}

}  // namespace detail

/// The configuration in a parsed JSON value; `source` names it in messages. Throws input_error with the full
/// key path.
[[nodiscard]] inline ds_config parse_ds_config(const nlohmann::json& root, const std::string& source) {
  ds_config config;
  config.source = source;
  if (!root.is_object()) throw input_error(source + ": an object {...} is needed, got " + shown(root));
  detail::ds_section top(root, source, "", config.not_honoured);
  if (const auto* value = top.find("zero_optimization")) detail::read_zero_section(*value, config);
  if (const auto* value = top.find("fp16")) detail::read_fp16_section(*value, config);
  const nlohmann::json* bf16 = top.find("bf16");
  if (const auto* long_name = top.find("bfloat16")) {
    if (bf16 != nullptr) top.fail("bfloat16", *long_name, "is another spelling of bf16; keep one");
    detail::read_bf16_section(*long_name, "bfloat16", config);
  } else if (bf16 != nullptr) {
    detail::read_bf16_section(*bf16, "bf16", config);
  }
  const auto is_on = [](const setting<bool>& value) { return value && !value->is_auto() && value->value(); };
  if (is_on(config.fp16.enabled) && is_on(config.bf16_enabled)) {
    throw input_error(source + ": fp16.enabled and bf16.enabled are both true; switch one off");
  }
  if (const auto* value = top.find("optimizer")) detail::read_optimizer_section(*value, config);
  if (const auto* value = top.find("scheduler")) detail::read_scheduler_section(*value, config);
  config.gradient_clipping = top.read<double>("gradient_clipping");
  if (config.gradient_clipping && !config.gradient_clipping->is_auto() &&
      !(config.gradient_clipping->value() >= 0)) {
    top.fail("gradient_clipping", config.gradient_clipping->value(), "0 (off) or a positive norm is needed");
  }
  config.train_batch_size = top.read<index_t>("train_batch_size");
  config.train_micro_batch_size_per_gpu = top.read<index_t>("train_micro_batch_size_per_gpu");
  config.gradient_accumulation_steps = top.read<index_t>("gradient_accumulation_steps");

  const std::string absent = "is not implemented";
  top.refuse_unless("gradient_allreduce_op", "mean", "only \"mean\" is implemented");
  top.refuse_unless("gradient_predivide_factor", 1.0, absent);
  top.refuse_unless("managed_gradient_accumulation", true, "accumulation is always managed");
  for (const char* key : {"prescale_gradients", "sparse_gradients"}) top.refuse_unless(key, false, absent);
  for (const char* key : {"amp", "torch_autocast", "pipeline", "expert_parallel", "elasticity",
                          "sparse_attention", "compression_training", "progressive_layer_drop",
                          "curriculum_learning", "data_efficiency", "hybrid_engine", "quantize_training"}) {
    top.refuse_unless(key, nullptr, absent);
  }
  detail::refuse_other_parallelism(top);
  // What DeepSpeed knows and what it does not are treated alike here: it ignores unknown top-level keys too.
  static constexpr std::array<std::string_view, 27> known = {"steps_per_print",
                                                             "wall_clock_breakdown",
                                                             "memory_breakdown",
                                                             "dump_state",
                                                             "zero_allow_untested_optimizer",
                                                             "zero_force_ds_cpu_optimizer",
                                                             "dataloader_drop_last",
                                                             "disable_allgather",
                                                             "vocabulary_size",
                                                             "checkpoint",
                                                             "timers",
                                                             "tensorboard",
                                                             "csv_monitor",
                                                             "wandb",
                                                             "comet",
                                                             "flops_profiler",
                                                             "activation_checkpointing",
                                                             "comms_logger",
                                                             "autotuning",
                                                             "aio",
                                                             "compile",
                                                             "data_types",
                                                             "communication_data_type",
                                                             "nebula",
                                                             "seed",
                                                             "use_data_before_expert_parallel_",
                                                             "checkpoint_engine"};
  for (const std::string& key : top.unread_keys()) {
    const bool is_known = std::find(known.begin(), known.end(), key) != known.end();
    config.not_honoured.push_back(is_known ? key : key + " (unknown)");
  }
  std::sort(config.not_honoured.begin(), config.not_honoured.end());
  return config;
}

/// The file that a `--deepspeed` value means: the path itself, else a file of the same name in one of
/// `installed` (directories, in order). Throws input_error listing the places tried.
[[nodiscard]] inline std::filesystem::path find_ds_config(
    const std::filesystem::path& given, std::span<const std::filesystem::path> installed = {}) {
  std::error_code status;
  if (std::filesystem::exists(given, status)) return given;
  std::string tried = given.string();
  for (const std::filesystem::path& directory : installed) {
    std::filesystem::path candidate = directory / given.filename();
    if (std::filesystem::exists(candidate, status)) return candidate;
    tried += ", " + candidate.string();
  }
  throw input_error("--deepspeed " + given.string() + ": no such file; tried " + tried);
}

/// Reads a configuration file (see find_ds_config for how the path is looked up). Throws input_error.
[[nodiscard]] inline ds_config read_ds_config(const std::filesystem::path& path,
                                              std::span<const std::filesystem::path> installed = {}) {
  const std::filesystem::path found = find_ds_config(path, installed);
  return parse_ds_config(read_strict_json(found), found.string());
}

/// The one line that names every key that was given and is not acted on; empty if there is none.
[[nodiscard]] inline std::string ds_config_notice(const ds_config& config) {
  if (config.not_honoured.empty()) return {};
  std::string text = config.source + ": not acted on:";
  for (std::size_t i = 0; i < config.not_honoured.size(); ++i) {
    text.append(i == 0 ? " " : ", ").append(config.not_honoured[i]);
  }
  return text;
}

}  // namespace t5zero
