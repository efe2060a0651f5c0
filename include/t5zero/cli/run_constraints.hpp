// An executable of one run refuses flags that contradict its type, and names the executable that fits.
#pragma once

#include <array>
#include <string>
#include <string_view>

#include <t5zero/cli/options.hpp>
#include <t5zero/core/error.hpp>
#include <t5zero/core/type_list.hpp>
#include <t5zero/policy/model_size.hpp>
#include <t5zero/zero/ds_config.hpp>

namespace t5zero {

/// The type of an executable's run, by the names of its policies.
struct run_constraints {
  std::string_view executable;
  std::string_view model;  ///< e.g. "t5-small"
  int zero_stage = 0;
  std::string_view precision;  ///< e.g. "fp16"
};

/// The executables of the documented configurations.
inline constexpr std::array<run_constraints, 4> documented_runs = {{
    {"t5_small_zero2_fp16", "t5-small", 2, "fp16"},
    {"t5_large_zero2", "t5-large", 2, "fp32"},
    {"t5_3b_zero3_fp16", "t5-3b", 3, "fp16"},
    {"t5_small_plain", "t5-small", 0, "fp32"},
}};

/// The ZeRO stage that the options ask for: the configuration's, or 0 without one. `config` may be null.
[[nodiscard]] inline int requested_stage(const ds_config* config) {
  return config == nullptr ? 0 : config->zero.stage;
}

/// The model that a name says: the Hub's ids of the published T5s, with or without their owner; empty for
/// directories and other names, whose config.json decides later.
[[nodiscard]] inline std::string_view requested_model(const options& chosen) {
  std::string_view name = chosen.from_scratch && chosen.config_name
                              ? std::string_view(*chosen.config_name)
                              : std::string_view(chosen.model_name_or_path);
  for (std::string_view owner : {"google-t5/", "google/"}) {
    if (name.starts_with(owner)) {
      name.remove_prefix(owner.size());
      break;
    }
  }
  std::string_view found;
  constexpr std::string_view flan = "flan-t5-";  // of v1.1's shapes
  constexpr std::string_view v1_1 = "t5-v1_1-";
  for_each_type(all_model_sizes{}, [&]<class Model>() {
    constexpr std::string_view known = Model::name;
    const bool is_flan = name.starts_with(flan) && known.starts_with(v1_1) &&
                         name.substr(flan.size()) == known.substr(v1_1.size());
    if (name == known || is_flan) found = known;
  });
  return found;
}

/// Throws input_error if the options ask for another run than `own`. `config` may be null (no --deepspeed).
inline void check_run_constraints(const options& chosen, const ds_config* config,
                                  const run_constraints& own) {
  const std::string_view precision = requested_precision(chosen);
  const int stage = requested_stage(config);
  const std::string_view named_model = requested_model(chosen);
  const std::string_view model = named_model.empty() ? own.model : named_model;
  std::string conflict;
  const auto add = [&conflict](const std::string& text) {
    conflict.append(conflict.empty() ? "" : "; ").append(text);
  };
  if (precision != own.precision) {
    const std::string flag = precision == "fp32"   ? "no --fp16, --bf16 or --tf32"
                             : precision == "tf32" ? "--tf32 True"
                                                   : "--" + std::string(precision);
    add(flag + " asks for " + std::string(precision) + ", this run is " + std::string(own.precision));
  }
  if (stage != own.zero_stage) {
    // The source is the flag itself where the configuration is its value.
    const std::string flag = config == nullptr                           ? "no --deepspeed"
                             : config->source.starts_with("--deepspeed") ? config->source
                                                                         : "--deepspeed " + config->source;
    add(flag + " asks for ZeRO stage " + std::to_string(stage) + ", this run has stage " +
        std::to_string(own.zero_stage));
  }
  if (model != own.model) {
    add("the model is " + std::string(model) + ", this run is for " + std::string(own.model));
  }
  if (conflict.empty()) return;
  std::string repair = "use run_translation, which holds every compiled run";
  for (const run_constraints& other : documented_runs) {
    if (other.model == model && other.zero_stage == stage && other.precision == precision) {
      repair = "use " + std::string(other.executable);
    }
  }
  throw input_error(std::string(own.executable) + ": " + conflict + "; " + repair + ", or change the flags");
}

}  // namespace t5zero
