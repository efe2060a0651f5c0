// train_results.json, eval_results.json and all_results.json, as Trainer.save_metrics writes them.
#pragma once

#include <filesystem>
#include <fstream>
#include <map>
#include <string>

#include <nlohmann/json.hpp>

#include <t5zero/io/atomic_save.hpp>
#include <t5zero/train/python_repr.hpp>
#include <t5zero/train/report.hpp>

namespace t5zero::cli {

/// Python's json.dump(indent=4, sort_keys=True) of values that are JSON already.
inline std::string results_json(const std::map<std::string, std::string>& values) {
  std::string text = "{";
  for (const auto& [key, value] : values) {
    text += std::string(text.size() > 1 ? "," : "") + "\n    " + nlohmann::json(key).dump() + ": " + value;
  }
  return text + "\n}";
}

/// Adds <split>_results.json, and all_results.json: these results among those of earlier splits and runs that
/// the file in the directory holds. A file that is no JSON object is replaced.
inline void add_results(atomic_save& save, const std::string& split, const metrics& results) {
  save.add(split + "_results.json", results_json(results.json_values()));
  std::map<std::string, std::string> all = results.json_values();
  std::ifstream file(save.directory() / "all_results.json", std::ios::binary);
  const nlohmann::json earlier =
      file ? nlohmann::json::parse(file, nullptr, /*allow_exceptions=*/false) : nlohmann::json();
  if (earlier.is_object()) {
    for (const auto& [key, value] : earlier.items()) {
      all.try_emplace(key, value.is_number_float() ? python_json(value.get<double>()) : value.dump());
    }
  }
  save.add("all_results.json", results_json(all));
}

}  // namespace t5zero::cli
