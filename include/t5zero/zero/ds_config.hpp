// A DeepSpeed configuration as plain data: what t5zero reads of it. No JSON here: read_ds_config.hpp reads
// files, resolve_ds_config.hpp replaces "auto".
#pragma once

#include <array>
#include <optional>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include <t5zero/core/error.hpp>
#include <t5zero/core/integers.hpp>

namespace t5zero {

/// The word "auto" in a configuration: Hugging Face's integration fills it from the training arguments.
struct auto_value {
  friend constexpr bool operator==(auto_value, auto_value) = default;
};

/// "auto" or a value.
template <class T>
class auto_or {
 public:
  constexpr auto_or(auto_value) {}
  constexpr auto_or(T value) : state_(std::move(value)) {}

  [[nodiscard]] constexpr bool is_auto() const { return std::holds_alternative<auto_value>(state_); }
  /// The value. Throws contract_error while it is still "auto".
  [[nodiscard]] constexpr const T& value() const {
    require(!is_auto(), "auto_or::value: still \"auto\"; call fill_auto first");
    return std::get<T>(state_);
  }
  friend bool operator==(const auto_or&, const auto_or&) = default;

 private:
  std::variant<auto_value, T> state_;
};

/// A key that may be absent: absent keys are never filled and leave the decision to the other arguments.
template <class T>
using setting = std::optional<auto_or<T>>;

/// Where a state lives outside the step that needs it.
enum class offload_device { none, cpu };

/// "zero_optimization".
struct ds_zero_section {
  int stage = 0;
  setting<index_t> reduce_bucket_size;                  ///< elements
  setting<index_t> stage3_prefetch_bucket_size;         ///< elements
  setting<index_t> stage3_param_persistence_threshold;  ///< elements
  setting<bool> stage3_gather_16bit_weights_on_model_save;
  offload_device offload_optimizer = offload_device::none;
  offload_device offload_param = offload_device::none;
};

/// "fp16". Defaults: DeepSpeed's runtime/fp16 configuration.
struct ds_fp16_section {
  setting<bool> enabled;
  double loss_scale = 0;  ///< 0: dynamic; above: static
  index_t initial_scale_power = 16;
  index_t loss_scale_window = 1000;  ///< updates without overflow before the scale doubles
  index_t hysteresis = 2;
  double min_loss_scale = 1;
  bool consecutive_hysteresis = false;
};

/// "optimizer". With such a section Hugging Face hands over all parameters as one group: weight decay also
/// hits norms and relative biases.
struct ds_optimizer_section {
  std::string type;  ///< as spelled; Adam and AdamW are known
  setting<double> lr;
  setting<std::array<double, 2>> betas;
  setting<double> eps;
  setting<double> weight_decay;
};

/// "scheduler".
struct ds_scheduler_section {
  std::string type;  ///< WarmupLR, WarmupDecayLR or WarmupCosineLR
  setting<double> warmup_min_lr;
  setting<double> warmup_max_lr;
  setting<index_t> warmup_num_steps;  ///< updates
  setting<index_t> total_num_steps;   ///< updates
  std::string warmup_type = "log";
  double warmup_min_ratio = 0;    ///< WarmupCosineLR
  double cos_min_ratio = 0.0001;  ///< WarmupCosineLR
};

/// One configuration file.
struct ds_config {
  std::string source;  ///< the file, for messages
  ds_zero_section zero;
  ds_fp16_section fp16;
  setting<bool> bf16_enabled;
  std::optional<ds_optimizer_section> optimizer;
  std::optional<ds_scheduler_section> scheduler;
  setting<double> gradient_clipping;
  setting<index_t> train_batch_size;                ///< sentences in one update, over all ranks
  setting<index_t> train_micro_batch_size_per_gpu;  ///< sentences
  setting<index_t> gradient_accumulation_steps;     ///< micro-batches in one update
  /// Full key paths of all that was given and is not acted on, in the file's sorted order; for one notice.
  std::vector<std::string> not_honoured;
};

}  // namespace t5zero
