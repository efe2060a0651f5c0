// Ties argument names to fields of `options`: types and ranges of single values.
#pragma once

#include <charconv>
#include <cmath>
#include <cstdint>
#include <functional>
#include <limits>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include <t5zero/cli/options.hpp>
#include <t5zero/cli/spelling.hpp>
#include <t5zero/core/error.hpp>
#include <t5zero/core/integers.hpp>

namespace t5zero {

/// Bounds of a number and the words for them.
struct number_range {
  double low = -std::numeric_limits<double>::infinity();
  double high = std::numeric_limits<double>::infinity();
  std::string_view words = "a number";
  bool open_high = false;  ///< `high` itself is outside
};

/// Counts of rows, updates and micro-batches stay far below what 64 bits hold.
inline constexpr index_t largest_count = index_t{1} << 40;

/// Setters by canonical name. Every setter throws input_error naming flag, value and repair.
class option_binder {
 public:
  using setter = std::function<void(const std::string&)>;

  void text(const std::string& name, std::string& field) {
    setters_[name] = [&field](const std::string& value) { field = value; };
  }
  void text(const std::string& name, std::optional<std::string>& field) {
    setters_[name] = [&field](const std::string& value) { field = value; };
  }
  void boolean(const std::string& name, bool& field) {
    setters_[name] = [&field, name](const std::string& value) { field = parse_boolean(name, value); };
  }
  void boolean(const std::string& name, std::optional<bool>& field) {
    setters_[name] = [&field, name](const std::string& value) { field = parse_boolean(name, value); };
  }
  /// An integer from `low` to `high`; `words` finish "... is needed".
  template <class Field>
  void integer(const std::string& name, Field& field, index_t low, std::string_view words,
               index_t high = largest_count) {
    setters_[name] = [&field, name, low, high, words](const std::string& value) {
      const index_t number = parse_integer(name, value, words, high);
      if (number < low) fail(name, value, words);
      if (number > high) too_large(name, value, high);
      field = static_cast<index_t>(number);
    };
  }
  void seed(const std::string& name, std::function<void(std::uint64_t)> store) {
    setters_[name] = [store = std::move(store), name](const std::string& value) {
      constexpr std::string_view words = "an integer from 0 to 4294967295";
      const index_t number = parse_integer(name, value, words, index_t{0xffffffff});
      if (number < 0 || number > index_t{0xffffffff}) fail(name, value, words);
      store(static_cast<std::uint64_t>(number));
    };
  }
  void number(const std::string& name, double& field, number_range range) {
    setters_[name] = [&field, name, range](const std::string& value) {
      const std::optional<double> parsed = parse_number(value);
      const bool says_most = range.open_high || range.words.find("at most") != std::string_view::npos;
      if (parsed && std::isfinite(*parsed) && *parsed > range.high && !says_most)
        too_large(name, value, static_cast<index_t>(range.high));
      if (!parsed || !std::isfinite(*parsed) || *parsed < range.low || *parsed > range.high ||
          (range.open_high && *parsed >= range.high)) {
        fail(name, value, range.words);
      }
      field = *parsed;
    };
  }
  /// A count of updates of at least `low`, or a share in (0,1).
  template <class Field>
  void steps(const std::string& name, Field& field, double low) {
    setters_[name] = [&field, name, low](const std::string& value) {
      const std::optional<double> parsed = parse_number(value);
      const bool share = parsed && *parsed > 0 && *parsed < 1;
      const bool count = parsed && *parsed >= low && *parsed < 9e15 && std::trunc(*parsed) == *parsed;
      if (!share && !count) {
        fail(name, value,
             low > 0 ? "a whole number of updates above 0, or a share of them in (0,1),"
                     : "a whole number of updates, or a share of them in (0,1),");
      }
      field = step_count{*parsed};
    };
  }
  /// One of a list of words; `hint` follows the list of an error.
  template <class Enum>
  void choice(const std::string& name, Enum& field, std::vector<std::pair<std::string_view, Enum>> words,
              std::string_view hint = {}) {
    setters_[name] = [&field, name, words = std::move(words), hint](const std::string& value) {
      std::string list;
      for (const auto& [word, meaning] : words) {
        if (value == word) {
          field = meaning;
          return;
        }
        list.append(list.empty() ? "" : ", ").append(word);
      }
      fail(name, value, "one of " + list, hint);
    };
  }

  /// The setter of a name, or null: the argument has no field.
  [[nodiscard]] const setter* find(const std::string& name) const {
    const auto found = setters_.find(name);
    return found == setters_.end() ? nullptr : &found->second;
  }

  [[noreturn]] static void fail(const std::string& name, const std::string& value, std::string_view words,
                                std::string_view hint = {}) {
    throw input_error("--" + name + " " + (value.empty() ? "''" : value) + ": " + std::string(words) +
                      " is needed" + std::string(hint));
  }

 private:
  [[noreturn]] static void too_large(const std::string& name, const std::string& value, index_t high) {
    throw input_error("--" + name + " " + value + ": too large; at most " + std::to_string(high) +
                      " is allowed");
  }
  [[nodiscard]] static std::optional<double> parse_number(const std::string& text) {
    // Python's float() takes a plus sign, from_chars does not.
    const char* first = text.data() + (text.starts_with("+") && !text.starts_with("+-") ? 1 : 0);
    const char* last = text.data() + text.size();
    double value = 0;
    const auto result = std::from_chars(first, last, value);
    if (result.ec != std::errc{} || result.ptr != last) return {};
    return value;
  }
  [[nodiscard]] static index_t parse_integer(const std::string& name, const std::string& text,
                                             std::string_view words, index_t high) {
    index_t value = 0;
    const char* first = text.data() + (text.starts_with("+") && !text.starts_with("+-") ? 1 : 0);
    const char* last = text.data() + text.size();
    const auto result = std::from_chars(first, last, value);
    if (result.ec == std::errc::result_out_of_range && result.ptr == last && *first != '-')
      too_large(name, text, high);
    if (result.ec != std::errc{} || result.ptr != last) fail(name, text, words);
    return value;
  }

  std::map<std::string, setter, std::less<>> setters_;
};

}  // namespace t5zero
