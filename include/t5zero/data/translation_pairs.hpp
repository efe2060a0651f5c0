// Translation pairs from files: .jsonl, .json (an array, or lines), .csv, .tsv.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <istream>
#include <iterator>
#include <string>
#include <string_view>
#include <vector>

#include <nlohmann/json.hpp>

#include <t5zero/core/error.hpp>
#include <t5zero/core/integers.hpp>
#include <t5zero/core/utf8.hpp>
#include <t5zero/data/delimited_text.hpp>

namespace t5zero {

struct text_pair {
  std::string source;
  std::string target;
  bool has_target = true;  ///< false: to be translated, no reference is known
};

/// What to read of a file.
struct pair_options {
  std::string source_lang;  ///< the key: what stands before the first "_" ("en_XX" reads "en")
  std::string target_lang;
  index_t max_samples = -1;   ///< the first so many rows; -1: all
  bool needs_targets = true;  ///< false: rows without the target language are welcome
};

namespace detail {

inline std::string language_key(const std::string& lang) {
  return lang.substr(0, lang.find('_'));
}

inline void skip_byte_order_mark(std::istream& file) {
  std::array<char, 3> start{};
  file.read(start.data(), 3);
  if (std::string_view(start.data(), static_cast<std::size_t>(file.gcount())) == "\xef\xbb\xbf") return;
  file.clear();
  file.seekg(0);
}

/// Whether the first text is JSON's "[", behind any white space of JSON; the file stands where it stood.
inline bool begins_array(std::istream& file) {
  const auto start = file.tellg();
  char first = ' ';
  while ((first == ' ' || first == '\t' || first == '\n' || first == '\r') && file.get(first)) {
  }
  file.clear();
  file.seekg(start);
  return first == '[';
}

/// Passes over the line breaks before the first text, gives the count of lines. Blanks belong to the text: a
/// file of columns may begin with one.
inline index_t skip_blank(std::istream& file) {
  index_t lines = 0;
  while (file.peek() == '\n' || file.peek() == '\r') lines += file.get() == '\n' ? 1 : 0;
  return lines;
}

/// The index of the column that a language has in the first line.
inline std::size_t column_of(const std::vector<std::string>& names, const std::string& lang, const char* flag,
                             const std::string& where) {
  const std::string key = language_key(lang);
  const auto found = std::find(names.begin(), names.end(), key);
  if (found != names.end() && std::find(found + 1, names.end(), key) != names.end()) {
    throw input_error(where + ": two columns are named \"" + key + "\" (" + flag + " " + lang +
                      "); rename the one that is not meant");
  }
  if (found != names.end()) return static_cast<std::size_t>(found - names.begin());
  std::string there;
  for (const std::string& name : names) there.append(there.empty() ? "" : ", ").append(name);
  throw input_error(where + ": no column \"" + key + "\" (" + flag + " " + lang +
                    "); the first line must name the columns, it has: " + there);
}

/// Refuses the names of columns if the lines of the file end in carriage returns alone: all of it is then one
/// line.
inline void check_line_ends(const std::vector<std::string>& names, const std::string& where) {
  for (const std::string& name : names) {
    if (name.find('\r') == std::string::npos) continue;
    throw input_error(where +
                      ": the lines of the file end in carriage returns alone; convert it (tr '\\r' '\\n')");
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
  if (!options.needs_targets && !translation.contains(language_key(options.target_lang)))
    return {text(options.source_lang, "--source_lang"), "", false};
  return {text(options.source_lang, "--source_lang"), text(options.target_lang, "--target_lang")};
}

inline nlohmann::json parse_row(std::string_view text, const std::string& where) {
  try {
    return nlohmann::json::parse(text);
  } catch (const nlohmann::json::exception& e) {
    throw input_error(where + ": not JSON (" + e.what() + ")");
  }
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
  detail::skip_byte_order_mark(file);
  if (extension == ".json" && detail::begins_array(file)) {
    const std::string all(std::istreambuf_iterator<char>(file), {});
    index_t number = 0;
    for (std::size_t begin = 0, end = 0; end < all.size(); begin = end + 1) {
      end = std::min(all.find('\n', begin), all.size());
      check_utf8(std::string_view(all).substr(begin, end - begin), at_line(++number));
    }
    const nlohmann::json rows = detail::parse_row(all, path.string());
    if (rows.empty()) throw input_error(path.string() + ": no pairs; it needs at least one");
    for (std::size_t i = 0; i < rows.size() && !full(); ++i) {
      pairs.push_back(
          detail::pair_of_object(rows[i], options, path.string() + ": row " + std::to_string(i + 1)));
    }
    return pairs;
  }
  const index_t blank_lines = detail::skip_blank(file);
  if (file.peek() == std::ifstream::traits_type::eof()) {
    throw input_error(path.string() + ": the file is empty; it needs at least one pair");
  }
  if (extension == ".csv" || extension == ".tsv") {
    delimited_reader reader(file, extension == ".tsv" ? '\t' : ',', extension == ".csv", path.string(),
                            1 + blank_lines);
    std::vector<std::string> fields;
    reader.next(fields);
    const std::string header = at_line(reader.line());
    detail::check_line_ends(fields, header);
    const std::size_t source = detail::column_of(fields, options.source_lang, "--source_lang", header);
    const std::string key = detail::language_key(options.target_lang);
    const bool has_targets =
        options.needs_targets || std::find(fields.begin(), fields.end(), key) != fields.end();
    const std::size_t target =
        has_targets ? detail::column_of(fields, options.target_lang, "--target_lang", header) : source;
    const std::size_t columns = fields.size();
    while (!full() && reader.next(fields)) {
      const std::string here = at_line(reader.line());
      if (fields.size() != columns) {
        throw input_error(here + ": " + std::to_string(fields.size()) + " columns, the first line names " +
                          std::to_string(columns) +
                          "; quote fields that hold separators, remove stray line breaks");
      }
      for (const std::size_t column : {source, target}) {
        check_utf8(fields[column], here + ": column " + std::to_string(column + 1));
      }
      pairs.push_back({fields[source], has_targets ? fields[target] : "", has_targets});
    }
  } else {
    std::string line;
    for (index_t number = 1 + blank_lines; !full() && std::getline(file, line); ++number) {
      if (line.find_first_not_of(" \t\r") == std::string::npos) continue;
      const std::string here = at_line(number);
      check_utf8(line, here);
      pairs.push_back(detail::pair_of_object(detail::parse_row(line, here), options, here));
    }
  }
  if (file.bad()) throw io_error(path.string() + ": reading failed");
  if (pairs.empty()) throw input_error(path.string() + ": no pairs; it needs at least one");
  return pairs;
}

}  // namespace t5zero
