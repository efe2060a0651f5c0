// The rows of a generation: their tokens, where their keys and values lie in the cache, and what follows them
// (beam search: backend/search.hpp).
//
// Keys and values never move when beams change places: a cache row belongs to (position, slot), and each row
// remembers in which slots its ancestors wrote.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <utility>
#include <vector>

#include <t5zero/backend/search.hpp>
#include <t5zero/core/error.hpp>
#include <t5zero/model/generation_options.hpp>
#include <t5zero/tensor/tensor_view.hpp>

namespace t5zero::model {

/// All memory is taken by the constructor. Use: start(); while rows() > 0 { score the rows' next tokens;
/// advance_...() }; read the hypotheses.
class search_state {
 public:
  search_state(index_t max_batch, index_t max_beams, index_t max_length)
      : max_rows_(max_batch * max_beams), max_length_(max_length), max_batch_(max_batch) {
    const auto rows = static_cast<std::size_t>(max_rows_);
    const auto cells = static_cast<std::size_t>(max_rows_ * max_length_);
    for (generation_rows* side : {&now_, &next_}) {
      side->tokens.resize(cells);
      side->key_rows.resize(cells);
      side->score.resize(rows);
      side->slot.resize(rows);
    }
    last_tokens_.resize(rows);
    cache_rows_.resize(rows);
    finished_tokens_.resize(cells);
    finished_.resize(rows);
    sentences_.resize(static_cast<std::size_t>(max_batch));
    active_.reserve(static_cast<std::size_t>(max_batch));
    merged_.reserve(static_cast<std::size_t>(max_beams * 2 * max_beams));
    chosen_.resize(static_cast<std::size_t>(max_beams));
    penalties_.resize(static_cast<std::size_t>(max_length));
  }

  /// Throws contract_error if the batch or the options exceed what the constructor was told.
  void start(index_t batch, const generation_options& options) {
    require(batch >= 1 && batch <= max_batch_ && batch * options.num_beams <= max_rows_ &&
                options.max_length <= max_length_,
            "search_state: a larger generation than was planned");
    rules_ = search_rules_of(options, penalties_.data());
    fill_penalties(options, penalties_.data());
    beams_ = options.num_beams;
    slots_ = batch * beams_;
    length_ = 1;
    active_.clear();
    std::fill_n(finished_.begin(), slots_, search_hypothesis{});
    for (index_t b = 0; b < batch; ++b) {
      active_.push_back(b);
      sentences_[static_cast<std::size_t>(b)] = {};
      for (index_t k = 0; k < beams_; ++k) {
        const auto row = static_cast<std::size_t>(b * beams_ + k);
        now_.slot[row] = static_cast<index_t>(row);
        now_.tokens[row * static_cast<std::size_t>(max_length_)] = options.decoder_start_token_id;
        // All beams are equal at first: only one of them may have successors.
        now_.score[row] = k == 0 ? 0.0F : no_score;
      }
    }
    place_rows();
  }

  /// Rows whose next token is wanted; 0: every sentence is done.
  [[nodiscard]] index_t rows() const { return static_cast<index_t>(active_.size()) * beams_; }
  /// Position of the rows' last tokens, from 0 on.
  [[nodiscard]] index_t position() const { return length_ - 1; }
  /// [rows]: the last token of each row.
  [[nodiscard]] const std::int32_t* last_tokens() const { return last_tokens_.data(); }
  /// [rows]: the row of the cache where the keys and values of the last tokens go.
  [[nodiscard]] const index_t* cache_rows() const { return cache_rows_.data(); }
  /// [rows, key_row_stride]: rows of the cache that hold positions 0 to position().
  [[nodiscard]] const index_t* key_rows() const { return now_.key_rows.data(); }
  [[nodiscard]] index_t key_row_stride() const { return max_length_; }
  /// Which sentence of the batch a row belongs to.
  [[nodiscard]] index_t sentence(index_t row) const {
    return active_[static_cast<std::size_t>(row / beams_)];
  }
  /// All tokens of a row, the start token included.
  [[nodiscard]] std::span<const std::int32_t> tokens(index_t row) const {
    return std::span(now_.tokens)
        .subspan(static_cast<std::size_t>(row * max_length_), static_cast<std::size_t>(length_));
  }

