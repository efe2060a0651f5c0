// A search in the device's memory against the CPU's, step by step.
#include <t5zero/backend/cpu/operations.hpp>
#include <t5zero/backend/cuda/operations.hpp>
#include <t5zero/backend/search.hpp>

#include <cstddef>
#include <cstdint>
#include <limits>
#include <utility>
#include <vector>

#include "backend/cuda/device_machine.hpp"
#include "backend/cuda/host_machine.hpp"
#include "catch.hpp"

namespace {

using namespace t5zero_test;

/// The same search on both sides.
class search_pair {
 public:
  search_pair(index_t sentences, t5zero::search_rules rules)
      : rows_(sentences * rules.beams), stride_(rules.max_length) {
    const auto rows = static_cast<std::size_t>(rows_);
    const auto cells = static_cast<std::size_t>(rows_ * stride_);
    penalties_.resize(static_cast<std::size_t>(rules.max_length));
    for (std::size_t n = 0; n < penalties_.size(); ++n) penalties_[n] = static_cast<float>(n);
    device_penalties_ = on_device(penalties_);
    rules.penalties = penalties_.data();
    rules_ = {rules};
    rules.penalties = device_penalties_.data();
    device_rules_ = on_device(std::vector<t5zero::search_rules>{rules});
    states_.resize(static_cast<std::size_t>(sentences));
    finished_.resize(rows);
    scores_.resize(rows);
    for (index_t row = 0; row < rows_; ++row) {
      scores_[static_cast<std::size_t>(row)] = row % rules.beams == 0 ? 0.0F : t5zero::no_score;
      cache_rows_.push_back(row);
    }
    ids_.resize(rows);
    keys_.resize(cells, -1);
    for (index_t row = 0; row < rows_; ++row) keys_[static_cast<std::size_t>(row * stride_)] = row;
    counts_.resize(rows, 1);
    tokens_.resize(cells, -1);
    parents_.resize(cells, -1);
    final_tokens_.resize(rows, -1);
    final_beams_.resize(rows, -1);
    closed_.resize(states_.size());
    host_ = {sentences,        rules.beams,    stride_,         rules_.data(),        states_.data(),
             finished_.data(), scores_.data(), ids_.data(),     cache_rows_.data(),   keys_.data(),
             counts_.data(),   tokens_.data(), parents_.data(), final_tokens_.data(), final_beams_.data(),
             closed_.data()};
    d_states_ = on_device(states_);
    d_finished_ = on_device(finished_);
    d_scores_ = on_device(scores_);
    d_ids_ = on_device(ids_);
    d_cache_rows_ = on_device(cache_rows_);
    d_keys_ = on_device(keys_);
    d_counts_ = on_device(counts_);
    d_tokens_ = on_device(tokens_);
    d_parents_ = on_device(parents_);
    d_final_tokens_ = on_device(final_tokens_);
    d_final_beams_ = on_device(final_beams_);
    d_closed_ = on_device(closed_);
    device_ = {sentences,
               rules.beams,
               stride_,
               device_rules_.data(),
               d_states_.data(),
               d_finished_.data(),
               d_scores_.data(),
               d_ids_.data(),
               d_cache_rows_.data(),
               d_keys_.data(),
               d_counts_.data(),
               d_tokens_.data(),
               d_parents_.data(),
               d_final_tokens_.data(),
               d_final_beams_.data(),
               d_closed_.data()};
  }

  [[nodiscard]] const t5zero::search_arrays& host() const { return host_; }
  [[nodiscard]] const t5zero::search_arrays& device() const { return device_; }

