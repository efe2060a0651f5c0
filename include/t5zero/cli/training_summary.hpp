// The entry of a training's log that ends it: run time, speed, mean loss. It is in trainer_state.json, not in
// checkpoints, which are written before it is known.
#pragma once

#include <algorithm>
#include <array>
#include <filesystem>
#include <optional>
#include <string>
#include <system_error>

#include <nlohmann/json.hpp>

#include <t5zero/core/error.hpp>
#include <t5zero/core/integers.hpp>
#include <t5zero/io/python_json.hpp>
#include <t5zero/train/log_history.hpp>
#include <t5zero/train/loop_state.hpp>
#include <t5zero/train/python_repr.hpp>

namespace t5zero::cli {

/// train_loss: the mean over all updates.
[[nodiscard]] inline double mean_loss(const loop_state& state) {
  return state.total_loss / static_cast<double>(std::max<index_t>(1, state.global_step));
}

/// The summary that the training of `state` left in output_dir's trainer_state.json: that of its last update,
/// with its loss. Nothing if there is none, or another training's.
[[nodiscard]] inline std::optional<log_entry> earlier_summary(const std::filesystem::path& output_dir,
                                                              const loop_state& state) {
  constexpr std::array<const char*, 5> keys = {"train_runtime", "train_samples_per_second",
                                               "train_steps_per_second", "train_loss", "total_flos"};
  const std::filesystem::path file = output_dir / "trainer_state.json";
  std::error_code ignored;
  if (!std::filesystem::exists(file, ignored)) return std::nullopt;
  const nlohmann::json json =
      read_python_json(file, "; make it readable, or move it away: it holds the figures of this training");
  if (!json.is_object() || !json.contains("log_history") || !json["log_history"].is_array())
    return std::nullopt;
  for (const nlohmann::json& entry : json["log_history"]) {
    const auto has = [&](const char* key) { return entry.is_object() && entry.contains(key); };
    if (!has("step") || entry["step"] != state.global_step) continue;
    if (!std::all_of(keys.begin(), keys.end(), has)) continue;
    if (python_json(python_number(entry["train_loss"])) != python_json(mean_loss(state))) continue;
    log_entry summary{state.global_step, state.epochs_done, {}};
    for (const char* key : keys) summary.values.emplace_back(key, python_number(entry[key]));
    return summary;
  }
  return std::nullopt;
}

}  // namespace t5zero::cli
