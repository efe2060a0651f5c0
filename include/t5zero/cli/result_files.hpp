// train_results.json, eval_results.json and all_results.json, as Trainer.save_metrics writes them.
#pragma once

#include <filesystem>
#include <iostream>
#include <map>
#include <optional>
#include <string>
#include <string_view>

#include <nlohmann/json.hpp>

#include <t5zero/io/atomic_save.hpp>
#include <t5zero/io/python_json.hpp>
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

/// The values of an earlier results file as JSON texts; nothing if it is no JSON object. Throws io_error if
/// it cannot be read.
inline std::optional<std::map<std::string, std::string>> read_results(const std::filesystem::path& path) {
  const nlohmann::json object =
      read_python_json(path, ", so these results cannot join those in it; make it readable, or move it away");
  if (!object.is_object()) return std::nullopt;
  std::map<std::string, std::string> values;
  for (const auto& [key, value] : object.items()) {
    const std::string_view literal = python_literal(value);
    values[key] = !literal.empty()          ? std::string(literal)
                  : value.is_number_float() ? python_json(value.get<double>())
                                            : value.dump();
  }
  return values;
}

/// Adds <split>_results.json, and all_results.json: these results among those of earlier splits and runs that
/// the file in the directory holds. A file that is no JSON object is replaced, with a notice.
inline void add_results(atomic_save& save, const std::string& split, const metrics& results) {
  save.add(split + "_results.json", results_json(results.json_values()));
  std::map<std::string, std::string> all = results.json_values();
  const std::filesystem::path path = save.directory() / "all_results.json";
  if (std::filesystem::exists(path)) {
    if (auto earlier = read_results(path)) {
      all.merge(*earlier);
    } else {
      std::cerr << path.string() << ": no JSON object; it is replaced\n";
    }
  }
  save.add("all_results.json", results_json(all));
}

}  // namespace t5zero::cli
