// The manifest of a checkpoint, read key by key.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>
#include <string>
#include <utility>

#include <nlohmann/json.hpp>

#include <t5zero/core/error.hpp>
#include <t5zero/core/integers.hpp>

namespace t5zero::detail {

/// JSON has no NaN or infinity.
[[nodiscard]] inline nlohmann::json exact_number(double value) {
  if (std::isfinite(value)) return value;
  return std::isnan(value) ? "nan" : value > 0 ? "inf" : "-inf";
}

/// A manifest that is read key by key; a missing or mistyped key names the file.
class manifest_reader {
 public:
  manifest_reader(nlohmann::json json, std::string file) : json_(std::move(json)), file_(std::move(file)) {}

  [[nodiscard]] manifest_reader at(const char* key) const { return {value(key), file_}; }
  [[nodiscard]] bool has(const char* key) const {
    return json_.is_object() && json_.contains(key) && !json_[key].is_null();
  }
  [[nodiscard]] double number(const char* key) const {
    const nlohmann::json& found = value(key);
    if (found.is_number()) return found.get<double>();
    if (found == "nan") return std::numeric_limits<double>::quiet_NaN();
    if (found == "inf") return std::numeric_limits<double>::infinity();
    if (found == "-inf") return -std::numeric_limits<double>::infinity();
    damaged(key, "is no number");
  }
  [[nodiscard]] index_t integer(const char* key, index_t least = 0) const {
    const nlohmann::json& found = value(key);
    if (!found.is_number_integer() || found.get<std::int64_t>() < least) damaged(key, "is no count");
    return found.get<index_t>();
  }
  [[nodiscard]] std::uint64_t unsigned_integer(const char* key) const {
    if (!value(key).is_number_unsigned()) damaged(key, "is no count");
    return value(key).get<std::uint64_t>();
  }
  [[nodiscard]] bool boolean(const char* key) const {
    if (!value(key).is_boolean()) damaged(key, "is neither true nor false");
    return value(key).get<bool>();
  }
  [[nodiscard]] std::string text(const char* key) const {
    if (!value(key).is_string()) damaged(key, "is no text");
    return value(key).get<std::string>();
  }
  [[nodiscard]] const nlohmann::json& array(const char* key) const {
    if (!value(key).is_array()) damaged(key, "is no array");
    return value(key);
  }
  [[noreturn]] void damaged(const char* key, const char* what) const {
    throw input_error(file_ + ": \"" + key + "\" " + what + "; the checkpoint is damaged");
  }

 private:
  [[nodiscard]] const nlohmann::json& value(const char* key) const {
    if (!json_.is_object() || !json_.contains(key)) damaged(key, "is missing");
    return json_[key];
  }

  nlohmann::json json_;
  std::string file_;
};

}  // namespace t5zero::detail
