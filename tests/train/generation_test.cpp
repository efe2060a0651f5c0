// Generation against transformers 5.17: tokens and scores of greedy and beam search.
#include <t5zero/cpu.hpp>

#include <set>
#include <stdexcept>
#include <vector>

#include "catch.hpp"
#include "golden_generation.hpp"
#include "skip.hpp"

TEST_CASE("generation equals transformers' token for token", "[train][golden]") {
  if (!golden::available()) return skip_test("no golden values");
  using backend = t5zero::cpu::backend;
  golden::check_generation<golden::tiny_relu, backend>();
  golden::check_generation<golden::tiny_gated, backend>();
  golden::check_generation<golden::tiny_gated_tied, backend>();
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
  using model = golden::tiny_relu;
  using run = t5zero::run<model, t5zero::zero_0, t5zero::fp32, t5zero::cpu::backend>;
  golden::ragged_batch batch;
  golden::add_row(batch, {5, 6, 7, 1}, {1});
  golden::add_row(batch, {9, 1}, {1});
  for (const t5zero::index_t beams : {t5zero::index_t{1}, t5zero::index_t{3}}) {
    CAPTURE(beams);
    t5zero::generation_options options;
    options.max_length = 12;
    options.num_beams = beams;
    t5zero::trainer_options settings;
    settings.trains = false;
    settings.generation = options.shape(model::shape.vocab_size);
    t5zero::trainer<run> trainer(model::shape, golden::shape_of(batch), settings);
    trainer.initialize(7, 1.0);
    const auto generated = [&](t5zero::index_t sentence) {
      const auto tokens = trainer.generate(batch.view(), options).tokens(sentence);
      return std::vector<std::int32_t>(tokens.begin(), tokens.end());
    };
    options.forced_bos_token_id = 7;
    options.forced_eos_token_id = 1;
    options.min_length = 12;  // no end before the forced one
    options.repetition_penalty = 1e4F;
    for (const t5zero::index_t sentence : {t5zero::index_t{0}, t5zero::index_t{1}}) {
      const std::vector<std::int32_t> tokens = generated(sentence);
      REQUIRE(tokens.size() == 11);
      CHECK(tokens.front() == 7);
      CHECK(tokens.back() == 1);
      CHECK(std::set<std::int32_t>(tokens.begin(), tokens.end()).size() == tokens.size());
    }
  }
}
