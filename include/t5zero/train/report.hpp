// What a run prints: the memory plan, log dicts and metric tables in Hugging Face's form.
#pragma once

#include <algorithm>
#include <cstdio>
#include <map>
#include <string>
#include <string_view>
#include <utility>

#include <t5zero/core/integers.hpp>
#include <t5zero/plan/memory_plan.hpp>
#include <t5zero/train/python_repr.hpp>

namespace t5zero {

/// "12,345,678".
[[nodiscard]] inline std::string with_thousands(index_t value) {
  const std::string digits = std::to_string(value);
  std::string text;
  for (std::size_t i = 0; i < digits.size(); ++i) {
    if (i > 0 && (digits.size() - i) % 3 == 0) text += ',';
    text += digits[i];
  }
  return text;
}

/// "1.50 GiB" or, below one GiB, "12.3 MiB".
[[nodiscard]] inline std::string human_bytes(index_t bytes) {
  char text[64];
  const double mib = static_cast<double>(bytes) / 1048576.0;
  std::snprintf(text, sizeof(text), mib < 1024.0 ? "%.1f MiB" : "%.2f GiB",
                mib < 1024.0 ? mib : mib / 1024.0);
  return text;
}

/// The table of --plan.
[[nodiscard]] inline std::string plan_table(const std::string& run, const batch_shape& batch,
                                            index_t parameters, const memory_plan& plan) {
  std::string text = "Memory plan of " + run + "\n  parameters: " + with_thousands(parameters) +
                     "\n  largest batch: " + std::to_string(batch.batch) + " sequences, " +
                     with_thousands(batch.source_tokens) + " source and " +
                     with_thousands(batch.target_tokens) + " target tokens\n";
  for (const plan_line& line : plan.lines()) {
    char row[128];
    std::snprintf(row, sizeof(row), "  %-32s %18s bytes  %11s\n", std::string(line.name).c_str(),
                  with_thousands(line.bytes).c_str(), human_bytes(line.bytes).c_str());
    text += row;
  }
  return text;
}

/// A duration as Hugging Face's metrics have it (trainer_pt_utils.py, _secs2timedelta): "0:01:02.34", and
/// "1 day, 2:03:04.56" from a day on. Hundredths are cut off.
[[nodiscard]] inline std::string duration_text(double seconds) {
  const auto whole = static_cast<index_t>(seconds);
  const auto hundredths = static_cast<index_t>((seconds - static_cast<double>(whole)) * 100.0);
  const index_t days = whole / 86400;
  char text[64];
  std::snprintf(text, sizeof(text), "%lld:%02lld:%02lld.%02lld", static_cast<long long>(whole / 3600 % 24),
                static_cast<long long>(whole / 60 % 60), static_cast<long long>(whole % 60),
                static_cast<long long>(hundredths));
  return days == 0 ? text : std::to_string(days) + (days == 1 ? " day, " : " days, ") + text;
}

/// Metrics of one stage, sorted by key; integers have no fraction.
class metrics {
 public:
  void set(const std::string& key, double value) { values_[key] = {value, false}; }
  void set_count(const std::string& key, index_t value) { values_[key] = {static_cast<double>(value), true}; }

  /// ***** train metrics ***** and one aligned line per key.
  [[nodiscard]] std::string table(std::string_view stage) const {
    std::size_t key_width = 0;
    std::size_t value_width = 0;
    for (const auto& [key, value] : values_) {
      key_width = std::max(key_width, key.size());
      value_width = std::max(value_width, shown(key, value).size());
    }
    std::string text = "***** " + std::string(stage) + " metrics *****\n";
    for (const auto& [key, value] : values_) {
      const std::string right = shown(key, value);
      text += "  " + key + std::string(key_width - key.size(), ' ') + " = " +
              std::string(value_width - right.size(), ' ') + right + "\n";
    }
    return text;
  }
  /// Each value as JSON.
  [[nodiscard]] std::map<std::string, std::string> json_values() const {
    std::map<std::string, std::string> texts;
    for (const auto& [key, value] : values_) {
      texts[key] =
          value.second ? std::to_string(static_cast<index_t>(value.first)) : python_json(value.first);
    }
    return texts;
  }

 private:
  using entry = std::pair<double, bool>;

  [[nodiscard]] static std::string shown(const std::string& key, const entry& value) {
    if (key.ends_with("_runtime")) return duration_text(value.first);
    if (key == "total_flos") return std::to_string(static_cast<index_t>(value.first / 1073741824.0)) + "GF";
    return value.second ? std::to_string(static_cast<index_t>(value.first))
                        : python_repr(python_round(value.first, 4));
  }

  std::map<std::string, entry> values_;
};

}  // namespace t5zero
