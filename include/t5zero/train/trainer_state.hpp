// trainer_state.json, as Hugging Face's Trainer writes it and reads it.
#pragma once

#include <cmath>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>

#include <t5zero/core/integers.hpp>
#include <t5zero/train/loop_state.hpp>
#include <t5zero/train/python_repr.hpp>

namespace t5zero {

/// What the file holds beside the loop's state.
struct trainer_state_facts {
  index_t logging_steps = 500;
  index_t eval_steps = 500;
  index_t save_steps = 500;
  index_t max_steps = 0;
  index_t num_train_epochs = 0;
  index_t train_batch_size = 8;
  bool training_is_over = false;
};

namespace detail {

/// A JSON string. A path need not be UTF-8, JSON must be: what is not becomes U+FFFD.
[[nodiscard]] inline std::string quoted(const std::string& text) {
  return nlohmann::json(text).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

/// Python's json.dump(indent=2, sort_keys=True) of nested values; numbers come as they are to be written.
struct json_text {
  std::map<std::string, std::string> values;  ///< key to JSON, nested levels indented already

  [[nodiscard]] std::string at(const std::string& indent) const {
    std::string text = "{";
    for (const auto& [key, value] : values) {
      text += std::string(text.size() > 1 ? "," : "") + "\n" + indent + "  " + quoted(key) + ": " + value;
    }
    return text + "\n" + indent + "}";
  }
};

/// Counts among an entry's values have no fraction in Python.
[[nodiscard]] inline bool is_count(const std::string& key) {
  return key.ends_with("_samples");
}

}  // namespace detail

[[nodiscard]] inline std::string trainer_state_json(const loop_state& state,
                                                    const trainer_state_facts& facts) {
  const auto boolean = [](bool value) { return std::string(value ? "true" : "false"); };
  std::string history = "[";
  for (const log_entry& entry : state.history.entries) {
    detail::json_text row;
    row.values["epoch"] = python_json(entry.epoch);
    row.values["step"] = std::to_string(entry.step);
    for (const auto& [key, value] : entry.values) {
      row.values[key] =
          detail::is_count(key) ? std::to_string(static_cast<index_t>(value)) : python_json(value);
    }
    history += std::string(history.size() > 1 ? "," : "") + "\n    " + row.at("    ");
  }
  history += history.size() > 1 ? "\n  ]" : "]";
  detail::json_text control;
  control.values = {{"should_epoch_stop", "false"},
                    {"should_evaluate", "false"},
                    {"should_log", "false"},
                    {"should_save", "true"},
                    {"should_training_stop", boolean(facts.training_is_over)}};
  detail::json_text trainer_control;
  trainer_control.values = {{"args", control.at("      ")}, {"attributes", "{}"}};
  detail::json_text callbacks;
  callbacks.values = {{"TrainerControl", trainer_control.at("    ")}};
  detail::json_text all;
  all.values = {
      {"best_global_step", state.best ? std::to_string(state.best->step) : "null"},
      {"best_metric", state.best ? python_json(state.best->metric) : "null"},
      {"best_model_checkpoint",
       state.best_saved ? detail::quoted(state.best_saved->directory.string()) : "null"},
      {"epoch", python_json(state.epochs_done)},
      {"eval_steps", std::to_string(facts.eval_steps)},
      {"global_step", std::to_string(state.global_step)},
      {"is_hyper_param_search", "false"},
      {"is_local_process_zero", "true"},
      {"is_world_process_zero", "true"},
      {"log_history", history},
      {"logging_steps", std::to_string(facts.logging_steps)},
      {"max_steps", std::to_string(facts.max_steps)},
      {"num_input_tokens_seen", "0"},
      {"num_train_epochs", std::to_string(facts.num_train_epochs)},
      {"save_steps", std::to_string(facts.save_steps)},
      {"stateful_callbacks", callbacks.at("  ")},
      {"total_flos", python_json(state.total_flos)},
      {"train_batch_size", std::to_string(facts.train_batch_size)},
      {"trial_name", "null"},
      {"trial_params", "null"},
  };
  return all.at("") + "\n";
}

}  // namespace t5zero
