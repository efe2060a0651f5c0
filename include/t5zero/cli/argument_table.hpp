// Every command line argument and what t5zero does with it: the one list that spelling, help and notices
// read.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <span>
#include <string>
#include <string_view>

#include <t5zero/cli/argument_verdict.hpp>
#include <t5zero/cli/script_arguments.hpp>
#include <t5zero/cli/training_arguments.hpp>

namespace t5zero {

namespace detail {

inline constexpr auto all_arguments = [] {
  std::array<argument_verdict, own_arguments.size() + script_arguments.size() + training_arguments.size()>
      rows{};
  auto end = std::copy(own_arguments.begin(), own_arguments.end(), rows.begin());
  end = std::copy(script_arguments.begin(), script_arguments.end(), end);
  std::copy(training_arguments.begin(), training_arguments.end(), end);
  return rows;
}();

}  // namespace detail

/// All rows, in the order of the help.
[[nodiscard]] constexpr std::span<const argument_verdict> argument_table() {
  return detail::all_arguments;
}

/// The row of a canonical name (underscores, no dashes in front); null if there is none.
[[nodiscard]] inline const argument_verdict* find_argument(std::string_view name) {
  for (const argument_verdict& row : argument_table()) {
    if (row.name == name) return &row;
  }
  return nullptr;
}

/// The text of `--help-all`: name, verdict, default, reason, one line each.
[[nodiscard]] inline std::string argument_table_text() {
  std::string text = "Arguments and what happens to them (honoured; accepted: one notice; refused):\n";
  for (const argument_verdict& row : argument_table()) {
    std::string line = "  --" + std::string(row.name);
    line.resize(std::max<std::size_t>(line.size() + 1, 44), ' ');
    line += to_string(row.outcome);
    line.resize(std::max<std::size_t>(line.size() + 1, 54), ' ');
    line += row.text;
    if (!row.fallback.empty()) line += " [" + std::string(row.fallback) + "]";
    text += line + "\n";
  }
  return text;
}

}  // namespace t5zero
