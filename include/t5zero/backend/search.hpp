// A search for the best continuations whose state lies in the backend's memory: its arrays, and the choices
// for one sentence, which hosts and devices make by the same code. Beam search is that of transformers from
// 4.50 on (generation/utils.py, _beam_search): 2 K candidates of K beams; those of the best K that end are
// finished hypotheses, scored sum / length^penalty; the best K that do not end go on.
#pragma once

#include <cstdint>

#include <t5zero/core/config.hpp>
#include <t5zero/core/integers.hpp>

namespace t5zero {

/// transformers' score of what must not be chosen.
inline constexpr float no_score = -1e9F;

/// Beams of a sentence that a search in the backend's memory takes.
inline constexpr int most_search_beams = 16;

/// What stays the same in a search. Lengths are tokens, the start token included.
struct search_rules {
  index_t beams = 1;
  index_t max_length = 0;
  index_t min_length = 0;    ///< the end is forbidden before
  index_t bound_length = 0;  ///< length by which a running beam's best score is judged; 0: its own
  bool stops_when_full = false;
  std::int32_t end_id = 1;
  const float* penalties = nullptr;  ///< [max_length]: n^length_penalty of n generated tokens
};

struct beam_candidate {
  float score = 0.0F;
  std::int32_t beam = 0;
  std::int32_t id = 0;

  /// A total order: by score, then beam, then id. A score is never NaN.
  [[nodiscard]] T5ZERO_HOST_DEVICE constexpr bool is_before(const beam_candidate& other) const {
    if (score != other.score) return score > other.score;
    return beam != other.beam ? beam < other.beam : id < other.id;
  }
};

/// n^length_penalty of the lengths that a step compares.
struct search_penalties {
  float now = 1.0F;    ///< of the rows' generated tokens, the next one included
  float bound = 1.0F;  ///< by which a running beam's best score is judged

  [[nodiscard]] T5ZERO_HOST_DEVICE static search_penalties of(const search_rules& rules, index_t length) {
    return {rules.penalties[length], rules.penalties[rules.bound_length > 0 ? rules.bound_length : length]};
  }
};

struct search_hypothesis {
  float score = 0.0F;
  std::int32_t length = 1;  ///< tokens, the start token included
  std::int32_t place = 0;   ///< among those of its sentence: where its tokens are kept
};

struct search_sentence {
  std::int32_t finished = 0;  ///< hypotheses, at most the beams
  std::int32_t closed = 0;    ///< none will be added
  std::int32_t failed = 0;    ///< closed without a result: none of its scores is finite
  std::int32_t length = 1;    ///< tokens of its rows, the start token included
};

namespace detail {

/// Keeps the best hypotheses of a sentence, descending; a newcomer must be strictly better than the worst.
template <class Keep>
T5ZERO_HOST_DEVICE void add_hypothesis(const search_rules& rules, const beam_candidate& end, index_t length,
                                       float penalty, search_sentence& sentence, search_hypothesis* finished,
                                       const Keep& keep) {
  const float score = end.score / penalty;
  const auto beams = static_cast<std::int32_t>(rules.beams);
  std::int32_t place = sentence.finished;
  if (sentence.finished == beams) {
    if (!(score > finished[beams - 1].score)) return;
    place = finished[beams - 1].place;
  } else {
    ++sentence.finished;
  }
  std::int32_t at = sentence.finished - 1;
  for (; at > 0 && score > finished[at - 1].score; --at) finished[at] = finished[at - 1];
  finished[at] = {score, static_cast<std::int32_t>(length) + 1, place};
  keep(place, end);
}

}  // namespace detail

/// One step of a sentence's beams, which have `length` tokens. merged: its `count` best continuations in
/// order, 2 K unless the vocabulary is smaller. finished: [K]. chosen: [K], the places in `merged` of the
/// beams that go on, unless the sentence is closed then. keep(place, candidate) notes what a finished
/// hypothesis consists of.
template <class Keep>
T5ZERO_HOST_DEVICE void choose_beams(const search_rules& rules, index_t length,
                                     const search_penalties& penalties, const beam_candidate* merged,
                                     index_t count, search_sentence& sentence, search_hypothesis* finished,
                                     std::int32_t* chosen, const Keep& keep) {
  const index_t beams = rules.beams;
  const bool is_last = length + 1 >= rules.max_length;
  index_t running = 0;
  for (index_t c = 0; c < count; ++c) {
    if (merged[c].id != rules.end_id && !is_last) {
      if (running < beams) chosen[running++] = static_cast<std::int32_t>(c);
      continue;
    }
    if (c >= beams) continue;                     // only the best K may end
    if (!(merged[c].score > no_score)) continue;  // a beam that does not exist yet, or a forbidden end
    detail::add_hypothesis(rules, merged[c], length, penalties.now, sentence, finished, keep);
  }
  if (running < beams || is_last) {  // the end, or a vocabulary without enough ways to go on
    sentence.closed = 1;
  } else if (sentence.finished == beams) {
    const float best_possible = merged[chosen[0]].score / penalties.bound;
    if (rules.stops_when_full || !(best_possible > finished[beams - 1].score)) sentence.closed = 1;
  }
  if (sentence.closed == 0 || sentence.finished > 0) return;
  // Over without an end among its best: the best beam is the hypothesis.
  if (merged[0].score > no_score)
    detail::add_hypothesis(rules, merged[0], length, penalties.now, sentence, finished, keep);
  else
    sentence.failed = 1;
}

/// The state of a search; row b * beams + k is beam k of sentence b. The rows of a closed sentence stay what
/// they are.
struct search_arrays {
  index_t sentences = 0;
  index_t beams = 1;
  index_t key_stride = 0;  ///< of key_rows
  const search_rules* rules = nullptr;
  search_sentence* states = nullptr;      ///< [sentences]
  search_hypothesis* finished = nullptr;  ///< [rows], those of a sentence by falling score
  float* scores = nullptr;                ///< [rows]: sums of log probabilities
  // What the next step of the decoder reads.
  std::int32_t* ids = nullptr;    ///< [rows]: last tokens
  index_t* cache_rows = nullptr;  ///< [rows]: where their keys and values go
  index_t* key_rows = nullptr;    ///< [rows, key_stride]: where those of all positions are
  index_t* key_counts = nullptr;  ///< [rows]: positions so far
  // From which tokens are put together at the end: entry [position, row].
  std::int32_t* tokens = nullptr;        ///< the token at a position
  std::int32_t* parents = nullptr;       ///< the beam at the position before
  std::int32_t* final_tokens = nullptr;  ///< [rows], by place of a hypothesis: its last token
  std::int32_t* final_beams = nullptr;   ///< [rows]: the beam that it ended
  /// [sentences], in memory that the program may read meanwhile: 1 from when one is closed; null: none.
  std::int32_t* closed = nullptr;

