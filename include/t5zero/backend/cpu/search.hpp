// A search whose state lies in arrays (backend/search.hpp), advanced by one token: the reference of what GPUs
// do.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include <t5zero/backend/cpu/execution.hpp>
#include <t5zero/backend/cpu/top_candidates.hpp>
#include <t5zero/backend/search.hpp>
#include <t5zero/tensor/tensor_view.hpp>

namespace t5zero::cpu {

/// The best next tokens of rows [first_row, + logits.rows) of a search, by log probability; without the end
/// while a row is shorter than min_length. Without beams, by logit, and each row goes on with its best one.
/// logits are used up.
inline void rank_tokens(execution& execution, const search_arrays& search, index_t first_row,
                        matrix_view<float> logits, matrix_view<float> scores, matrix_view<std::int32_t> ids) {
  if (search.beams > 1) log_softmax_rows(execution, logits);
  for (index_t row = 0; row < logits.rows; ++row) {
    if (search.key_counts[first_row + row] < search.rules->min_length)
      logits(row, search.rules->end_id) = -std::numeric_limits<float>::infinity();
  }
  top_candidates(execution, logits, scores, ids);
  if (search.beams > 1) return;
  for (index_t row = 0; row < logits.rows; ++row) {
    const index_t b = first_row + row;
    if (search.states[b].closed == 0)
      t5zero::detail::extend_greedy(search, *search.rules, b, scores(row, 0), ids(row, 0));
  }
}

/// Every sentence with beams that is not closed goes on by one token. scores, ids: [rows, candidates] of
/// rank_tokens.
inline void advance_search(execution& /*execution*/, const search_arrays& search,
                           matrix_view<const float> scores, matrix_view<const std::int32_t> ids) {
  const search_rules& rules = *search.rules;
  const index_t beams = search.beams;
  std::vector<beam_candidate> merged;
  std::vector<std::int32_t> chosen(static_cast<std::size_t>(beams));
  std::vector<std::int32_t> parents(static_cast<std::size_t>(beams));
  std::vector<index_t> held(static_cast<std::size_t>(beams));
  for (index_t b = 0; b < search.sentences; ++b) {
    search_sentence& state = search.states[b];
    if (state.closed != 0) continue;
    merged.clear();
    for (index_t k = 0; k < beams; ++k) {
      const index_t row = b * beams + k;
      for (index_t c = 0; c < scores.cols; ++c) {
        const float score = search.scores[row] + scores(row, c);
        merged.push_back({detail::ordered_score(score), static_cast<std::int32_t>(k), ids(row, c)});
      }
    }
    std::sort(merged.begin(), merged.end(),
              [](const beam_candidate& x, const beam_candidate& y) { return x.is_before(y); });
    const index_t count = std::min(2 * beams, static_cast<index_t>(merged.size()));
    choose_beams(rules, state.length, search_penalties::of(rules, state.length), merged.data(), count, state,
                 search.finished + b * beams, chosen.data(), t5zero::detail::keep_end{search, b});
    if (state.closed != 0) {
      search.tell_closed(b);
      continue;
    }
    const index_t length = state.length++;
    for (std::size_t k = 0; k < chosen.size(); ++k)
      parents[k] = merged[static_cast<std::size_t>(chosen[k])].beam;
    for (index_t j = 0; j < length; ++j)
      t5zero::detail::inherit_keys(search, b, parents.data(), j, held.data(), 1);
    for (index_t k = 0; k < beams; ++k) {
      const beam_candidate& next = merged[static_cast<std::size_t>(chosen[static_cast<std::size_t>(k)])];
      search.scores[b * beams + k] = next.score;
      t5zero::detail::extend_row(search, b, k, length, next.beam, next.id);
    }
  }
}

}  // namespace t5zero::cpu
