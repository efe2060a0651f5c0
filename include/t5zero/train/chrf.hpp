// chrF2 as sacreBLEU 2.x computes it by default: character n-grams up to 6, no words, beta 2, white space
// removed. Popovic 2015, "chrF: character n-gram F-score for automatic MT evaluation".
#pragma once

#include <array>
#include <cstddef>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include <t5zero/core/error.hpp>
#include <t5zero/core/integers.hpp>
#include <t5zero/train/bleu.hpp>

namespace t5zero {

inline constexpr std::string_view chrf_signature =
    "nrefs:1|case:mixed|eff:yes|nc:6|nw:0|space:no|version:2.6.0";

namespace detail {

/// The code points of a text without its white space, as one string each.
[[nodiscard]] inline std::vector<std::string> characters_of(std::string_view text) {
  std::vector<std::string> characters;
  while (!text.empty()) {
    if (const std::size_t space = white_space_at(text); space > 0) {
      text.remove_prefix(space);
      continue;
    }
    std::size_t length = 1;
    while (length < text.size() && (static_cast<unsigned char>(text[length]) >> 6) == 2) ++length;
    characters.emplace_back(text.substr(0, length));
    text.remove_prefix(length);
  }
  return characters;
}

}  // namespace detail

/// 0 to 100. `hypotheses` and `references`: the same number of segments. Throws contract_error if not.
[[nodiscard]] inline double corpus_chrf(std::span<const std::string> hypotheses,
                                        std::span<const std::string> references) {
  require(hypotheses.size() == references.size(), "corpus_chrf: as many references as hypotheses are needed");
  constexpr std::size_t orders = 6;
  constexpr double beta_squared = 4.0;
  struct sums {
    index_t hypothesis = 0, reference = 0, matches = 0;
  };
  std::array<sums, orders> all{};
  for (std::size_t i = 0; i < hypotheses.size(); ++i) {
    const std::vector<std::string> hypothesis = detail::characters_of(hypotheses[i]);
    const std::vector<std::string> reference = detail::characters_of(references[i]);
    for (std::size_t n = 1; n <= orders; ++n) {
      // A hypothesis longer than its whole reference is not held against it at orders that the reference
      // lacks.
      if (reference.size() < n) break;
      all[n - 1].reference += static_cast<index_t>(reference.size() - n + 1);
      if (hypothesis.size() < n) continue;
      all[n - 1].hypothesis += static_cast<index_t>(hypothesis.size() - n + 1);
      all[n - 1].matches +=
          detail::clipped_matches(detail::count_ngrams(hypothesis, n), detail::count_ngrams(reference, n));
    }
  }
  double precision = 0.0;
  double recall = 0.0;
  index_t effective = 0;
  for (const sums& of_order : all) {
    if (of_order.hypothesis == 0 || of_order.reference == 0) continue;
    precision += static_cast<double>(of_order.matches) / static_cast<double>(of_order.hypothesis);
    recall += static_cast<double>(of_order.matches) / static_cast<double>(of_order.reference);
    ++effective;
  }
  if (effective == 0 || precision + recall == 0.0) return 0.0;
  precision /= static_cast<double>(effective);
  recall /= static_cast<double>(effective);
  return 100.0 * (1.0 + beta_squared) * precision * recall / (beta_squared * precision + recall);
}

}  // namespace t5zero