  /// Greedy search and sampling: row i goes on with ids[i].
  void advance_tokens(const std::int32_t* ids) {
    ++length_;
    index_t kept = 0;
    for (index_t row = 0; row < rows(); ++row) {
      const index_t b = sentence(row);
      const std::int32_t id = ids[row];
      now_.tokens[static_cast<std::size_t>(row * max_length_ + length_ - 1)] = id;
      if (id == rules_.end_id || length_ == rules_.max_length) {
        finish(b, row);
        sentences_[static_cast<std::size_t>(b)].finished = 1;
        continue;
      }
      if (kept != row) move_row(now_, row, now_, kept, length_);
      active_[static_cast<std::size_t>(kept++)] = b;
    }
    active_.resize(static_cast<std::size_t>(kept));
    place_rows();
  }

  /// Beam search. scores, ids: [rows, candidates], each row's best next tokens by log probability,
  /// descending; at least 2 * num_beams of them unless the vocabulary is smaller. Throws numeric_error if a
  /// sentence is over and none of its scores is finite.
  void advance_beams(matrix_view<const float> scores, matrix_view<const std::int32_t> ids) {
    index_t kept = 0;
    const auto sentences = static_cast<index_t>(active_.size());
    for (index_t a = 0; a < sentences; ++a) {
      const index_t b = active_[static_cast<std::size_t>(a)];
      merge_candidates(a, scores, ids);
      search_sentence& state = sentences_[static_cast<std::size_t>(b)];
      choose_beams(rules_, length_, search_penalties::of(rules_, length_), merged_.data(),
                   static_cast<index_t>(merged_.size()), state, finished_.data() + b * beams_, chosen_.data(),
                   [&](std::int32_t place, const beam_candidate& end) {
                     const index_t row = a * beams_ + end.beam;
                     now_.tokens[static_cast<std::size_t>(row * max_length_ + length_)] = end.id;
                     copy_finished(row, length_ + 1, b * beams_ + place);
                   });
      if (state.failed != 0) throw_not_finite();
      if (state.closed != 0) continue;
      for (index_t k = 0; k < beams_; ++k) {
        const beam_candidate& chosen =
            merged_[static_cast<std::size_t>(chosen_[static_cast<std::size_t>(k)])];
        const index_t to = kept * beams_ + k;
        move_row(now_, a * beams_ + chosen.beam, next_, to, length_);
        next_.tokens[static_cast<std::size_t>(to * max_length_ + length_)] = chosen.id;
        next_.score[static_cast<std::size_t>(to)] = chosen.score;
        next_.slot[static_cast<std::size_t>(to)] = b * beams_ + k;
      }
      active_[static_cast<std::size_t>(kept++)] = b;
    }
    active_.resize(static_cast<std::size_t>(kept));
    ++length_;
    std::swap(now_, next_);
    place_rows();
  }

  /// Generated tokens of the best hypothesis, the start token excluded, the end included if there is one.
  [[nodiscard]] std::span<const std::int32_t> best_tokens(index_t sentence) const {
    const search_hypothesis& best = finished_[static_cast<std::size_t>(sentence * beams_)];
    return std::span(finished_tokens_)
        .subspan(static_cast<std::size_t>((sentence * beams_ + best.place) * max_length_) + 1,
                 static_cast<std::size_t>(best.length - 1));
  }
  /// Its score: sum of log probabilities / length^length_penalty; 0 in greedy search and sampling.
  [[nodiscard]] float best_score(index_t sentence) const {
    return finished_[static_cast<std::size_t>(sentence * beams_)].score;
  }

