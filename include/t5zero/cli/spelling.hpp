// From command line tokens to canonical argument names: both spellings, unique prefixes, booleans, files of
// arguments. The rules are those of Python's argparse as Hugging Face's HfArgumentParser sets it up.
#pragma once

#include <algorithm>
#include <cctype>
#include <cstddef>
#include <functional>
#include <map>
#include <numeric>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>

#include <t5zero/cli/argument_table.hpp>
#include <t5zero/core/error.hpp>
#include <t5zero/io/strict_json.hpp>

namespace t5zero {

/// What the command line says: canonical name -> values (the last occurrence). Booleans are "True" or
/// "False".
using given_arguments = std::map<std::string, std::vector<std::string>, std::less<>>;

/// True or false as HfArgumentParser reads them, any case. Throws input_error naming the flag.
[[nodiscard]] inline bool parse_boolean(std::string_view flag, std::string_view text) {
  std::string lower(text);
  std::transform(lower.begin(), lower.end(), lower.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  for (std::string_view word : {"yes", "true", "t", "y", "1"}) {
    if (lower == word) return true;
  }
  for (std::string_view word : {"no", "false", "f", "n", "0"}) {
    if (lower == word) return false;
  }
  throw input_error("--" + std::string(flag) + " " + std::string(text) +
                    ": a truth value is needed: yes/no, true/false, t/f, y/n or 1/0");
}

namespace detail {

/// One way to write an argument, without the leading dashes.
struct option_string {
  std::string text;
  const argument_verdict* row = nullptr;
  bool negated = false;  ///< --no_x
};

inline std::string dashed(std::string text) {
  std::replace(text.begin(), text.end(), '_', '-');
  return text;
}

inline std::vector<option_string> all_option_strings() {
  std::vector<option_string> all;
  const auto add = [&all](const std::string& text, const argument_verdict& row, bool negated) {
    all.push_back({text, &row, negated});
    if (text.find('_') != std::string::npos) all.push_back({dashed(text), &row, negated});
  };
  for (const argument_verdict& row : argument_table()) {
    add(std::string(row.name), row, false);
    if (row.kind == argument_kind::on_flag) add("no_" + std::string(row.name), row, true);
  }
  return all;
}

/// Levenshtein's distance.
inline std::size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<std::size_t> row(b.size() + 1);
  std::iota(row.begin(), row.end(), std::size_t{0});
  for (std::size_t i = 0; i < a.size(); ++i) {
    std::size_t diagonal = row[0];
    row[0] = i + 1;
    for (std::size_t j = 0; j < b.size(); ++j) {
      const std::size_t replaced = diagonal + (a[i] == b[j] ? 0 : 1);
      diagonal = row[j + 1];
      row[j + 1] = std::min({replaced, row[j] + 1, row[j + 1] + 1});
    }
  }
  return row.back();
}

/// The one of `names` that `name` was probably meant to be; empty if none is close.
template <class Names>
std::string nearest_name(std::string_view name, const Names& names) {
  std::string nearest;
  std::size_t best = 2 + name.size() / 5;  // letters that may differ, and one
  std::string folded(name);
  std::replace(folded.begin(), folded.end(), '-', '_');
  for (const std::string_view known : names) {
    const std::size_t distance = edit_distance(folded, known);
    // A word that has nothing of the other is no misspelling of it.
    if (distance < best && distance < folded.size()) {
      best = distance;
      nearest = known;
    }
  }
  return nearest;
}
inline std::string nearest_option(std::string_view name) {
  std::vector<std::string_view> names;
  for (const argument_verdict& row : argument_table()) names.push_back(row.name);
  return nearest_name(name, names);
}

/// argparse: exact names win, else a prefix that exactly one option string has.
inline option_string resolve_option(const std::string& name) {
  static const std::vector<option_string> all = all_option_strings();
  // --no-x_y too, which argparse does not know.
  if (name.starts_with("no-") && name.find('_') != std::string::npos)
    return resolve_option("no_" + name.substr(3));
  std::vector<option_string> matches;
  for (const option_string& candidate : all) {
    if (candidate.text == name) return candidate;
    if (!name.empty() && candidate.text.starts_with(name)) matches.push_back(candidate);
  }
  if (matches.size() == 1) return matches.front();
  if (matches.empty()) {
    const std::string nearest = nearest_option(name);
    throw input_error("unknown option --" + name +
                      (nearest.empty()
                           ? "; --help-all lists every option"
                           : "; did you mean --" + nearest + "? (--help-all lists every option)"));
  }
  // A prefix that stops before the first separator matches both spellings of one argument: ambiguous in
  // argparse. With several arguments the dashed spellings only repeat the others.
  const bool one_argument = std::all_of(matches.begin(), matches.end(), [&](const option_string& match) {
    return match.row == matches.front().row && match.negated == matches.front().negated;
  });
  std::string list;
  for (const option_string& match : matches) {
    if (!one_argument && match.text.find('-') != std::string::npos) continue;
    list.append(list.empty() ? "--" : ", --").append(match.text);
  }
  throw input_error("ambiguous option: --" + name + " could match " + list);
}

/// argparse's test for a token that is not a value: a dash in front, no blank, not a negative number.
inline bool looks_like_option(std::string_view token) {
  if (token.size() < 2 || token.front() != '-') return false;
  if (token.find(' ') != std::string_view::npos && !token.starts_with("--")) return false;
  if (token.starts_with("--")) {
    const std::string_view name = token.substr(2, token.find('=') - 2);
    return name.find(' ') == std::string_view::npos;
  }
  // One dash: numbers, -1e-5 and -inf too, are values; nothing else starts so.
  const std::string_view rest = token.substr(1);
  const bool number = (rest.front() >= '0' && rest.front() <= '9') || rest.front() == '.' || rest == "inf";
  return !number;
}

inline void store(given_arguments& given, const option_string& option, std::vector<std::string> values) {
  const std::string name(option.row->name);
  const bool boolean = option.row->kind == argument_kind::flag ||
                       option.row->kind == argument_kind::on_flag ||
                       option.row->kind == argument_kind::optional_flag;
  if (boolean) {
    const bool value = values.empty() ? !option.negated : parse_boolean(name, values.front());
    values.assign(1, value ? "True" : "False");
  }
  if (option.row->kind == argument_kind::optional_value && values.empty()) values.assign(1, "True");
  given.insert_or_assign(name, std::move(values));
}

}  // namespace detail

/// All arguments from a JSON object {"learning_rate": 1e-4, ...}: exact names only, null means not given; an
/// object as a value, as "deepspeed" may have, is its text.
[[nodiscard]] inline given_arguments read_argument_file(const std::string& path) {
  const nlohmann::json root = read_strict_json(path);
  if (!root.is_object()) throw input_error(path + ": an object of arguments {...} is needed");
  const auto text_of = [](const nlohmann::json& value) {
    if (value.is_string()) return value.get<std::string>();
    if (value.is_boolean()) return std::string(value.get<bool>() ? "True" : "False");
    return value.dump();
  };
  given_arguments given;
  for (const auto& [key, value] : root.items()) {
    const argument_verdict* row = find_argument(key);
    if (row == nullptr) {
      const std::string nearest = detail::nearest_option(key);
      throw input_error(
          path + ": unknown argument \"" + key + "\"; " +
          (nearest.empty() ? "--help-all lists every argument" : "did you mean \"" + nearest + "\"?"));
    }
    if (value.is_null()) continue;
    std::vector<std::string> values;
    if (value.is_array()) {
      // What changes nothing may be a list, empty or not, as in Python ("debug": []).
      const bool is_idle = row->kind == argument_kind::value && row->outcome != verdict::honoured;
      if (row->kind != argument_kind::list && !is_idle)
        throw input_error(path + ": \"" + key + "\" takes one value, not a list");
      for (const nlohmann::json& item : value) values.push_back(text_of(item));
    } else {
      values.push_back(text_of(value));
    }
    detail::store(given, {key, row, false}, std::move(values));
  }
  return given;
}

/// Resolves the tokens after the program's name. A single token ending in .json is a file of all arguments.
/// Throws input_error for unknown and ambiguous options, missing values and stray words.
[[nodiscard]] inline given_arguments resolve_spelling(std::span<const std::string> tokens) {
  if (tokens.size() == 1 && tokens[0].ends_with(".json") && !tokens[0].starts_with("-")) {
    return read_argument_file(tokens[0]);
  }
  given_arguments given;
  for (std::size_t i = 0; i < tokens.size();) {
    const std::string& token = tokens[i++];
    if (token == "-h") {
      given["help"] = {"True"};
      continue;
    }
    if (!token.starts_with("--") || token == "--") {
      throw input_error(
          "'" + token +
          "' belongs to no option; options start with --, and a value with blanks needs quotes");
    }
    const std::size_t equals = token.find('=');
    const std::string name = token.substr(2, equals == std::string::npos ? equals : equals - 2);
    const detail::option_string option = detail::resolve_option(name);
    const bool takes_value_optionally = option.row->kind == argument_kind::flag ||
                                        option.row->kind == argument_kind::on_flag ||
                                        option.row->kind == argument_kind::optional_value;
    std::vector<std::string> values;
    if (equals != std::string::npos) {
      if (option.negated)
        throw input_error(token + ": --" + name + " takes no value; remove what follows '='");
      values.push_back(token.substr(equals + 1));
    } else if (!option.negated) {
      const bool many = option.row->kind == argument_kind::list;
      while (i < tokens.size() && !detail::looks_like_option(tokens[i]) && (many || values.empty())) {
        values.push_back(tokens[i++]);
      }
      if (values.empty() && !takes_value_optionally) {
        throw input_error("--" + std::string(option.row->name) + ": a value is needed after it");
      }
    }
    detail::store(given, option, std::move(values));
  }
  return given;
}

}  // namespace t5zero