  void compare() const {
    REQUIRE(same_bits(d_states_.download(), states_));
    REQUIRE(same_bits(d_finished_.download(), finished_));
    REQUIRE(same_bits(d_scores_.download(), scores_));
    REQUIRE(d_ids_.download() == ids_);
    REQUIRE(d_cache_rows_.download() == cache_rows_);
    REQUIRE(d_keys_.download() == keys_);
    REQUIRE(d_counts_.download() == counts_);
    REQUIRE(d_tokens_.download() == tokens_);
    REQUIRE(d_parents_.download() == parents_);
    REQUIRE(d_final_tokens_.download() == final_tokens_);
    REQUIRE(d_final_beams_.download() == final_beams_);
    REQUIRE(d_closed_.download() == closed_);
    for (std::size_t b = 0; b < states_.size(); ++b) REQUIRE(closed_[b] == states_[b].closed);
  }
  [[nodiscard]] index_t closed() const {
    index_t result = 0;
    for (const t5zero::search_sentence& state : states_) result += state.closed;
    return result;
  }

 private:
  index_t rows_;
  index_t stride_;
  std::vector<float> penalties_, scores_;
  std::vector<t5zero::search_rules> rules_;
  std::vector<t5zero::search_sentence> states_;
  std::vector<t5zero::search_hypothesis> finished_;
  std::vector<std::int32_t> ids_, tokens_, parents_, final_tokens_, final_beams_, closed_;
  std::vector<index_t> cache_rows_, keys_, counts_;
  device_array<float> device_penalties_{0}, d_scores_{0};
  device_array<t5zero::search_rules> device_rules_{0};
  device_array<t5zero::search_sentence> d_states_{0};
  device_array<t5zero::search_hypothesis> d_finished_{0};
  device_array<std::int32_t> d_ids_{0}, d_tokens_{0}, d_parents_{0}, d_final_tokens_{0}, d_final_beams_{0},
      d_closed_{0};
  device_array<index_t> d_cache_rows_{0}, d_keys_{0}, d_counts_{0};
  t5zero::search_arrays host_, device_;
};

}  // namespace

TEST_CASE("cuda: a search advances as on the CPU", "[cuda]") {
  if (!has_gpu()) return;
  device_machine gpu;
  host_machine cpu;
  for (const index_t beams : {index_t{2}, index_t{4}, index_t{5}, index_t{16}}) {
    if (under_sanitizer() && beams != 4) continue;
    for (const index_t bound : {index_t{0}, index_t{199}}) {
      for (const bool when_full : {false, true}) {
        CAPTURE(beams, bound, when_full);
        constexpr index_t sentences = 5;
        t5zero::search_rules rules;
        rules.beams = beams;
        rules.max_length = 200;
        rules.bound_length = bound;
        rules.stops_when_full = when_full;
        search_pair search(sentences, rules);
        const index_t rows = sentences * beams;
        const index_t count = 2 * beams;
        for (index_t step = 0; step < 200 && search.closed() < sentences; ++step) {
          // Rounded, so that there are ties; the end comes now and then, NaN too.
          auto scores = random_elements(rows * count, static_cast<unsigned>(7 * step + beams));
          std::vector<std::int32_t> ids(scores.size());
          for (index_t row = 0; row < rows; ++row) {
            float* const first = scores.data() + row * count;
            for (index_t c = 0; c < count; ++c)
              first[c] = -std::round(std::abs(first[c]) * 4.0F + static_cast<float>(c)) / 4.0F;
            if (step % 50 == 20 && row % 3 == 1) first[count - 1] = std::numeric_limits<float>::quiet_NaN();
            for (index_t c = 0; c < count; ++c)
              ids[static_cast<std::size_t>(row * count + c)] = static_cast<std::int32_t>(
                  (step * 31 + row * 7 + c * 13) % 97 == 0 ? 1 : 2 + c + count * row);
          }
          const auto device_scores = on_device(scores);
          const auto device_ids = on_device(ids);
          t5zero::cpu::operations<float>::advance_search(
              cpu.main(), search.host(), {scores.data(), rows, count}, {ids.data(), rows, count});
          t5zero::cuda::operations<float>::advance_search(
              gpu.main(), search.device(), device_scores.matrix(rows, count), device_ids.matrix(rows, count));
          if (step % 16 == 0 || search.closed() == sentences) search.compare();
        }
        CHECK(search.closed() == sentences);
      }
    }
  }
}

