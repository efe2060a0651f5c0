// JSON files that people write: comments allowed, duplicate keys refused, every error with its place.
#pragma once

#include <cerrno>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <system_error>
#include <vector>

#include <nlohmann/json.hpp>

#include <t5zero/core/error.hpp>
#include <t5zero/core/integers.hpp>

namespace t5zero {

/// A value as a message shows it: cut where it is long.
[[nodiscard]] inline std::string shown(const nlohmann::json& value) {
  constexpr std::size_t longest = 80;
  std::string text = value.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
  if (text.size() > longest) text.replace(longest, text.size(), "...");
  return text;
}

/// No file of ours is nested deeper; without a bound a hostile one could exhaust the stack.
inline constexpr int deepest_json = 64;

/// Parses one JSON value. `//` and block comments are allowed; a key that occurs twice in one object is
/// refused, because which of the two the writer meant cannot be known. `name` stands for the source in
/// messages. Throws input_error with line and column.
[[nodiscard]] inline nlohmann::json parse_strict_json(std::string_view text, const std::string& name) {
  std::vector<std::set<std::string>> open_objects;
  const auto watch = [&](int depth, nlohmann::json::parse_event_t event, nlohmann::json& value) {
    using kind = nlohmann::json::parse_event_t;
    if (depth > deepest_json) {
      throw input_error(name + ": nested more than " + std::to_string(deepest_json) + " levels deep");
    }
    if (event == kind::object_start) {
      open_objects.emplace_back();
    } else if (event == kind::object_end) {
      open_objects.pop_back();
    } else if (event == kind::key && !open_objects.back().insert(value.get<std::string>()).second) {
      throw input_error(name + ": the key \"" + value.get<std::string>() +
                        "\" occurs twice in one object; keep one of them");
    }
    return true;
  };
  try {
    return nlohmann::json::parse(text.begin(), text.end(), watch, /*allow_exceptions=*/true,
                                 /*ignore_comments=*/true);
  } catch (const nlohmann::json::exception& failure) {
    throw input_error(name + ": not valid JSON: " + failure.what());
  }
}

/// parse_strict_json on a file's content. Throws input_error also when the file cannot be read.
[[nodiscard]] inline nlohmann::json read_strict_json(const std::filesystem::path& path) {
  std::error_code status;
  if (std::filesystem::is_directory(path, status)) {
    throw input_error(path.string() + ": a JSON file is needed, this is a directory");
  }
  std::ifstream file(path, std::ios::binary);
  if (!file) throw input_error(path.string() + ": cannot be opened (" + std::strerror(errno) + ")");
  const std::string text{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
  if (file.bad()) throw io_error(path.string() + ": reading failed");
  return parse_strict_json(text, path.string());
}

/// The integer that a JSON number stands for, also when spelled 2e8 or 5.0; nothing for 0.5, text, or what
/// does not fit 64 bits.
[[nodiscard]] inline std::optional<index_t> integral_value(const nlohmann::json& value) {
  if (value.is_number_unsigned() && value.get<std::uint64_t>() > static_cast<std::uint64_t>(INT64_MAX))
    return {};
  if (value.is_number_integer()) return value.get<index_t>();
  if (!value.is_number_float()) return {};
  const double number = value.get<double>();
  // 2^63 as a double: the first value that index_t cannot hold.
  if (!(std::abs(number) < 9223372036854775808.0) || std::trunc(number) != number) return {};
  return static_cast<index_t>(number);
}

}  // namespace t5zero
