// Generation against transformers 5.17: tokens and scores of greedy and beam search.
#include <t5zero/cpu.hpp>

#include <cstddef>
#include <cstdint>
#include <limits>
#include <set>
#include <stdexcept>
#include <vector>

#include "catch.hpp"
#include "golden_generation.hpp"
#include "skip.hpp"

namespace {

using t5zero::generation_options;
using t5zero::index_t;

constexpr t5zero::model_shape shape = golden::tiny_relu::shape;

struct hypothesis {
  std::vector<std::int32_t> tokens;
  double score = 0.0;
};

/// Keeps the search in its own memory, as GPUs do.
struct searching_backend : t5zero::cpu::backend {
  static constexpr t5zero::index_t search_steps = 3;
};

/// Two sentences through the tiny model of T5's initialisation, its weights times `factor`.
template <class Backend = t5zero::cpu::backend>
std::vector<hypothesis> generate(const generation_options& options, float factor = 1.0F) {
  using run = t5zero::run<golden::tiny_relu, t5zero::zero_0, t5zero::fp32, Backend>;
  golden::ragged_batch batch;
  golden::add_row(batch, {5, 6, 7, 1}, {1});
  golden::add_row(batch, {9, 1}, {1});
  t5zero::trainer_options settings;
  settings.trains = false;
  settings.generation = options.shape(shape.vocab_size);
  t5zero::trainer<run> trainer(shape, golden::shape_of(batch), settings);
  trainer.initialize(7, factor);
  const auto& generated = trainer.generate(batch.view(), options);
  std::vector<hypothesis> found;
  for (index_t sentence = 0; sentence < batch.view().source.batch; ++sentence) {
    const auto tokens = generated.tokens(sentence);
    found.push_back({{tokens.begin(), tokens.end()}, generated.score(sentence)});
  }
  return found;
}

}  // namespace

TEST_CASE("generation equals transformers' token for token", "[train][golden]") {
  if (!golden::available()) return skip_test("no golden values");
  using backend = t5zero::cpu::backend;
  golden::check_generation<golden::tiny_relu, backend>();
  golden::check_generation<golden::tiny_gated, backend>();
  golden::check_generation<golden::tiny_gated_tied, backend>();
}

TEST_CASE("generation by a search in the backend's memory equals transformers', too", "[train][golden]") {
  if (!golden::available()) return skip_test("no golden values");
  golden::check_generation<golden::tiny_relu, searching_backend>();
  golden::check_generation<golden::tiny_gated, searching_backend>();
  golden::check_generation<golden::tiny_gated_tied, searching_backend>();
}

TEST_CASE("the names of the reference cases are read whole", "[train]") {
  const auto rich =
      golden::options_named("beams4.length_penalty=2.0,early_stopping=never,repetition_penalty=1.5", 21);
  CHECK(rich.num_beams == 4);
  CHECK(rich.length_penalty == 2.0);
  CHECK(rich.early_stopping == t5zero::early_stopping_rule::never);
  CHECK(rich.repetition_penalty == 1.5F);
  CHECK(golden::options_named("beams2_lp0.5_esTrue", 21).early_stopping ==
        t5zero::early_stopping_rule::when_full);
  CHECK(golden::options_named("beams1.", 21).num_beams == 1);
  CHECK_THROWS_AS(golden::options_named("beams2.diversity_penalty=1.0", 21), std::invalid_argument);
  CHECK_THROWS_AS(golden::options_named("beams2_esSometimes", 21), std::invalid_argument);
}

TEST_CASE("forced tokens and the repetition penalty hold in a whole generation", "[train]") {
  for (const index_t beams : {index_t{1}, index_t{3}}) {
    CAPTURE(beams);
    generation_options options;
    options.max_length = 12;
    options.num_beams = beams;
    options.forced_bos_token_id = 7;
    options.forced_eos_token_id = 1;
    options.min_length = 12;  // no end before the forced one
    options.repetition_penalty = 1e4F;
    for (const hypothesis& found : generate(options)) {
      REQUIRE(found.tokens.size() == 11);
      CHECK(found.tokens.front() == 7);
      CHECK(found.tokens.back() == 1);
      CHECK(std::set<std::int32_t>(found.tokens.begin(), found.tokens.end()).size() == found.tokens.size());
    }
  }
}

TEST_CASE("early_stopping never finds scores as good as the other rules do", "[train]") {
  for (const double length_penalty : {0.5, 1.0, 2.0}) {
    CAPTURE(length_penalty);
    const auto found_with = [&](t5zero::early_stopping_rule rule) {
      generation_options options;
      options.max_length = 16;
      options.num_beams = 4;
      options.length_penalty = length_penalty;
      options.early_stopping = rule;
      return generate(options);
    };
    const auto never = found_with(t5zero::early_stopping_rule::never);
    for (const auto rule : {t5zero::early_stopping_rule::when_full, t5zero::early_stopping_rule::heuristic}) {
      const auto other = found_with(rule);
      for (std::size_t sentence = 0; sentence < never.size(); ++sentence)
        CHECK(never[sentence].score >= other[sentence].score);
    }
  }
}

TEST_CASE("a generation whose scores are NaN is an error, however it searches", "[train]") {
  constexpr float nan = std::numeric_limits<float>::quiet_NaN();
  generation_options options;
  options.max_length = 12;
  CHECK_THROWS_AS(generate(options, nan), t5zero::numeric_error);
  CHECK_THROWS_AS(generate<searching_backend>(options, nan), t5zero::numeric_error);
  options.do_sample = true;
  CHECK_THROWS_AS(generate(options, nan), t5zero::numeric_error);
  options.top_k = 0;
  CHECK_THROWS_AS(generate(options, nan), t5zero::numeric_error);
  options.do_sample = false;
  options.num_beams = 4;
  CHECK_THROWS_AS(generate(options, nan), t5zero::numeric_error);
  CHECK_THROWS_AS(generate<searching_backend>(options, nan), t5zero::numeric_error);
}
