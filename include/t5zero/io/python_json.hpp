// JSON files as Python writes them: NaN and Infinity, which JSON does not have, stand there as they are.
#pragma once

#include <array>
#include <cerrno>
#include <cstddef>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <limits>
#include <string>
#include <string_view>

#include <nlohmann/json.hpp>

#include <t5zero/core/error.hpp>

namespace t5zero {

namespace detail {

/// How NaN and its like stand in a parsed file: as texts that begin so.
inline constexpr std::string_view literal_mark = "t5zero:";

/// `text` with NaN, Infinity and -Infinity outside strings as marked strings.
[[nodiscard]] inline std::string with_marked_literals(std::string_view text) {
  static constexpr std::array<std::string_view, 3> literals = {"NaN", "-Infinity", "Infinity"};
  std::string strict;
  bool quoted = false;
  for (std::size_t i = 0; i < text.size();) {
    if (quoted && text[i] == '\\') {
      strict.append(text.substr(i, 2));
      i += 2;
      continue;
    }
    if (text[i] == '"') quoted = !quoted;
    std::string_view found;
    for (const std::string_view literal : literals)
      if (!quoted && text.substr(i).starts_with(literal)) found = literal;
    if (found.empty()) {
      strict += text[i++];
    } else {
      strict.append("\"").append(literal_mark).append(found).append("\"");
      i += found.size();
    }
  }
  return strict;
}

}  // namespace detail

/// The name of the literal that a value stands for ("NaN", "Infinity", "-Infinity"); empty: it is another
/// value.
[[nodiscard]] inline std::string_view python_literal(const nlohmann::json& value) {
  if (!value.is_string()) return {};
  const std::string_view text = value.get_ref<const std::string&>();
  return text.starts_with(detail::literal_mark) ? text.substr(detail::literal_mark.size())
                                                : std::string_view();
}

/// A number of such a file; NaN also for what is no number.
[[nodiscard]] inline double python_number(const nlohmann::json& value) {
  if (value.is_number()) return value.get<double>();
  constexpr double infinity = std::numeric_limits<double>::infinity();
  const std::string_view literal = python_literal(value);
  return literal == "Infinity"    ? infinity
         : literal == "-Infinity" ? -infinity
                                  : std::numeric_limits<double>::quiet_NaN();
}

/// The file's value, "discarded" if it is no JSON. Throws io_error if it cannot be read; `repair` follows
/// what is wrong.
[[nodiscard]] inline nlohmann::json read_python_json(const std::filesystem::path& path,
                                                     std::string_view repair) {
  errno = 0;
  std::ifstream file(path, std::ios::binary);
  std::string text;
  if (file) {
    for (char block[4096]; file.read(block, sizeof(block)) || file.gcount() > 0;)
      text.append(block, static_cast<std::size_t>(file.gcount()));
  }
  if (file.bad() || !file.eof()) {
    throw io_error(path.string() + ": cannot be read (" + std::strerror(errno) + ")" + std::string(repair));
  }
  return nlohmann::json::parse(detail::with_marked_literals(text), nullptr, /*allow_exceptions=*/false);
}

}  // namespace t5zero
