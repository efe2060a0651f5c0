// Corpus BLEU as sacreBLEU 2.x computes it by default: mixed case, 13a tokenisation, exponential smoothing,
// one reference. Papineni et al. 2002; Post 2018, "A Call for Clarity in Reporting BLEU Scores"; the
// tokenisation is that of mteval-v13a.pl.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdio>
#include <limits>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include <t5zero/core/error.hpp>
#include <t5zero/core/integers.hpp>
#include <t5zero/core/replaced.hpp>

namespace t5zero {

namespace detail {

/// Bytes of the Unicode white space that `text` starts with (Python's str.isspace), or 0.
[[nodiscard]] inline std::size_t white_space_at(std::string_view text) {
  const auto byte = [&](std::size_t i) { return i < text.size() ? static_cast<unsigned char>(text[i]) : 0U; };
  const unsigned first = byte(0);
  if ((first >= 0x09 && first <= 0x0d) || (first >= 0x1c && first <= 0x20)) return 1;
  if (first == 0xc2) return byte(1) == 0x85 || byte(1) == 0xa0 ? 2 : 0;
  if (first == 0xe1) return byte(1) == 0x9a && byte(2) == 0x80 ? 3 : 0;
  if (first == 0xe3) return byte(1) == 0x80 && byte(2) == 0x80 ? 3 : 0;
  if (first != 0xe2) return 0;
  const unsigned last = byte(2);
  const bool general =
      byte(1) == 0x80 && ((last >= 0x80 && last <= 0x8a) || last == 0xa8 || last == 0xa9 || last == 0xaf);
  return general || (byte(1) == 0x81 && last == 0x9f) ? 3 : 0;
}

/// str.split(): the words between white space.
[[nodiscard]] inline std::vector<std::string> words_of(std::string_view text) {
  std::vector<std::string> words;
  std::string word;
  while (!text.empty()) {
    const std::size_t space = white_space_at(text);
    if (space == 0) {
      word += text.front();
      text.remove_prefix(1);
      continue;
    }
    if (!word.empty()) words.push_back(std::move(word));
    word.clear();
    text.remove_prefix(space);
  }
  if (!word.empty()) words.push_back(std::move(word));
  return words;
}

[[nodiscard]] constexpr bool is_digit(char c) {
  return c >= '0' && c <= '9';
}
[[nodiscard]] constexpr bool is_point(char c) {
  return c == '.' || c == ',';
}

/// One substitution of 13a: where first(c) and second(next) hold, `out(result, c, next)` takes their place.
/// Bytes do for code points: continuation bytes are neither digits nor points, and are copied as they are.
template <class First, class Second, class Out>
[[nodiscard]] std::string substituted(const std::string& text, const First& first, const Second& second,
                                      const Out& out) {
  std::string result;
  std::size_t i = 0;
  while (i < text.size()) {
    if (i + 1 < text.size() && first(text[i]) && second(text[i + 1])) {
      out(result, text[i], text[i + 1]);
      i += 2;
    } else {
      result += text[i++];
    }
  }
  return result;
}

}  // namespace detail

/// The 13a tokenisation of one segment, tokens joined by single spaces.
[[nodiscard]] inline std::string tokenize_13a(std::string_view segment) {
  std::string text = replaced(segment, "<skipped>", "");
  text = replaced(text, "-\n", "");
  text = replaced(text, "\n", " ");
  if (text.find('&') != std::string::npos) {
    text = replaced(text, "&quot;", "\"");
    text = replaced(text, "&amp;", "&");
    text = replaced(text, "&lt;", "<");
    text = replaced(text, "&gt;", ">");
  }
  std::string spaced = " ";
  for (const char c : text) {
    const bool separate = (c >= '{' && c <= '~') || (c >= '[' && c <= '`') || (c >= ' ' && c <= '&') ||
                          (c >= '(' && c <= '+') || (c >= ':' && c <= '@') || c == '/';
    if (separate) {
      spaced.append(1, ' ').append(1, c).append(1, ' ');
    } else {
      spaced += c;
    }
  }
  spaced += ' ';
  const auto no_digit = [](char c) { return !detail::is_digit(c); };
  spaced = detail::substituted(spaced, no_digit, detail::is_point, [](std::string& to, char a, char b) {
    to.append(1, a).append(1, ' ').append(1, b).append(1, ' ');
  });
  spaced = detail::substituted(spaced, detail::is_point, no_digit, [](std::string& to, char a, char b) {
    to.append(1, ' ').append(1, a).append(1, ' ').append(1, b);
  });
  spaced = detail::substituted(
      spaced, detail::is_digit, [](char c) { return c == '-'; },
      [](std::string& to, char a, char b) { to.append(1, a).append(1, ' ').append(1, b).append(1, ' '); });
  std::string joined;
  for (const std::string& word : detail::words_of(spaced))
    joined.append(joined.empty() ? "" : " ").append(word);
  return joined;
}

/// Sums over a corpus.
struct bleu_score {
  static constexpr std::size_t orders = 4;

