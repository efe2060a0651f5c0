// Sampling the next token from temperature, top-k and top-p (nucleus) filtered scores.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

#include <t5zero/backend/dropout.hpp>
#include <t5zero/model/generation_options.hpp>
#include <t5zero/tensor/tensor_view.hpp>

namespace t5zero::model {

/// A number in [0, 1) that depends on the seed, the sentence and the position alone: the same sentence gives
/// the same text in any batch.
[[nodiscard]] inline double sampling_uniform(std::uint32_t seed, std::uint32_t sentence, index_t position) {
  // No dropout site has this number: theirs are below 2^31 plus the head's bits (model/dropout_sites.hpp).
  constexpr std::uint32_t sampling_site = 0xffffffffU;
  const auto lanes =
      philox4x32({0, sentence, static_cast<std::uint32_t>(position), 0}, {seed, sampling_site});
  return static_cast<double>(lanes[0]) / 4294967296.0;
}

/// Picks one of a row's candidates. scores: [candidates], logits, descending (top-k is their number); they
/// are overwritten; one that is NaN is never picked while another is not. uniform: in [0, 1).
[[nodiscard]] inline index_t sample(const generation_options& options, vector_view<float> scores,
                                    double uniform) {
  const double shift = static_cast<double>(scores[0]);
  double total = 0.0;
  for (index_t i = 0; i < scores.size; ++i) {
    scores[i] = std::isnan(scores[i])
                    ? 0.0F
                    : static_cast<float>(std::exp((static_cast<double>(scores[i]) - shift) /
                                                  static_cast<double>(options.temperature)));
    total += static_cast<double>(scores[i]);
  }
  // top_p keeps each candidate before which less than top_p of the probability lies; always the first.
  double kept = 0.0;
  index_t count = 0;
  while (count < scores.size && (count == 0 || kept < static_cast<double>(options.top_p) * total))
    kept += static_cast<double>(scores[count++]);
  double target = uniform * kept;
  for (index_t i = 0; i + 1 < count; ++i) {
    target -= static_cast<double>(scores[i]);
    if (target < 0.0) return i;
  }
  // What rounding left over belongs to the last candidate that is possible at all.
  while (count > 1 && scores[count - 1] == 0.0F) --count;
  return count - 1;
}

}  // namespace t5zero::model
