// A search in the backend's memory as the program sees it: what it begins with, where its arrays are, and how
// tokens are put together at its end. backend/search.hpp says what the arrays hold.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <vector>

#include <t5zero/backend/search.hpp>
#include <t5zero/core/error.hpp>
#include <t5zero/model/generation_options.hpp>
#include <t5zero/nn/decode.hpp>
#include <t5zero/plan/generation_plan.hpp>
#include <t5zero/tensor/batch_view.hpp>

namespace t5zero::model {

/// All memory of the program is taken by the constructor; `plan` outlives the search.
class device_search {
 public:
  /// sentences: at most. arena: the backend's memory. host: search_host_bytes(sentences) that the backend
  /// writes to.
  device_search(std::byte* arena, std::byte* host, const generation_plan& plan, index_t sentences,
                const generation_shape& largest)
      : arena_(arena),
        closed_(reinterpret_cast<std::int32_t*>(host)),
        plan_(&plan),
        max_sentences_(sentences),
        max_length_(largest.max_length),
        start_(static_cast<std::size_t>(plan.search.bytes > 0 ? places().start_bytes : 0)),
        end_(static_cast<std::size_t>(plan.search.bytes)) {
    tokens_.reserve(static_cast<std::size_t>(max_length_));
  }

  /// The block that a search of this batch begins with; it goes to start_place(). No search runs meanwhile.
  std::span<const std::byte> start(const batch_view& batch, const generation_options& options) {
    sentences_ = batch.source.batch;
    beams_ = options.num_beams;
    require(sentences_ <= max_sentences_ && rows() <= plan_->rows && options.max_length <= max_length_,
            "device_search: a larger generation than was planned");
    std::fill(start_.begin(), start_.end(), std::byte{});
    const search_arrays first = arrays(start_.data());
    search_rules rules = search_rules_of(options, at<float>(arena_block(), places().penalties));
    std::memcpy(start_.data() + places().rules.offset, &rules, sizeof(rules));
    fill_penalties(options, at<float>(start_.data(), places().penalties));
    std::fill_n(first.states, sentences_, search_sentence{});
    std::fill_n(closed_, sentences_, 0);
    std::fill_n(first.finished, rows(), search_hypothesis{});
    auto* const first_source = at<index_t>(start_.data(), places().inputs.first_source);
    auto* const source_counts = at<index_t>(start_.data(), places().inputs.source_counts);
    for (index_t row = 0; row < rows(); ++row) {
      // All beams are equal at first: only one of them may have successors.
      first.scores[row] = row % beams_ == 0 ? 0.0F : no_score;
      first.ids[row] = options.decoder_start_token_id;
      first.cache_rows[row] = first.key_rows[row * max_length_] = row;
      first.key_counts[row] = 1;
      first_source[row] = batch.source.offsets[row / beams_];
      source_counts[row] = batch.source.length(row / beams_);
    }
    return start_;
  }
  [[nodiscard]] std::byte* start_place() const { return arena_block(); }

  [[nodiscard]] index_t rows() const { return sentences_ * beams_; }
  [[nodiscard]] search_arrays arrays() const { return arrays(arena_block()); }
  /// The decoder's next step.
  [[nodiscard]] nn::decode_rows next_step(const batch_view& staged) const {
    const search_arrays search = arrays();
    nn::decode_rows step;
    step.rows = rows();
    step.ids = search.ids;
    step.cache_rows = search.cache_rows;
    step.self_keys = {.table = search.key_rows,
                      .stride = max_length_,
                      .counts = search.key_counts,
                      .max_count = max_length_};
    step.cross_keys = {.first = at<const index_t>(arena_block(), places().inputs.first_source),
                       .counts = at<const index_t>(arena_block(), places().inputs.source_counts),
                       .max_count = staged.source.max_length};
    return step;
  }

  /// Are all sentences closed? Says so at the latest when the steps that closed them have been waited for.
  [[nodiscard]] bool all_closed() const {
    return std::all_of(closed_, closed_ + sentences_, [](std::int32_t& closed) {
      return std::atomic_ref<std::int32_t>(closed).load(std::memory_order_relaxed) != 0;
    });
  }

  /// The whole block, to which the result is copied before read().
  [[nodiscard]] std::span<std::byte> end_block() { return end_; }
  /// Puts the best hypotheses together: use(sentence, tokens without the start token, score). Throws
  /// numeric_error if a sentence has none.
  template <class Use>
  void read(const Use& use) {
    const search_arrays last = arrays(end_.data());
    for (index_t b = 0; b < sentences_; ++b) {
      const search_sentence& state = last.states[b];
      if (state.failed != 0) throw_not_finite();
      search_hypothesis best{0.0F, state.length, 0};
      tokens_.clear();
      index_t beam = 0;
      if (beams_ > 1) {
        best = last.finished[b * beams_];
        tokens_.push_back(last.final_tokens[b * beams_ + best.place]);
        beam = last.final_beams[b * beams_ + best.place];
      }
      for (index_t at = best.length - 1 - static_cast<index_t>(tokens_.size()); at > 0; --at) {
        const index_t entry = at * rows() + b * beams_ + beam;
        tokens_.push_back(last.tokens[entry]);
        beam = last.parents[entry];
      }
      std::reverse(tokens_.begin(), tokens_.end());
      use(b, std::span<const std::int32_t>(tokens_), best.score);
    }
  }

 private:
  static_assert(sizeof(search_rules) <= search_rules_bytes &&
                sizeof(search_sentence) <= search_sentence_bytes &&
                sizeof(search_hypothesis) <= search_hypothesis_bytes);

  [[nodiscard]] const search_slices& places() const { return plan_->search_places; }
  [[nodiscard]] std::byte* arena_block() const { return arena_ + plan_->search.offset; }
  template <class U>
  [[nodiscard]] static U* at(std::byte* block, slice where) {
    return reinterpret_cast<U*>(block + where.offset);
  }
  [[nodiscard]] search_arrays arrays(std::byte* block) const {
    search_arrays search;
    search.sentences = sentences_;
    search.beams = beams_;
    search.key_stride = max_length_;
    search.rules = at<const search_rules>(block, places().rules);
    search.states = at<search_sentence>(block, places().states);
    search.finished = at<search_hypothesis>(block, places().finished);
    search.scores = at<float>(block, places().scores);
    search.ids = at<std::int32_t>(block, places().inputs.ids);
    search.cache_rows = at<index_t>(block, places().inputs.cache_rows);
    search.key_rows = at<index_t>(block, places().inputs.key_rows);
    search.key_counts = at<index_t>(block, places().inputs.key_counts);
    search.tokens = at<std::int32_t>(block, places().tokens);
    search.parents = at<std::int32_t>(block, places().parents);
    search.final_tokens = at<std::int32_t>(block, places().final_tokens);
    search.final_beams = at<std::int32_t>(block, places().final_beams);
    search.closed = closed_;
    return search;
  }

  std::byte* arena_;
  std::int32_t* closed_;
  const generation_plan* plan_;
  index_t max_sentences_;
  index_t max_length_;
  index_t sentences_ = 0;
  index_t beams_ = 1;
  std::vector<std::byte> start_;
  std::vector<std::byte> end_;
  std::vector<std::int32_t> tokens_;  ///< of a sentence
};

}  // namespace t5zero::model