  [[nodiscard]] T5ZERO_HOST_DEVICE constexpr index_t rows() const { return sentences * beams; }
  /// Sentence b has been closed.
  T5ZERO_HOST_DEVICE void tell_closed(index_t b) const {
    if (closed != nullptr) closed[b] = 1;
  }
};

namespace detail {

/// The row of beam k of sentence b goes on with `id` at position `length`, as a successor of beam `parent`.
T5ZERO_HOST_DEVICE inline void extend_row(const search_arrays& search, index_t b, index_t k, index_t length,
                                          std::int32_t parent, std::int32_t id) {
  const index_t row = b * search.beams + k;
  const index_t cache_row = length * search.rows() + row;
  search.tokens[cache_row] = id;
  search.parents[cache_row] = parent;
  search.ids[row] = id;
  search.cache_rows[row] = cache_row;
  search.key_rows[row * search.key_stride + length] = cache_row;
  search.key_counts[row] = length + 1;
}
/// Position j of the beams of sentence b becomes that of their parents. held: `beams` values, `stride` apart.
T5ZERO_HOST_DEVICE inline void inherit_keys(const search_arrays& search, index_t b,
                                            const std::int32_t* parents, index_t j, index_t* held,
                                            index_t stride) {
  index_t* const keys = search.key_rows + b * search.beams * search.key_stride + j;
  constexpr index_t at_once = 4;  // loads that wait for each other are slow
  for (index_t first = 0; first < search.beams; first += at_once) {
    index_t loaded[at_once] = {};
    for (index_t i = 0; i < at_once; ++i)
      loaded[i] = keys[parents[first + i < search.beams ? first + i : 0] * search.key_stride];
    for (index_t i = 0; i < at_once; ++i)
      if (first + i < search.beams) held[(first + i) * stride] = loaded[i];
  }
  for (index_t k = 0; k < search.beams; ++k) keys[k * search.key_stride] = held[k * stride];
}
/// Greedy search: sentence b, which is not closed, goes on with `id`, its best token.
T5ZERO_HOST_DEVICE inline void extend_greedy(const search_arrays& search, const search_rules& rules,
                                             index_t b, float score, std::int32_t id) {
  search_sentence& state = search.states[b];
  if (!(score - score == 0.0F)) {  // not finite
    state.failed = state.closed = 1;
    search.tell_closed(b);
    return;
  }
  const index_t length = state.length;
  extend_row(search, b, 0, length, 0, id);
  state.length = static_cast<std::int32_t>(length) + 1;
  if (id != rules.end_id && length + 1 < rules.max_length) return;
  state.closed = 1;
  search.tell_closed(b);
}
/// What choose_beams' `keep` is for a search in arrays.
struct keep_end {
  search_arrays search;
  index_t b = 0;

  T5ZERO_HOST_DEVICE void operator()(std::int32_t place, const beam_candidate& end) const {
    search.final_tokens[b * search.beams + place] = end.id;
    search.final_beams[b * search.beams + place] = end.beam;
  }
};

}  // namespace detail

}  // namespace t5zero
