// Steps that are captured and replayed, rare and frequent shapes, evaluations in between: the weights' bits
// are those of plain launches.
#include <t5zero/cuda.hpp>

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
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
  bool evaluates = false;
};

/// All weights after some updates on batches of many shapes.
template <class Precision>
std::vector<float> train(const plan_of_test& how) {
  using run = t5zero::run<golden::tiny_relu, t5zero::zero_0, Precision, t5zero::cuda::backend>;
  t5zero::trainer_options options;
  options.uses_graphs = how.uses_graphs;
  options.scaler.initial_scale = 256.0;
  t5zero::trainer<run> trainer(run::model::shape, golden::shape_of(batch_of(400, 400)), options);
  trainer.initialize(1);
  // More shapes than graphs have room, each twice; then some others, until theirs take the room.
  for (index_t round = 0; round < 7; ++round) {
    for (index_t shape = round < 2 ? 0 : 34; shape < (round < 2 ? 34 : 40); ++shape) {
      const golden::ragged_batch batch = batch_of(2 + 9 * shape, 390 - 9 * shape);
      trainer.submit_micro_batch(batch.view(), 1);
      trainer.submit_update([](index_t) { return 1e-3; });
      if (how.evaluates && shape % 7 == 0) (void)trainer.evaluate(batch.view());
      while (trainer.outstanding() >= trainer.updates_in_flight) (void)trainer.next_result();
    }
  }
  while (trainer.outstanding() > 0) (void)trainer.next_result();
  std::vector<float> all;
  for (const t5zero::parameter_row& row : trainer.parameters()) {
    std::vector<float> values(static_cast<std::size_t>(row.count()));
    trainer.read(row, values.data());
    all.insert(all.end(), values.begin(), values.end());
  }
  return all;
}

/// Weights whose bits differ, or all if the numbers of weights do.
std::size_t differing(const std::vector<float>& a, const std::vector<float>& b) {
  if (a.size() != b.size()) return std::max(a.size(), b.size());
  std::size_t count = 0;
  for (std::size_t i = 0; i < a.size(); ++i)
    count += std::bit_cast<std::uint32_t>(a[i]) != std::bit_cast<std::uint32_t>(b[i]) ? 1 : 0;
  return count;
}

}  // namespace

TEMPLATE_TEST_CASE("graphs, no graphs, and evaluations between updates: the same bits", "[cuda]",
                   t5zero::fp32, t5zero::fp16, t5zero::bf16) {
  if (!t5zero_test::has_gpu()) return;
  const std::vector<float> expected = train<TestType>({.uses_graphs = false});
  CHECK(differing(train<TestType>({.uses_graphs = false}), expected) == 0);
  CHECK(differing(train<TestType>({.uses_graphs = true}), expected) == 0);
  CHECK(differing(train<TestType>({.uses_graphs = true, .evaluates = true}), expected) == 0);
}
