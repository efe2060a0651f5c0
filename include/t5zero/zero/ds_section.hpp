// One object of a DeepSpeed configuration while it is read: types, full key paths, keys that nobody asked
// for.
#pragma once

#include <initializer_list>
#include <optional>
#include <set>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>

#include <t5zero/core/error.hpp>
#include <t5zero/core/integers.hpp>
#include <t5zero/io/strict_json.hpp>
#include <t5zero/zero/ds_config.hpp>

namespace t5zero::detail {

/// Reads the keys of one object, knows which were read, and names full key paths in errors.
class ds_section {
 public:
  ds_section(const nlohmann::json& object, std::string source, std::string path,
             std::vector<std::string>& not_honoured)
      : object_(object), source_(std::move(source)), path_(std::move(path)), not_honoured_(not_honoured) {
    if (!object_.is_object()) {
      throw input_error(source_ + ": " + path_ + ": an object {...} is needed, got " + shown(object_));
    }
  }

  /// The value of `key`, "auto", or nothing if absent or null.
  template <class T>
  [[nodiscard]] setting<T> read(const std::string& key) {
    const nlohmann::json* value = find(key);
    if (value == nullptr) return {};
    if (value->is_string() && value->get<std::string>() == "auto") return setting<T>(auto_value{});
    return setting<T>(convert<T>(key, *value));
  }

  /// For keys that nobody fills: "auto" means the default, as in DeepSpeed's typed sections.
  template <class T>
  [[nodiscard]] T read_or(const std::string& key, T fallback) {
    const setting<T> value = read<T>(key);
    return value && !value->is_auto() ? value->value() : fallback;
  }

  /// The object under `key`, if there is one.
  [[nodiscard]] const nlohmann::json* find(const std::string& key) {
    seen_.insert(key);
    const auto found = object_.find(key);
    return found == object_.end() || found->is_null() ? nullptr : &*found;
  }

  /// Legal keys that nothing here acts on: they go to the notice.
  void accept(std::initializer_list<const char*> keys) {
    for (const char* key : keys) {
      if (find(key) != nullptr) not_honoured_.push_back(name(key));
    }
  }

  /// Keys that would change numbers or layouts in a way t5zero does not have: only their default passes.
  void refuse_unless(const std::string& key, const nlohmann::json& neutral, const std::string& reason) {
    const nlohmann::json* value = find(key);
    if (value == nullptr || *value == neutral || *value == "auto") return;
    const bool switched_off =
        value->is_object() && (value->empty() || value->value("enabled", nlohmann::json(true)) == false);
    if (switched_off) return;
    fail(key, *value, reason + "; remove the key");
  }

  /// Typed sections refuse what they do not know: a misspelt key would otherwise do nothing.
  void refuse_unknown() const {
    for (const auto& [key, value] : object_.items()) {
      if (!seen_.contains(key)) {
        throw input_error(source_ + ": " + name(key) + ": no such key in this section; correct or remove it");
      }
    }
  }

  /// Keys that were not asked for, in sorted order.
  [[nodiscard]] std::vector<std::string> unread_keys() const {
    std::vector<std::string> keys;
    for (const auto& [key, value] : object_.items()) {
      if (!seen_.contains(key)) keys.push_back(key);
    }
    return keys;
  }

  [[noreturn]] void fail(const std::string& key, const nlohmann::json& value,
                         const std::string& repair) const {
    throw input_error(source_ + ": " + name(key) + "=" + shown(value) + ": " + repair);
  }
  [[nodiscard]] std::string name(const std::string& key) const {
    return path_.empty() ? key : path_ + "." + key;
  }

 private:
  template <class T>
  [[nodiscard]] T convert(const std::string& key, const nlohmann::json& value) const {
    if constexpr (std::is_same_v<T, bool>) {
      if (!value.is_boolean()) fail(key, value, "true or false is needed");
      return value.get<bool>();
    } else if constexpr (std::is_same_v<T, index_t>) {
      const std::optional<index_t> number = integral_value(value);
      if (!number || *number < 0) fail(key, value, "an integer of at least 0 is needed");
      return *number;
    } else if constexpr (std::is_same_v<T, double>) {
      if (!value.is_number()) fail(key, value, "a number is needed");
      return value.get<double>();
    } else if constexpr (std::is_same_v<T, std::string>) {
      if (!value.is_string()) fail(key, value, "a string is needed");
      return value.get<std::string>();
    } else {
      if (!value.is_array() || value.size() != 2 || !value[0].is_number() || !value[1].is_number()) {
        fail(key, value, "two numbers [beta1, beta2] are needed");
      }
      return T{value[0].get<double>(), value[1].get<double>()};
    }
  }

  const nlohmann::json& object_;
  std::string source_;
  std::string path_;
  std::vector<std::string>& not_honoured_;
  std::set<std::string> seen_;
};

}  // namespace t5zero::detail
