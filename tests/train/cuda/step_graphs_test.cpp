// Steps that are captured and replayed, rare and frequent shapes, evaluations in between, activations that
// are recomputed, kernels that overlap: the weights' bits are those of plain launches one after another.
#include <t5zero/cuda.hpp>

#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

#include "backend/cuda/device_machine.hpp"
#include "catch.hpp"
#include "golden_generation.hpp"
#include "golden_models.hpp"

namespace {

using t5zero::index_t;

/// Sentences of `source` and `target` tokens, and one of two.
golden::ragged_batch batch_of(index_t source, index_t target) {
  const auto tokens = [](index_t count, std::int32_t first) {
    std::vector<std::int32_t> ids(static_cast<std::size_t>(count), 1);
    for (index_t i = 0; i + 1 < count; ++i)
      ids[static_cast<std::size_t>(i)] = static_cast<std::int32_t>(3 + (first + 7 * i) % 300);
    return ids;
  };
  golden::ragged_batch batch;
  golden::add_row(batch, tokens(source, 11), tokens(target, 23));
  golden::add_row(batch, tokens(2, 5), tokens(2, 9));
  return batch;
}

struct plan_of_test {
  bool uses_graphs = true;
  bool overlaps = true;
  bool evaluates = false;
  bool recomputes = false;
  index_t accumulation = 1;
  index_t longest = t5zero_test::under_sanitizer() ? 96 : 400;  ///< tokens of a side
};

struct trained {
  std::vector<float> weights;
  index_t graphs_made = 0;
  index_t graphs_kept = 0;
};

/// After some updates on batches of many shapes.
template <class Model, class Precision>
trained train(const plan_of_test& how) {
  using run = t5zero::run<Model, t5zero::zero_0, Precision, t5zero::cuda::backend>;
  t5zero::trainer_options options;
  options.uses_graphs = how.uses_graphs;
  options.overlaps_launches = how.overlaps;
  options.recomputes_activations = how.recomputes;
  options.gradient_accumulation = how.accumulation;
  options.scaler.initial_scale = 65536.0;  // the first updates overflow in fp16, and are skipped
  t5zero::trainer<run> trainer(run::model::shape, golden::shape_of(batch_of(how.longest, how.longest)),
                               options);
  trainer.initialize(1);
  // More shapes than graphs have room, each twice; then some others, until theirs take the room. Under a
  // sanitizer two, twice: launched, and as a graph.
  const bool brief = t5zero_test::under_sanitizer();
  for (index_t round = 0; round < (brief ? 2 : 7); ++round) {
    const bool anew = brief || round < 2;
    for (index_t shape = anew ? 0 : 34; shape < (anew ? 34 : 40); shape += brief ? 17 : 1) {
      const index_t source = 2 + (how.longest - 40) * shape / 40;
      const golden::ragged_batch batch = batch_of(source, how.longest - 8 - source);
      for (index_t micro = 0; micro < how.accumulation; ++micro)
        trainer.submit_micro_batch(batch.view(), how.accumulation);
      trainer.submit_update([](index_t) { return 1e-3; });
      if (how.evaluates && shape % 7 == 0) (void)trainer.evaluate(batch.view());
      while (trainer.outstanding() >= trainer.updates_in_flight) (void)trainer.next_result();
    }
  }
  while (trainer.outstanding() > 0) (void)trainer.next_result();
  const t5zero::cuda::step_graphs& graphs = trainer.device().graphs();
  return {golden::weights_of(trainer), graphs.made(), graphs.kept()};
}

/// Three layers, so that a recomputed one lies between two others; with few tokens its sublayers are fused.
/// In fp32 the gradient through the head, over the depth of the vocabulary, is computed in pieces; in 16 bits
/// a large vocabulary would only be long, and take more of the host's memory under racecheck than there is.
template <class Precision>
struct three_layers {
  static constexpr std::string_view name = "three_layers";
  static constexpr t5zero::model_shape shape = [] {
    t5zero::model_shape result = golden::tiny_relu::shape;
    result.n_encoder_layers = result.n_decoder_layers = 3;
    result.d_model = 128;
    result.d_ff = 2048;
    if (sizeof(typename Precision::param_type) == 4) result.vocab_size = 32128;
    return result;
  }();
};

}  // namespace

TEMPLATE_TEST_CASE("graphs, no graphs, no overlap, and evaluations between updates: the same bits", "[cuda]",
                   t5zero::fp32, t5zero::fp16, t5zero::bf16) {
  if (!t5zero_test::has_gpu()) return;
  const auto check = []<class Model>(const Model&, index_t accumulation) {
    const plan_of_test evaluating{.evaluates = true, .accumulation = accumulation};
    const plan_of_test plain{.uses_graphs = false, .accumulation = accumulation};
    if (t5zero_test::under_sanitizer()) {  // every kernel of the others, launched and replayed
      CHECK(train<Model, TestType>(evaluating).graphs_kept > 1);
      return;
    }
    const trained expected = train<Model, TestType>(plain);
    CHECK(expected.graphs_made == 0);
    const auto expect_same_bits = [&](const plan_of_test& how) {
      CAPTURE(Model::name, how.uses_graphs, how.overlaps, how.evaluates);
      const trained result = train<Model, TestType>(how);
      CHECK(t5zero_test::same_bits(result.weights, expected.weights));
      if (!how.uses_graphs) return;
      CHECK(result.graphs_kept > 1);
      CHECK(result.graphs_made > result.graphs_kept);  // some gave way
    };
    expect_same_bits(evaluating);
    expect_same_bits(plain);
    expect_same_bits({.uses_graphs = false, .overlaps = false, .accumulation = accumulation});
    expect_same_bits({.accumulation = accumulation});
  };
  if (!t5zero_test::under_sanitizer()) check(golden::tiny_relu{}, 1);
  check(golden::tiny_gated{}, 2);
}

TEMPLATE_TEST_CASE("recomputed activations on a GPU: the same bits", "[cuda]", t5zero::fp32, t5zero::fp16,
                   t5zero::bf16) {
  if (!t5zero_test::has_gpu()) return;
  for (const index_t longest : {index_t{60}, index_t{t5zero_test::under_sanitizer() ? 140 : 300}}) {
    CAPTURE(longest);
    const trained recomputed =
        train<three_layers<TestType>, TestType>({.recomputes = true, .longest = longest});
    CHECK(recomputed.graphs_kept > 1);
    if (t5zero_test::under_sanitizer()) continue;  // the others launch no other kernels
    const trained expected = train<three_layers<TestType>, TestType>({.longest = longest});
    CHECK(t5zero_test::same_bits(recomputed.weights, expected.weights));
    CHECK(t5zero_test::same_bits(
        train<three_layers<TestType>, TestType>({.uses_graphs = false, .overlaps = false, .longest = longest})
            .weights,
        expected.weights));
  }
}
