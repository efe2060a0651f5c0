// Greedy search, beam search, score processors and sampling by hand: no model.
#include <t5zero/cpu.hpp>

#include <t5zero/model/sampling.hpp>
#include <t5zero/model/score_processors.hpp>
#include <t5zero/model/search_state.hpp>

#include <cmath>
#include <limits>
#include <vector>

#include "catch.hpp"

namespace {

using t5zero::generation_options;
using t5zero::index_t;
using t5zero::matrix_view;
using t5zero::model::search_state;

std::vector<std::int32_t> ids(std::span<const std::int32_t> tokens) {
  return {tokens.begin(), tokens.end()};
}

generation_options options_of(index_t beams, index_t max_length) {
  generation_options options;
  options.num_beams = beams;
  options.max_length = max_length;
  return options;
}

/// A step of a beam search whose candidates are given row by row.
void advance(search_state& search, std::vector<float> scores, std::vector<std::int32_t> tokens) {
  const index_t rows = search.rows();
  const index_t count = static_cast<index_t>(scores.size()) / rows;
  search.advance_beams(matrix_view<const float>(scores.data(), rows, count),
                       matrix_view<const std::int32_t>(tokens.data(), rows, count));
}

}  // namespace

TEST_CASE("greedy rows end on their own, at the end token or at max_length", "[model]") {
  search_state search(3, 1, 4);
  const generation_options options = options_of(1, 4);
  search.start(3, options);
  CHECK(search.rows() == 3);
  CHECK(search.position() == 0);
  const std::vector<std::int32_t> first{7, 1, 9};
  search.advance_tokens(first.data());
  REQUIRE(search.rows() == 2);
  CHECK(search.sentence(0) == 0);
  CHECK(search.sentence(1) == 2);
  CHECK(ids(search.tokens(1)) == std::vector<std::int32_t>{0, 9});
  // Keys stay where they were written: position times slots plus slot.
  CHECK(search.key_rows()[search.key_row_stride()] == 2);
  CHECK(search.key_rows()[search.key_row_stride() + 1] == 3 + 2);
  const std::vector<std::int32_t> second{8, 1};
  search.advance_tokens(second.data());
  REQUIRE(search.rows() == 1);
  const std::vector<std::int32_t> third{6};
  search.advance_tokens(third.data());
  CHECK(search.rows() == 0);
  CHECK(ids(search.best_tokens(0)) == std::vector<std::int32_t>{7, 8, 6});
  CHECK(ids(search.best_tokens(1)) == std::vector<std::int32_t>{1});
  CHECK(ids(search.best_tokens(2)) == std::vector<std::int32_t>{9, 1});
}

TEST_CASE("beams take each other's place; their keys stay", "[model]") {
  search_state search(1, 2, 5);
  const generation_options options = options_of(2, 5);
  search.start(1, options);
  // Only the first beam has successors at the start.
  advance(search, {-0.1F, -0.2F, -3.F, -4.F, -0.1F, -0.2F, -3.F, -4.F}, {10, 11, 12, 13, 10, 11, 12, 13});
  REQUIRE(search.rows() == 2);
  CHECK(search.last_tokens()[0] == 10);
  CHECK(search.last_tokens()[1] == 11);
  // The second beam wins twice: both rows descend from it.
  advance(search, {-5.F, -6.F, -7.F, -8.F, -0.1F, -0.3F, -7.F, -8.F}, {20, 21, 22, 23, 30, 31, 32, 33});
  CHECK(ids(search.tokens(0)) == std::vector<std::int32_t>{0, 11, 30});
  CHECK(ids(search.tokens(1)) == std::vector<std::int32_t>{0, 11, 31});
  const index_t stride = search.key_row_stride();
  for (const index_t row : {index_t{0}, index_t{1}}) {
    CHECK(search.key_rows()[row * stride] == 0);          // the start token of beam 0
    CHECK(search.key_rows()[row * stride + 1] == 2 + 1);  // token 11 of slot 1
    CHECK(search.key_rows()[row * stride + 2] == 4 + row);
  }
}