TEST_CASE("cuda: a greedy search goes on as on the CPU", "[cuda]") {
  if (!has_gpu()) return;
  device_machine gpu;
  host_machine cpu;
  constexpr index_t sentences = 5;
  for (const index_t cols : {index_t{97}, index_t{32128}, index_t{50260}}) {
    CAPTURE(cols);
    t5zero::search_rules rules;
    rules.beams = 1;
    rules.max_length = 40;
    rules.min_length = 3;
    rules.end_id = 1;
    search_pair search(sentences, rules);
    const device_array<float> scores(sentences);
    const device_array<std::int32_t> ids(sentences);
    std::vector<float> host_scores(sentences);
    std::vector<std::int32_t> host_ids(sentences);
    index_t step = 0;
    for (; step < 40 && search.closed() < sentences; ++step) {
      auto logits = random_elements(sentences * cols, static_cast<unsigned>(3 * step + 1));
      for (float& logit : logits) logit = std::round(logit * 4.0F) / 4.0F;  // so that there are ties
      const auto set = [&](index_t row, index_t id, float value) {
        logits[static_cast<std::size_t>(row * cols + id)] = value;
      };
      // Ends: forbidden at first, later not; a row of which nothing can be said; the others run to the end.
      set(0, 1, 50.0F);
      if (step == 7) set(1, 1, 50.0F);
      for (index_t id = 0; step == 5 && id < cols; ++id) set(2, id, -std::numeric_limits<float>::quiet_NaN());
      if (step == 9) set(3, cols - 1, std::numeric_limits<float>::infinity());
      const auto device_logits = on_device(logits);
      t5zero::cuda::operations<float>::rank_tokens(gpu.main(), search.device(), 0,
                                                   device_logits.matrix(sentences, cols),
                                                   scores.matrix(sentences, 1), ids.matrix(sentences, 1));
      t5zero::cpu::operations<float>::rank_tokens(
          cpu.main(), search.host(), 0, {logits.data(), sentences, cols}, {host_scores.data(), sentences, 1},
          {host_ids.data(), sentences, 1});
      search.compare();
    }
    CHECK(step == 39);
    CHECK(search.closed() == sentences);
  }
}

TEST_CASE("cuda: a search's next tokens are ranked as on the CPU", "[cuda]") {
  if (!has_gpu()) return;
  device_machine gpu;
  host_machine cpu;
  for (const index_t cols : {index_t{7}, index_t{1003}, index_t{32128}, index_t{50260}}) {
    // 40 candidates are more than the blocks of a cluster divide among them.
    for (const auto& [beams, count] : {std::pair<index_t, index_t>{1, 1}, {3, 6}, {3, 40}}) {
      if (count > cols) continue;
      for (const index_t least : {index_t{0}, index_t{2}}) {
        CAPTURE(cols, beams, count, least);
        t5zero::search_rules rules;
        rules.beams = beams;
        rules.max_length = 10;
        rules.min_length = least;
        rules.end_id = 3;
        const search_pair search(2, rules);
        const index_t rows = 2 * beams;
        auto logits = random_elements(rows * cols, 8, 3.0F);
        for (index_t row = 0; row < rows; ++row) logits[static_cast<std::size_t>(row * cols + 3)] = 20.0F;
        const auto device_logits = on_device(logits);
        const device_array<float> scores(rows * count);
        const device_array<std::int32_t> ids(rows * count);
        std::vector<float> expected(static_cast<std::size_t>(rows * count));
        std::vector<std::int32_t> expected_ids(expected.size());
        t5zero::cuda::operations<float>::rank_tokens(gpu.main(), search.device(), 0,
                                                     device_logits.matrix(rows, cols),
                                                     scores.matrix(rows, count), ids.matrix(rows, count));
        t5zero::cpu::operations<float>::rank_tokens(cpu.main(), search.host(), 0, {logits.data(), rows, cols},
                                                    {expected.data(), rows, count},
                                                    {expected_ids.data(), rows, count});
        search.compare();  // without beams the rows have gone on
        if (beams == 1) continue;
        CHECK(ids.download() == expected_ids);
        CHECK(largest_difference(scores.download(), expected) < 1e-5);
      }
    }
  }
}
