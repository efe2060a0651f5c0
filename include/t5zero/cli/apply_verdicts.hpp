// What the argument table refuses, and the notice about what has no effect.
#pragma once

#include <algorithm>
#include <array>
#include <string>
#include <string_view>
#include <vector>

#include <t5zero/cli/argument_table.hpp>
#include <t5zero/cli/argument_verdict.hpp>
#include <t5zero/cli/spelling.hpp>
#include <t5zero/core/error.hpp>

namespace t5zero::detail {

/// The given value as one text, lists joined by blanks.
inline std::string joined(const std::vector<std::string>& values) {
  std::string text;
  for (const std::string& value : values) text.append(text.empty() ? "" : " ").append(value);
  return text;
}

/// Whether a value says what would hold without it.
inline bool is_default(const argument_verdict& row, const std::string& value) {
  if (value.empty() || value == row.fallback) return true;
  if (row.kind == argument_kind::optional_value && value == "False") return true;
  if (row.fallback.empty())
    return value == "None" || (row.kind == argument_kind::optional_flag && value == "False");
  return false;
}

/// Refuses what is refused; returns the one notice about what is accepted without effect.
inline std::string apply_verdicts(const given_arguments& given) {
  std::string notice;
  for (const argument_verdict& row : argument_table()) {
    const auto found = given.find(row.name);
    if (found == given.end() || row.outcome == verdict::honoured) continue;
    const std::string value = joined(found->second);
    if (is_default(row, value)) continue;
    std::string name("--");
    name.append(row.name);
    if (row.outcome == verdict::refused)
      throw input_error(name + " " + value + ": refused: " + std::string(row.text));
    notice.append(notice.empty() ? "accepted without effect: " : "; ")
        .append(name)
        .append(" (")
        .append(row.text)
        .append(")");
  }
  return notice;
}

/// Refuses what transformers has no integration of.
inline void check_tracker(const std::string& name) {
  constexpr std::array<std::string_view, 13> known = {
      "azure_ml", "clearml", "codecarbon", "comet_ml", "dagshub", "dvclive",    "flyte",
      "mlflow",   "neptune", "swanlab",    "trackio",  "wandb",   "tensorboard"};
  if (std::find(known.begin(), known.end(), name) != known.end()) return;
  std::string list;
  for (const std::string_view one : known) list.append(one).append(", ");
  throw input_error("--report_to " + name + ": no such tracker; known are " + list + "all and none");
}

}  // namespace t5zero::detail
