// Translation pairs from files: .jsonl, .json (an array, or lines), .csv, .tsv.
#pragma once

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>
#include <string>
#include <string_view>
#include <vector>

#include <nlohmann/json.hpp>

#include <t5zero/core/error.hpp>
#include <t5zero/core/integers.hpp>

namespace t5zero {

struct text_pair {
  std::string source;
  std::string target;
};

/// What to read of a file.
struct pair_options {
  std::string source_lang;  ///< the key: what stands before the first "_" ("en_XX" reads "en")
  std::string target_lang;
  index_t max_samples = -1;  ///< the first so many rows; -1: all
};

namespace detail {

inline std::string language_key(const std::string& lang) {
  return lang.substr(0, lang.find('_'));
}

/// Throws input_error naming the line and byte if `line` is not UTF-8.
inline void check_utf8(std::string_view line, const std::string& where) {
  for (std::size_t i = 0; i < line.size();) {
    const auto lead = static_cast<unsigned char>(line[i]);
    const std::size_t length = lead < 0x80         ? 1
                               : (lead >> 5) == 6  ? 2
                               : (lead >> 4) == 14 ? 3
                               : (lead >> 3) == 30 ? 4
                                                   : 0;
    bool good = length > 0 && i + length <= line.size() && lead != 0xc0 && lead != 0xc1 && lead < 0xf5;
    for (std::size_t j = 1; good && j < length; ++j)
      good = (static_cast<unsigned char>(line[i + j]) >> 6) == 2;
    if (!good) {
      throw input_error(where + ": not UTF-8 at byte " + std::to_string(i + 1) +
                        " of the line; convert the file (iconv -t UTF-8)");
    }
    i += length;
  }
}

/// The pair of one object {"translation": {"en": ..., "ro": ...}}.
inline text_pair pair_of_object(const nlohmann::json& row, const pair_options& options,
                                const std::string& where) {
  if (!row.is_object() || !row.contains("translation") || !row["translation"].is_object()) {
    throw input_error(where + R"(: expected an object {"translation": {")" +
                      language_key(options.source_lang) + R"(": "...", ")" +
                      language_key(options.target_lang) + R"(": "..."}})");
  }
  const nlohmann::json& translation = row["translation"];
  auto text = [&](const std::string& lang, const char* flag) {
    const std::string key = language_key(lang);
    if (!translation.contains(key)) {
      std::string keys;
      for (const auto& [name, value] : translation.items())
        keys.append(keys.empty() ? "" : ", ").append(name);
      throw input_error(where + ": no language \"" + key + "\" (" + flag + " " + lang +
                        "); the row has: " + (keys.empty() ? "nothing" : keys));
    }
    if (!translation[key].is_string()) throw input_error(where + ": \"" + key + "\" is not a text");
    return translation[key].get<std::string>();
  };
  return {text(options.source_lang, "--source_lang"), text(options.target_lang, "--target_lang")};
}

inline nlohmann::json parse_row(std::string_view text, const std::string& where) {
  try {
    return nlohmann::json::parse(text);
  } catch (const nlohmann::json::exception& e) {
    throw input_error(where + ": not JSON (" + e.what() + ")");
  }
}

/// Splits a line (already whole, also over quoted line breaks) at `separator`; RFC 4180 quotes.
inline std::vector<std::string> split_fields(std::string_view line, char separator) {
  std::vector<std::string> fields(1);
  bool quoted = false;
  for (std::size_t i = 0; i < line.size(); ++i) {
    const char c = line[i];
    if (c == '"' && quoted && i + 1 < line.size() && line[i + 1] == '"') {
      fields.back() += '"';
      ++i;
    } else if (c == '"' && (quoted || fields.back().empty())) {
      quoted = !quoted;
    } else if (c == separator && !quoted) {
      fields.emplace_back();
    } else {
      fields.back() += c;
    }
  }
  return fields;
}

}  // namespace detail

/// Reads a file's pairs in order. Throws input_error naming file and line.
[[nodiscard]] inline std::vector<text_pair> read_translation_pairs(const std::filesystem::path& path,
                                                                   const pair_options& options) {
  const std::string extension = path.extension().string();
  if (extension == ".parquet") {
    throw input_error(path.string() + ": Parquet files are not read yet; convert it to .jsonl");
  }
  if (extension != ".json" && extension != ".jsonl" && extension != ".csv" && extension != ".tsv") {
    throw input_error(path.string() + ": unknown kind of file; give .json, .jsonl, .csv or .tsv");
  }
  std::ifstream file(path, std::ios::binary);
  if (!file || std::filesystem::is_directory(path)) {
    throw input_error(path.string() + ": cannot be read; check that the file exists and may be read");
  }
  std::vector<text_pair> pairs;
  auto full = [&] {
    return options.max_samples >= 0 && static_cast<index_t>(pairs.size()) >= options.max_samples;
  };
  auto at_line = [&](index_t number) { return path.string() + ":" + std::to_string(number); };
  file >> std::ws;
  if (file.peek() == std::ifstream::traits_type::eof()) {
    throw input_error(path.string() + ": the file is empty; it needs at least one pair");
  }
  if (extension == ".json" && file.peek() == '[') {
    const std::string all(std::istreambuf_iterator<char>(file), {});
    detail::check_utf8(all, path.string());
    const nlohmann::json rows = detail::parse_row(all, path.string());
    for (std::size_t i = 0; i < rows.size() && !full(); ++i) {
      pairs.push_back(
          detail::pair_of_object(rows[i], options, path.string() + ": row " + std::to_string(i + 1)));
    }
    return pairs;
  }
  const bool is_table = extension == ".csv" || extension == ".tsv";
  const char separator = extension == ".tsv" ? '\t' : ',';
  std::size_t source_column = 0;
  std::size_t target_column = 0;
  bool has_header = false;
  std::string line;
  for (index_t number = 1; !full() && std::getline(file, line); ++number) {
    const index_t first_line = number;
    if (is_table && extension == ".csv") {
      // A quoted field may hold line breaks: an odd number of quotes means that the row goes on.
      std::string more;
      while (std::count(line.begin(), line.end(), '"') % 2 != 0 && std::getline(file, more)) {
        line += "\n" + more;
        ++number;
      }
    }
    if (!line.empty() && line.back() == '\r') line.pop_back();
    if (line.empty()) continue;
    detail::check_utf8(line, at_line(first_line));
    if (!is_table) {
      pairs.push_back(
          detail::pair_of_object(detail::parse_row(line, at_line(first_line)), options, at_line(first_line)));
      continue;
    }
    const std::vector<std::string> fields = detail::split_fields(line, separator);
    if (!has_header) {
      auto column = [&](const std::string& lang, const char* flag) {
        const auto found = std::find(fields.begin(), fields.end(), detail::language_key(lang));
        if (found == fields.end()) {
          throw input_error(at_line(first_line) + ": no column \"" + detail::language_key(lang) + "\" (" +
                            flag + " " + lang + "); the first line must name the columns");
        }
        return static_cast<std::size_t>(found - fields.begin());
      };
      source_column = column(options.source_lang, "--source_lang");
      target_column = column(options.target_lang, "--target_lang");
      has_header = true;
      continue;
    }
    if (fields.size() <= std::max(source_column, target_column)) {
      throw input_error(at_line(first_line) + ": only " + std::to_string(fields.size()) +
                        " columns; the first line names more");
    }
    pairs.push_back({fields[source_column], fields[target_column]});
  }
  if (pairs.empty()) throw input_error(path.string() + ": no pairs; it needs at least one");
  return pairs;
}

}  // namespace t5zero
