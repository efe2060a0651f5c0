// Generation against transformers 5.17: tokens and scores of greedy and beam search.
#include <t5zero/cuda.hpp>

#include <utility>
#include <vector>

#include "backend/cuda/device_machine.hpp"
#include "catch.hpp"
#include "golden_generation.hpp"
#include "skip.hpp"

TEMPLATE_TEST_CASE("generation on a GPU equals transformers' token for token", "[train][golden]",
                   golden::tiny_relu, golden::tiny_gated, golden::tiny_gated_tied) {
  if (!t5zero_test::has_gpu()) return;
  if (!golden::available()) return skip_test("no golden values");
  golden::check_generation<TestType, t5zero::cuda::backend>(t5zero_test::under_sanitizer() ? 24 : 1);
}

TEMPLATE_TEST_CASE(
    "a generation on a GPU gives the same bits each time, and the host's search the same tokens", "[train]",
    t5zero::fp32, t5zero::bf16) {
  if (!t5zero_test::has_gpu()) return;
  using model = golden::tiny_gated;
  using run = t5zero::run<model, t5zero::zero_0, TestType, t5zero::cuda::backend>;
  golden::ragged_batch batch;
  golden::add_row(batch, {5, 6, 7, 1}, {1});
  golden::add_row(batch, {9, 1}, {1});
  golden::add_row(batch, {9, 4, 8, 12, 15, 3, 1}, {1});
  const bool brief = t5zero_test::under_sanitizer();
  // 3, 6, 12 and 18 rows
  for (const t5zero::index_t beams : {1, 2, 4, 6}) {
    if (brief && beams == 4) continue;
    CAPTURE(beams);
    t5zero::generation_options options;
    options.max_length = brief ? 7 : 40;
    options.min_length = 5;
    options.num_beams = beams;
    t5zero::trainer_options settings;
    settings.generation = options.shape(model::shape.vocab_size);
    t5zero::trainer<run> trainer(model::shape, golden::shape_of(batch), settings);
    trainer.initialize(7, 1.0);
    const auto generated_by = [&](t5zero::trainer<run>& by) {
      const auto& result = by.generate(batch.view(), options);
      std::vector<std::pair<std::vector<std::int32_t>, float>> all;
      for (t5zero::index_t b = 0; b < 3; ++b)
        all.emplace_back(std::vector<std::int32_t>(result.tokens(b).begin(), result.tokens(b).end()),
                         result.score(b));
      return all;
    };
    const auto generated = [&] { return generated_by(trainer); };
    const auto first = generated();
    if (!brief) {  // the same kernels again
      CHECK(generated() == first);
      settings.overlaps_launches = false;
      t5zero::trainer<run> one_by_one(model::shape, golden::shape_of(batch), settings);
      one_by_one.initialize(7, 1.0);
      CHECK(generated_by(one_by_one) == first);
    }
    options.no_repeat_ngram_size = 50;  // changes nothing, but is not for the device
    REQUIRE(!t5zero::device_can_search(options));
    const auto on_host = generated();
    for (std::size_t b = 0; b < 3; ++b) {
      CHECK(on_host[b].first == first[b].first);
      CHECK(on_host[b].second == Approx(first[b].second).margin(1e-4));
    }
  }
}