  double score = 0.0;                       ///< 0 to 100
  std::array<double, orders> precisions{};  ///< smoothed, 0 to 100
  std::array<index_t, orders> matches{};
  std::array<index_t, orders> totals{};
  double brevity_penalty = 0.0;
  index_t hypothesis_length = 0;  ///< tokens
  index_t reference_length = 0;   ///< tokens

  /// "BLEU = 27.12 58.1/33.0/21.2/14.1 (BP = 0.987 ratio = 0.987 hyp_len = 123 ref_len = 125)".
  [[nodiscard]] std::string text() const {
    const double ratio = reference_length > 0
                             ? static_cast<double>(hypothesis_length) / static_cast<double>(reference_length)
                             : 0.0;
    char line[256];
    std::snprintf(line, sizeof(line),
                  "BLEU = %.2f %.1f/%.1f/%.1f/%.1f (BP = %.3f ratio = %.3f hyp_len = %lld ref_len = %lld)",
                  score, precisions[0], precisions[1], precisions[2], precisions[3], brevity_penalty, ratio,
                  static_cast<long long>(hypothesis_length), static_cast<long long>(reference_length));
    return line;
  }
};

/// What the score depends on, in sacreBLEU's words.
inline constexpr std::string_view bleu_signature =
    "nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:2.6.0";

namespace detail {

using ngram_counts = std::unordered_map<std::string, index_t>;

/// Counts of the n-grams of `words`; tokens hold no spaces, so a space joins them.
[[nodiscard]] inline ngram_counts count_ngrams(const std::vector<std::string>& words, std::size_t n) {
  ngram_counts counts;
  for (std::size_t i = 0; i + n <= words.size(); ++i) {
    std::string ngram = words[i];
    for (std::size_t j = 1; j < n; ++j) ngram.append(" ").append(words[i + j]);
    ++counts[ngram];
  }
  return counts;
}

/// Matches of a hypothesis's n-grams, each at most as often as the reference has it.
template <class Counts>
[[nodiscard]] index_t clipped_matches(const Counts& hypothesis, const Counts& reference) {
  index_t matches = 0;
  for (const auto& [ngram, count] : hypothesis) {
    const auto found = reference.find(ngram);
    if (found != reference.end()) matches += std::min(count, found->second);
  }
  return matches;
}

}  // namespace detail

/// `hypotheses` and `references`: the same number of segments. Throws contract_error if not.
[[nodiscard]] inline bleu_score corpus_bleu(std::span<const std::string> hypotheses,
                                            std::span<const std::string> references) {
  require(hypotheses.size() == references.size(), "corpus_bleu: as many references as hypotheses are needed");
  bleu_score result;
  for (std::size_t i = 0; i < hypotheses.size(); ++i) {
    const auto tokens = [](std::string_view segment) {
      // sacreBLEU strips the right end before tokenising.
      std::size_t end = 0;
      for (std::size_t at = 0; at < segment.size();) {
        const std::size_t space = detail::white_space_at(segment.substr(at));
        at += std::max<std::size_t>(space, 1);
        if (space == 0) end = at;
      }
      return detail::words_of(tokenize_13a(segment.substr(0, end)));
    };
    const std::vector<std::string> hypothesis = tokens(hypotheses[i]);
    const std::vector<std::string> reference = tokens(references[i]);
    result.hypothesis_length += static_cast<index_t>(hypothesis.size());
    result.reference_length += static_cast<index_t>(reference.size());
    for (std::size_t n = 1; n <= bleu_score::orders; ++n) {
      if (hypothesis.size() < n) break;
      result.totals[n - 1] += static_cast<index_t>(hypothesis.size() - n + 1);
      result.matches[n - 1] +=
          detail::clipped_matches(detail::count_ngrams(hypothesis, n), detail::count_ngrams(reference, n));
    }
  }
  const auto length = static_cast<double>(result.hypothesis_length);
  const auto reference_length = static_cast<double>(result.reference_length);
  result.brevity_penalty = result.hypothesis_length >= result.reference_length ? 1.0
                           : result.hypothesis_length == 0                     ? 0.0
                                                           : std::exp(1.0 - reference_length / length);
  if (std::all_of(result.matches.begin(), result.matches.end(), [](index_t m) { return m == 0; }))
    return result;
  double smoothing = 1.0;
  for (std::size_t n = 0; n < bleu_score::orders && result.totals[n] > 0; ++n) {
    const auto total = static_cast<double>(result.totals[n]);
    if (result.matches[n] == 0) smoothing *= 2.0;
    result.precisions[n] = result.matches[n] == 0 ? 100.0 / (smoothing * total)
                                                  : 100.0 * static_cast<double>(result.matches[n]) / total;
  }
  double log_sum = 0.0;
  for (const double precision : result.precisions)
    log_sum += precision > 0.0 ? std::log(precision) : -9999999999.0;
  result.score = result.brevity_penalty * std::exp(log_sum / static_cast<double>(bleu_score::orders));
  return result;
}

}  // namespace t5zero
