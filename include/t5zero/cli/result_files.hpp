// train_results.json, eval_results.json and all_results.json, as Trainer.save_metrics writes them.
#pragma once

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <map>
#include <optional>
#include <string>
#include <string_view>

#include <nlohmann/json.hpp>

#include <t5zero/core/error.hpp>
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

/// The values of an earlier results file as JSON texts; nothing if it is no JSON object. Throws io_error if
/// it cannot be read. Python writes NaN and Infinity, which JSON does not have: they are quoted for the
/// parser and unquoted after it.
inline std::optional<std::map<std::string, std::string>> read_results(const std::filesystem::path& path) {
  errno = 0;
  std::ifstream file(path, std::ios::binary);
  std::string text;
  if (file) {
    for (char block[4096]; file.read(block, sizeof(block)) || file.gcount() > 0;)
      text.append(block, static_cast<std::size_t>(file.gcount()));
  }
  if (file.bad() || !file.eof()) {
    throw io_error(path.string() + ": cannot be read (" + std::strerror(errno) +
                   "), so these results cannot join those in it; make it readable, or move it away");
  }
  static constexpr std::string_view mark = "t5zero:";
  std::string strict;
  bool quoted = false;
  for (std::size_t i = 0; i < text.size();) {
    if (text[i] == '"' && (i == 0 || text[i - 1] != '\\')) quoted = !quoted;
    bool replaced = false;
    for (const std::string_view literal : {"NaN", "-Infinity", "Infinity"}) {
      if (quoted || text.compare(i, literal.size(), literal) != 0) continue;
      strict.append("\"").append(mark).append(literal).append("\"");
      i += literal.size();
      replaced = true;
      break;
    }
    if (!replaced) strict += text[i++];
  }
  const nlohmann::json object = nlohmann::json::parse(strict, nullptr, /*allow_exceptions=*/false);
  if (!object.is_object()) return std::nullopt;
  std::map<std::string, std::string> values;
  for (const auto& [key, value] : object.items()) {
    const bool is_literal = value.is_string() && value.get_ref<const std::string&>().starts_with(mark);
    values[key] = is_literal                ? value.get<std::string>().substr(mark.size())
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