TEST_CASE("a hypothesis is scored by sum over length to the penalty, the end included", "[model]") {
  search_state search(1, 2, 6);
  generation_options options = options_of(2, 6);
  options.length_penalty = 2.0;
  options.early_stopping = t5zero::early_stopping_rule::when_full;
  search.start(1, options);
  advance(search, {-0.5F, -0.6F, -3.F, -4.F, 0, 0, 0, 0}, {10, 1, 12, 13, 10, 1, 12, 13});
  REQUIRE(search.rows() == 2);  // the end at rank 1 is finished: -0.6 / 1
  advance(search, {-0.5F, -3.F, -4.F, -5.F, -9.F, -9.F, -9.F, -9.F}, {1, 12, 13, 14, 12, 13, 14, 15});
  CHECK(search.rows() == 0);  // full: -1.0 / 2^2
  CHECK(ids(search.best_tokens(0)) == std::vector<std::int32_t>{10, 1});
  CHECK(search.best_score(0) == Approx(-0.25F));
}

TEST_CASE("an end below the best K is ignored, and early stopping decides when to go on", "[model]") {
  for (const auto rule : {t5zero::early_stopping_rule::heuristic, t5zero::early_stopping_rule::never}) {
    search_state search(1, 2, 10);
    generation_options options = options_of(2, 10);
    options.early_stopping = rule;
    search.start(1, options);
    // Rank 2 ends: not finished, because two better ones exist.
    advance(search, {-0.1F, -0.2F, -0.3F, -4.F, 0, 0, 0, 0}, {10, 11, 1, 13, 10, 11, 1, 13});
    REQUIRE(search.rows() == 2);
    // Both beams end at ranks 0 and 1: sums -1.1 and -1.2 at length 2. What runs on has -3.1.
    advance(search, {-1.F, -3.F, -4.F, -5.F, -1.F, -4.F, -5.F, -6.F}, {1, 20, 21, 22, 1, 30, 31, 32});
    // -3.1 / 2 cannot beat -1.2 / 2 now; at length 9 -3.1 / 9 could.
    CHECK(search.rows() == (rule == t5zero::early_stopping_rule::never ? 2 : 0));
  }
}

TEST_CASE("a sentence whose scores are not finite has no translation", "[model]") {
  constexpr float nan = std::numeric_limits<float>::quiet_NaN();
  search_state search(1, 2, 3);
  const generation_options options = options_of(2, 3);
  search.start(1, options);
  advance(search, {-0.1F, -0.2F, -0.3F, -0.4F, 0, 0, 0, 0}, {10, 11, 12, 13, 10, 11, 12, 13});
  advance(search, {-0.1F, -0.2F, -0.3F, -0.4F, -5.F, -6.F, -7.F, -8.F}, {20, 21, 22, 23, 30, 31, 32, 33});
  REQUIRE(search.rows() == 0);
  CHECK(ids(search.best_tokens(0)) == std::vector<std::int32_t>{10, 20});
  // The next one does not get what the one before had.
  search.start(1, options);
  CHECK(search.best_tokens(0).empty());
  advance(search, {nan, nan, nan, nan, nan, nan, nan, nan}, {10, 11, 12, 13, 10, 11, 12, 13});
  REQUIRE(search.rows() == 2);
  CHECK_THROWS_AS(advance(search, {nan, nan, nan, nan, nan, nan, nan, nan}, {10, 11, 12, 13, 10, 11, 12, 13}),
                  t5zero::numeric_error);
}

TEST_CASE("NaN in one beam leaves the other", "[model]") {
  constexpr float nan = std::numeric_limits<float>::quiet_NaN();
  search_state search(1, 2, 3);
  const generation_options options = options_of(2, 3);
  search.start(1, options);
  advance(search, {-0.1F, -0.2F, -0.3F, -0.4F, 0, 0, 0, 0}, {10, 11, 12, 13, 10, 11, 12, 13});
  advance(search, {nan, nan, nan, nan, -5.F, -6.F, -7.F, -8.F}, {20, 21, 22, 23, 30, 31, 32, 33});
  CHECK(ids(search.best_tokens(0)) == std::vector<std::int32_t>{11, 30});
}