 private:
  struct generation_rows {
    std::vector<std::int32_t> tokens;  ///< [max_rows, max_length]
    std::vector<index_t> key_rows;     ///< [max_rows, max_length]
    std::vector<float> score;          ///< [max_rows] sum of log probabilities
    std::vector<index_t> slot;         ///< [max_rows]
  };
  void move_row(const generation_rows& from, index_t from_row, generation_rows& to, index_t to_row,
                index_t length) const {
    const auto source = static_cast<std::ptrdiff_t>(from_row * max_length_);
    const auto target = static_cast<std::ptrdiff_t>(to_row * max_length_);
    std::copy_n(from.tokens.begin() + source, length, to.tokens.begin() + target);
    std::copy_n(from.key_rows.begin() + source, length, to.key_rows.begin() + target);
    to.slot[static_cast<std::size_t>(to_row)] = from.slot[static_cast<std::size_t>(from_row)];
    to.score[static_cast<std::size_t>(to_row)] = from.score[static_cast<std::size_t>(from_row)];
  }

  /// After the rows have a new last token: where its keys and values go.
  void place_rows() {
    for (index_t row = 0; row < rows(); ++row) {
      const auto last = static_cast<std::size_t>(row * max_length_ + length_ - 1);
      const index_t cache_row = (length_ - 1) * slots_ + now_.slot[static_cast<std::size_t>(row)];
      now_.key_rows[last] = cache_row;
      cache_rows_[static_cast<std::size_t>(row)] = cache_row;
      last_tokens_[static_cast<std::size_t>(row)] = now_.tokens[last];
    }
  }

  /// merged_: the best 2 K continuations of active sentence a, descending, ties by beam and token.
  void merge_candidates(index_t a, matrix_view<const float> scores, matrix_view<const std::int32_t> ids) {
    merged_.clear();
    for (index_t k = 0; k < beams_; ++k) {
      const index_t row = a * beams_ + k;
      for (index_t c = 0; c < scores.cols; ++c) {
        const float score = now_.score[static_cast<std::size_t>(row)] + scores(row, c);
        // NaN has no order: it is the worst.
        merged_.push_back({std::isnan(score) ? -std::numeric_limits<float>::infinity() : score,
                           static_cast<std::int32_t>(k), ids(row, c)});
      }
    }
    const auto wanted = static_cast<std::ptrdiff_t>(
        std::min<std::size_t>(merged_.size(), static_cast<std::size_t>(2 * beams_)));
    std::partial_sort(merged_.begin(), merged_.begin() + wanted, merged_.end(),
                      [](const beam_candidate& x, const beam_candidate& y) { return x.is_before(y); });
    merged_.resize(static_cast<std::size_t>(wanted));
  }

  /// Greedy search and sampling: the row of sentence b is its one hypothesis.
  void finish(index_t b, index_t row) {
    finished_[static_cast<std::size_t>(b)] = {0.0F, static_cast<std::int32_t>(length_), 0};
    copy_finished(row, length_, b);
  }
  void copy_finished(index_t row, index_t length, index_t place) {
    std::copy_n(now_.tokens.begin() + static_cast<std::ptrdiff_t>(row * max_length_), length,
                finished_tokens_.begin() + static_cast<std::ptrdiff_t>(place * max_length_));
  }

  index_t max_rows_;
  index_t max_length_;
  index_t max_batch_;
  search_rules rules_;
  std::vector<float> penalties_;  ///< [max_length]
  index_t beams_ = 1;
  index_t slots_ = 0;
  index_t length_ = 1;  ///< tokens of every active row, the start token included
  generation_rows now_;
  generation_rows next_;
  std::vector<std::int32_t> last_tokens_;
  std::vector<index_t> cache_rows_;
  std::vector<index_t> active_;  ///< sentences that go on; their rows stand one after another
  std::vector<search_sentence> sentences_;
  std::vector<search_hypothesis> finished_;    ///< [batch, num_beams]
  std::vector<std::int32_t> finished_tokens_;  ///< [rows, max_length]
  std::vector<beam_candidate> merged_;
  std::vector<std::int32_t> chosen_;
};

}  // namespace t5zero::model
