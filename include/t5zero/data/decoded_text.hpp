// What becomes of decoded text before it is scored or written.
#pragma once

#include <array>
#include <string>
#include <string_view>
#include <utility>

#include <t5zero/core/replaced.hpp>

namespace t5zero {

/// Without white space at both ends. ASCII's is enough: the tokenizer's normaliser turns every other kind
/// into a space before any piece is made.
[[nodiscard]] inline std::string stripped(std::string_view text) {
  static constexpr std::string_view space = " \t\n\v\f\r\x1c\x1d\x1e\x1f";
  const std::size_t first = text.find_first_not_of(space);
  if (first == std::string_view::npos) return {};
  return std::string(text.substr(first, text.find_last_not_of(space) - first + 1));
}

/// transformers' clean_up_tokenization: no space before punctuation and English contractions. The
/// replacements run one after another over the whole text, in this order.
[[nodiscard]] inline std::string clean_up_tokenization(std::string text) {
  static constexpr std::array<std::pair<std::string_view, std::string_view>, 10> replacements = {{
      {" .", "."},
      {" ?", "?"},
      {" !", "!"},
      {" ,", ","},
      {" ' ", "'"},
      {" n't", "n't"},
      {" 'm", "'m"},
      {" 's", "'s"},
      {" 've", "'ve"},
      {" 're", "'re"},
  }};
  for (const auto& [from, to] : replacements) text = replaced(text, from, to);
  return text;
}

}  // namespace t5zero