TEST_CASE("without enough ways to go on, the best beam is the translation", "[model]") {
  search_state search(1, 2, 5);
  const generation_options options = options_of(2, 5);
  search.start(1, options);
  constexpr float none = -std::numeric_limits<float>::infinity();
  advance(search, {-0.1F, -0.2F, 0, 0}, {2, 3, 2, 3});
  REQUIRE(search.rows() == 2);
  // Rules forbid all but one token, the end among them.
  advance(search, {-0.1F, none, none, none}, {2, 1, 1, 1});
  CHECK(search.rows() == 0);
  CHECK(ids(search.best_tokens(0)) == std::vector<std::int32_t>{2, 2});
}

TEST_CASE("more than was planned is refused", "[model]") {
  search_state search(2, 2, 4);
  CHECK_THROWS_AS(search.start(3, options_of(1, 4)), t5zero::contract_error);
  CHECK_THROWS_AS(search.start(2, options_of(3, 4)), t5zero::contract_error);
  CHECK_THROWS_AS(search.start(1, options_of(1, 5)), t5zero::contract_error);
}

TEST_CASE("options that make no sense are refused", "[model]") {
  generation_options options;
  const auto refused = [&](auto change) {
    generation_options wrong = options;
    change(wrong);
    CHECK_THROWS_AS(t5zero::check_generation_options(wrong, 100), t5zero::contract_error);
  };
  CHECK_NOTHROW(t5zero::check_generation_options(options, 100));
  refused([](generation_options& o) { o.max_length = 1; });
  refused([](generation_options& o) { o.num_beams = 0; });
  refused([](generation_options& o) { o.top_p = 0.0F; });
  refused([](generation_options& o) { o.temperature = 0.0F; });
  refused([](generation_options& o) { o.eos_token_id = 100; });
  refused([](generation_options& o) {
    o.do_sample = true;
    o.num_beams = 2;
  });
}

TEST_CASE("a backend searches by itself greedily or with beams; what looks at tokens is the host's",
          "[model]") {
  generation_options options;
  CHECK(t5zero::device_can_search(options));
  options.num_beams = t5zero::most_search_beams;
  options.min_length = 5;
  options.length_penalty = 2.0;
  options.early_stopping = t5zero::early_stopping_rule::never;
  CHECK(t5zero::device_can_search(options));
  const auto refused = [&](auto change) {
    generation_options other = options;
    change(other);
    CHECK(!t5zero::device_can_search(other));
  };
  refused([](generation_options& o) { ++o.num_beams; });
  refused([](generation_options& o) { o.do_sample = true; });
  refused([](generation_options& o) { o.no_repeat_ngram_size = 3; });
  refused([](generation_options& o) { o.repetition_penalty = 1.2F; });
  refused([](generation_options& o) { o.forced_bos_token_id = 7; });
  refused([](generation_options& o) { o.forced_eos_token_id = 1; });
}

