// A run's history as a checkpoint holds it: log lines in the manifest, records of the updates as a tensor.
#pragma once

#include <cmath>
#include <cstddef>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>

#include <t5zero/core/integers.hpp>
#include <t5zero/train/log_history.hpp>
#include <t5zero/train/manifest_reader.hpp>

namespace t5zero::detail {

/// Tensor of the state file: [updates, update_columns], the records of the updates as floats.
inline constexpr const char* updates_tensor = "history/updates/0";
inline constexpr index_t update_columns = 8;

[[nodiscard]] inline nlohmann::json to_json(const log_history& history) {
  nlohmann::json entries = nlohmann::json::array();
  for (const log_entry& entry : history.entries) {
    nlohmann::json values = nlohmann::json::array();
    for (const auto& [key, value] : entry.values) values.push_back({key, exact_number(value)});
    entries.push_back({{"step", entry.step}, {"epoch", entry.epoch}, {"values", values}});
  }
  return {{"entries", entries}};
}

/// The records as floats: they are only drawn.
[[nodiscard]] inline std::vector<float> floats_of(const std::vector<update_record>& updates) {
  std::vector<float> values;
  values.reserve(updates.size() * static_cast<std::size_t>(update_columns));
  for (const update_record& u : updates) {
    for (const double value : {static_cast<double>(u.step), u.loss, u.grad_norm, u.learning_rate,
                               u.loss_scale, u.seconds, static_cast<double>(u.tokens), u.skipped ? 1.0 : 0.0})
      values.push_back(static_cast<float>(value));
  }
  return values;
}
[[nodiscard]] inline std::vector<update_record> updates_of(const std::vector<float>& values) {
  std::vector<update_record> updates;
  updates.reserve(values.size() / static_cast<std::size_t>(update_columns));
  for (auto v = values.begin(); v != values.end(); v += update_columns)
    updates.push_back({std::llround(v[0]), v[1], v[2], v[3], v[4], v[5], std::llround(v[6]), v[7] != 0.0F});
  return updates;
}

[[nodiscard]] inline double number_of(const nlohmann::json& value) {
  if (value.is_number()) return value.get<double>();
  return value == "inf"    ? std::numeric_limits<double>::infinity()
         : value == "-inf" ? -std::numeric_limits<double>::infinity()
                           : std::numeric_limits<double>::quiet_NaN();
}

[[nodiscard]] inline log_history history_of(const manifest_reader& manifest) {
  log_history history;
  try {
    for (const nlohmann::json& entry : manifest.array("entries")) {
      log_entry read;
      read.step = entry.at("step").get<index_t>();
      read.epoch = entry.at("epoch").get<double>();
      for (const nlohmann::json& pair : entry.at("values"))
        read.values.emplace_back(pair.at(0).get<std::string>(), number_of(pair.at(1)));
      history.entries.push_back(std::move(read));
    }
  } catch (const nlohmann::json::exception&) {
    manifest.damaged("entries", "cannot be read");
  }
  return history;
}

}  // namespace t5zero::detail
