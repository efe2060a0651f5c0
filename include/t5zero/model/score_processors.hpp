// What changes a row's scores before the next token is chosen: repetition penalty, forbidden n-grams, minimum
// length, forced tokens; in this order, as transformers applies its logits processors.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <span>

#include <t5zero/model/generation_options.hpp>
#include <t5zero/tensor/tensor_view.hpp>

namespace t5zero::model {

namespace detail {

inline constexpr float forbidden = -std::numeric_limits<float>::infinity();

/// Keskar et al. 2019: scores of tokens that were generated move towards improbable, once each.
inline void penalise_repetition(std::span<const std::int32_t> tokens, float penalty,
                                vector_view<float> scores) {
  for (std::size_t i = 0; i < tokens.size(); ++i) {
    const std::int32_t id = tokens[i];
    if (std::find(tokens.begin(), tokens.begin() + static_cast<std::ptrdiff_t>(i), id) !=
        tokens.begin() + static_cast<std::ptrdiff_t>(i))
      continue;
    float& score = scores[id];
    score = score < 0.0F ? score * penalty : score / penalty;
  }
}

/// Forbids each token that would complete an n-gram which the row holds already.
inline void forbid_repeated_ngrams(std::span<const std::int32_t> tokens, index_t n,
                                   vector_view<float> scores) {
  const auto size = static_cast<index_t>(tokens.size());
  if (size + 1 < n) return;
  const auto tail = tokens.last(static_cast<std::size_t>(n - 1));
  for (index_t start = 0; start + n <= size; ++start) {
    const auto gram = tokens.subspan(static_cast<std::size_t>(start), static_cast<std::size_t>(n - 1));
    if (std::equal(gram.begin(), gram.end(), tail.begin()))
      scores[tokens[static_cast<std::size_t>(start + n - 1)]] = forbidden;
  }
}

inline void force(std::int32_t id, vector_view<float> scores) {
  std::fill(scores.begin(), scores.end(), forbidden);
  scores[id] = 0.0F;
}

}  // namespace detail

/// `tokens`: of one row so far, the start token included. scores: [vocab_size], logits (greedy, sampling) or
/// log probabilities (beam search).
inline void process_scores(const generation_options& options, std::span<const std::int32_t> tokens,
                           vector_view<float> scores) {
  const auto length = static_cast<index_t>(tokens.size());
  if (options.repetition_penalty != 1.0F)
    detail::penalise_repetition(tokens, options.repetition_penalty, scores);
  if (options.no_repeat_ngram_size > 0)
    detail::forbid_repeated_ngrams(tokens, options.no_repeat_ngram_size, scores);
  if (length < options.min_length) scores[options.eos_token_id] = detail::forbidden;
  if (options.forced_bos_token_id && length == 1) detail::force(*options.forced_bos_token_id, scores);
  if (options.forced_eos_token_id && length == options.max_length - 1)
    detail::force(*options.forced_eos_token_id, scores);
}

}  // namespace t5zero::model