TEST_CASE("score processors", "[model]") {
  constexpr float none = -std::numeric_limits<float>::infinity();
  std::vector<float> scores{1.0F, -1.0F, 2.0F, -2.0F, 0.5F};
  const t5zero::vector_view<float> view{scores.data(), 5};
  generation_options options = options_of(1, 6);

  SECTION("repetition penalty, once for a token that came twice") {
    options.repetition_penalty = 2.0F;
    const std::vector<std::int32_t> tokens{0, 3, 3};
    t5zero::model::process_scores(options, tokens, view);
    CHECK(scores == std::vector<float>{0.5F, -1.0F, 2.0F, -4.0F, 0.5F});
  }
  SECTION("n-grams: the start token counts") {
    options.no_repeat_ngram_size = 2;
    const std::vector<std::int32_t> tokens{0, 2, 4, 0};
    t5zero::model::process_scores(options, tokens, view);
    CHECK(scores == std::vector<float>{1.0F, -1.0F, none, -2.0F, 0.5F});
  }
  SECTION("single tokens") {
    options.no_repeat_ngram_size = 1;
    const std::vector<std::int32_t> tokens{0, 2};
    t5zero::model::process_scores(options, tokens, view);
    CHECK(scores == std::vector<float>{none, -1.0F, none, -2.0F, 0.5F});
  }
  SECTION("minimum length") {
    options.min_length = 3;
    const std::vector<std::int32_t> two{0, 2};
    t5zero::model::process_scores(options, two, view);
    CHECK(scores[1] == none);
  }
  SECTION("minimum length reached") {
    options.min_length = 3;
    const std::vector<std::int32_t> three{0, 2, 3};
    t5zero::model::process_scores(options, three, view);
    CHECK(scores[1] == -1.0F);
  }
  SECTION("forced tokens") {
    options.forced_bos_token_id = 4;
    options.forced_eos_token_id = 1;
    const std::vector<std::int32_t> start{0};
    t5zero::model::process_scores(options, start, view);
    CHECK(scores == std::vector<float>{none, none, none, none, 0.0F});
    const std::vector<std::int32_t> last{0, 4, 2, 2, 2};
    t5zero::model::process_scores(options, last, view);
    CHECK(scores == std::vector<float>{none, 0.0F, none, none, none});
  }
}

TEST_CASE("sampling follows the probabilities that top_p leaves", "[model]") {
  generation_options options;
  options.do_sample = true;
  const std::vector<float> logits{std::log(0.5F), std::log(0.3F), std::log(0.15F), std::log(0.05F)};
  const auto count = [&](float top_p, float temperature) {
    options.top_p = top_p;
    options.temperature = temperature;
    std::vector<double> share(4);
    for (int i = 0; i < 10000; ++i) {
      std::vector<float> scores = logits;
      const index_t pick = t5zero::model::sample(options, {scores.data(), 4}, (i + 0.5) / 10000.0);
      share[static_cast<std::size_t>(pick)] += 1e-4;
    }
    return share;
  };
  const auto all = count(1.0F, 1.0F);
  CHECK(all[0] == Approx(0.5).margin(2e-4));
  CHECK(all[3] == Approx(0.05).margin(2e-4));
  const auto nucleus = count(0.6F, 1.0F);  // 0.5 is below 0.6, 0.8 is not
  CHECK(nucleus[0] == Approx(0.625).margin(2e-4));
  CHECK(nucleus[1] == Approx(0.375).margin(2e-4));
  CHECK(nucleus[2] == 0.0);
  const auto only = count(0.1F, 1.0F);
  CHECK(only[0] == Approx(1.0));
  const auto cold = count(1.0F, 0.5F);  // squares: 0.25, 0.09, 0.0225, 0.0025
  CHECK(cold[0] == Approx(0.25 / 0.365).margin(2e-4));
}

TEST_CASE("sampling never picks a score that is not a number", "[model]") {
  generation_options options;
  options.do_sample = true;
  int second = 0;
  for (int i = 0; i < 1000; ++i) {
    std::vector<float> scores{0.0F, 0.0F, std::nanf("")};
    const index_t pick = t5zero::model::sample(options, {scores.data(), 3}, (i + 0.5) / 1000.0);
    REQUIRE(pick < 2);
    second += pick == 1 ? 1 : 0;
  }
  CHECK(second == 500);
}

TEST_CASE("sampling's numbers depend on seed, sentence and position alone", "[model]") {
  const double first = t5zero::model::sampling_uniform(1, 2, 3);
  CHECK(first == t5zero::model::sampling_uniform(1, 2, 3));
  CHECK(first != t5zero::model::sampling_uniform(2, 2, 3));
  CHECK(first != t5zero::model::sampling_uniform(1, 3, 3));
  CHECK(first != t5zero::model::sampling_uniform(1, 2, 4));
  double sum = 0.0;
  for (std::uint32_t i = 0; i < 10000; ++i) sum += t5zero::model::sampling_uniform(7, i, 0);
  CHECK(sum / 10000.0 == Approx(0.5).margin(0.02));
}
