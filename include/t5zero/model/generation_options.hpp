// How sentences are generated. Names, defaults and meanings are those of transformers' GenerationConfig.
#pragma once

#include <cmath>
#include <cstdint>
#include <optional>
#include <string>

#include <t5zero/backend/search.hpp>
#include <t5zero/core/error.hpp>
#include <t5zero/core/integers.hpp>
#include <t5zero/plan/generation_plan.hpp>

namespace t5zero {

/// When a sentence's beam search is over: as soon as num_beams hypotheses are finished; when the best running
/// beam can no longer beat the worst of them at its present length; or at any length up to max_length.
enum class early_stopping_rule : std::uint8_t { when_full, heuristic, never };

struct generation_options {
  index_t max_length = 21;  ///< tokens, the start token included
  index_t min_length = 0;   ///< tokens, the start token included; the end is forbidden before
  index_t num_beams = 1;    ///< 1: greedy, or sampling with do_sample
  double length_penalty = 1.0;
  early_stopping_rule early_stopping = early_stopping_rule::heuristic;
  index_t no_repeat_ngram_size = 0;  ///< 0: off
  float repetition_penalty = 1.0F;   ///< Keskar et al. 2019, section 4.1; 1: off
  std::optional<std::int32_t> forced_bos_token_id, forced_eos_token_id;
  bool do_sample = false;
  float temperature = 1.0F;
  index_t top_k = 50;  ///< 0: off
  float top_p = 1.0F;  ///< Holtzman et al. 2020; 1: off
  std::uint32_t seed = 42;
  std::int32_t decoder_start_token_id = 0;
  std::int32_t eos_token_id = 1;

  /// Whether something changes the model's scores before the choice.
  [[nodiscard]] bool processes_scores() const {
    return min_length > 1 || no_repeat_ngram_size > 0 || repetition_penalty != 1.0F || forced_bos_token_id ||
           forced_eos_token_id;
  }
  /// Best next tokens of a row that the choice looks at.
  [[nodiscard]] index_t candidates(index_t vocab_size) const {
    if (num_beams > 1) return 2 * num_beams < vocab_size ? 2 * num_beams : vocab_size;
    if (!do_sample) return 1;
    return top_k > 0 && top_k < vocab_size ? top_k : vocab_size;
  }
  [[nodiscard]] generation_shape shape(index_t vocab_size) const {
    return {num_beams, max_length, candidates(vocab_size)};
  }
};

/// Can the backend search by itself, token after token: greedily or with beams, by the model's scores as they
/// are, but for a minimum length? What else there is looks at tokens or draws numbers on the host.
[[nodiscard]] inline bool device_can_search(const generation_options& options) {
  return !options.do_sample && options.num_beams <= most_search_beams && options.no_repeat_ngram_size == 0 &&
         options.repetition_penalty == 1.0F && !options.forced_bos_token_id && !options.forced_eos_token_id;
}

/// The options as a search reads them. penalties: [max_length], filled by fill_penalties.
[[nodiscard]] inline search_rules search_rules_of(const generation_options& options, const float* penalties) {
  search_rules rules;
  rules.beams = options.num_beams;
  rules.max_length = options.max_length;
  rules.min_length = options.min_length;
  const bool any_length =
      options.early_stopping == early_stopping_rule::never && options.length_penalty > 0.0;
  rules.bound_length = any_length ? options.max_length - 1 : 0;
  rules.stops_when_full = options.early_stopping == early_stopping_rule::when_full;
  rules.end_id = options.eos_token_id;
  rules.penalties = penalties;
  return rules;
}
/// penalties[n] = n^length_penalty, n < max_length.
inline void fill_penalties(const generation_options& options, float* penalties) {
  for (index_t n = 0; n < options.max_length; ++n)
    penalties[n] = static_cast<float>(std::pow(static_cast<double>(n), options.length_penalty));
}

/// Throws contract_error for values that make no sense; the command line's own checks name its flags.
inline void check_generation_options(const generation_options& options, index_t vocab_size) {
  require(options.max_length >= 2,
          "generation_options: max_length counts the start token, so it is at least 2");
  require(options.num_beams >= 1 && options.num_beams <= vocab_size,
          "generation_options: num_beams is at least 1 and at most the vocabulary");
  require(options.min_length >= 0 && options.no_repeat_ngram_size >= 0 && options.top_k >= 0,
          "generation_options: min_length, no_repeat_ngram_size and top_k are not negative");
  require(options.repetition_penalty > 0.0F && options.temperature > 0.0F,
          "generation_options: repetition_penalty and temperature are positive");
  require(options.top_p > 0.0F && options.top_p <= 1.0F, "generation_options: top_p is in (0, 1]");
  require(options.num_beams == 1 || !options.do_sample,
          "generation_options: sampling (do_sample) goes with num_beams 1");
  const auto is_token = [&](std::int32_t id) { return id >= 0 && id < vocab_size; };
  require(is_token(options.decoder_start_token_id) && is_token(options.eos_token_id) &&
              is_token(options.forced_bos_token_id.value_or(0)) &&
              is_token(options.forced_eos_token_id.value_or(0)),
          "generation_options: a token id is not in [0, vocab_size)");
}

/// Of a search in which a sentence has no hypothesis, or no next token: greedy search and sampling, where NaN
/// counts as -inf, would go on with the first of the vocabulary.
[[noreturn]] inline void throw_not_finite() {
  throw numeric_error(
      "generation: the scores of a sentence are not finite, so nothing of it is a translation; the "
      "weights are not finite, or fp16 overflowed: use --bf16 or fp32");
}

}  // namespace t5zero
