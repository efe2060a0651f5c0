// Records of .csv (RFC 4180) and .tsv (no quoting) files.
#pragma once

#include <istream>
#include <string>
#include <utility>
#include <vector>

#include <t5zero/core/error.hpp>
#include <t5zero/core/integers.hpp>

namespace t5zero {

/// Reads one record after another. In .csv a field that begins with a quote ends at the next single quote,
/// may hold separators and line breaks, and has "" for a quote; a quote elsewhere is an ordinary character.
/// In .tsv all quotes are ordinary. Empty lines are passed over.
class delimited_reader {
 public:
  /// `name` stands for the file in messages, `line` is the number of the first line of `text` in it. `text`
  /// must outlive the reader.
  delimited_reader(std::istream& text, char separator, bool quotes, std::string name, index_t line = 1)
      : text_(*text.rdbuf()), separator_(separator), quotes_(quotes), name_(std::move(name)), line_(line) {}

  /// The line on which the last record began, from 1.
  [[nodiscard]] index_t line() const { return first_line_; }

  /// False at the end of the text. Throws input_error for a quote that is never closed.
  bool next(std::vector<std::string>& fields) {
    using traits = std::streambuf::traits_type;
    fields.assign(1, "");
    first_line_ = line_;
    bool quoted = false;
    bool field_begins = true;
    bool any = false;
    for (auto got = text_.sbumpc();; got = text_.sbumpc()) {
      if (traits::eq_int_type(got, traits::eof())) {
        if (quoted) {
          throw input_error(name_ + ":" + std::to_string(quote_line_) +
                            ": a quote is opened here and never closed; close it, or write \"\" for a quote "
                            "inside a quoted field");
        }
        if (any) drop_carriage_return(fields.back());
        return any;
      }
      const char c = traits::to_char_type(got);
      if (c == '\n') ++line_;
      if (quoted) {
        if (c != '"') {
          fields.back() += c;
        } else if (traits::eq_int_type(text_.sgetc(), traits::to_int_type('"'))) {
          fields.back() += c;
          text_.sbumpc();
        } else {
          quoted = false;
        }
      } else if (c == '\n') {
        drop_carriage_return(fields.back());
        if (fields.size() > 1 || !fields.back().empty()) return true;
        fields.assign(1, "");
        first_line_ = line_;
        field_begins = true;
        any = false;
        continue;
      } else if (quotes_ && c == '"' && field_begins) {
        quoted = true;
        quote_line_ = line_;
      } else if (c == separator_) {
        fields.emplace_back();
        field_begins = true;
        any = true;
        continue;
      } else {
        fields.back() += c;
      }
      field_begins = false;
      any = true;
    }
  }

 private:
  static void drop_carriage_return(std::string& field) {
    if (!field.empty() && field.back() == '\r') field.pop_back();
  }

  std::streambuf& text_;
  char separator_;
  bool quotes_;
  std::string name_;
  index_t line_;
  index_t first_line_ = 1;
  index_t quote_line_ = 1;
};

}  // namespace t5zero
