// Planned bytes are allocated bytes, and after the first step nothing is allocated at all.

#include <numeric>
#include <vector>

#include <t5zero/cpu.hpp>

#include "allocation_counter.hpp"
#include "catch.hpp"
#include "golden.hpp"
#include "golden_models.hpp"
#include "skip.hpp"

namespace {

using t5zero::index_t;

using tiny = golden::tiny_gated;

/// First layer and last: the same.
struct one_layer {
  static constexpr std::string_view name = "one_layer";
  static constexpr t5zero::model_shape shape{.d_model = 64,
                                             .d_kv = 16,
                                             .d_ff = 96,
                                             .n_heads = 4,
                                             .n_encoder_layers = 1,
                                             .n_decoder_layers = 1,
                                             .vocab_size = 384};
};

/// The CPU's memory, counting what is held.
struct counted_memory : t5zero::cpu::memory {
  static inline index_t held = 0;
  static std::byte* allocate(index_t bytes) {
    held += bytes;
    return t5zero::cpu::memory::allocate(bytes);
  }
  static void release(std::byte* data, index_t bytes) noexcept {
    held -= bytes;
    t5zero::cpu::memory::release(data, bytes);
  }
};
struct counted_backend : t5zero::cpu::backend {
  using memory = counted_memory;
};

golden::ragged_batch make_batch(index_t batch, index_t length) {
  golden::ragged_batch result;
  for (index_t row = 0; row < batch; ++row) {
    std::vector<std::int32_t> source(static_cast<std::size_t>(length + row));
    std::iota(source.begin(), source.end(), static_cast<std::int32_t>(10 + row));
    const std::vector<std::int32_t> target(source.begin(), source.begin() + (length + 1) / 2);
    golden::add_row(result, source, target);
  }
  return result;
}

t5zero::batch_shape shape_of(const golden::ragged_batch& batch) {
  const t5zero::batch_view view = batch.view();
  return {view.source.batch, view.source.tokens, view.target.tokens, view.source.max_length,
          view.target.max_length};
}

/// The bits of all weights after three steps with dropout.
template <class Run>
std::vector<float> train(int threads, t5zero::trainer_options options = {}) {
  const golden::ragged_batch batch = make_batch(3, 37);
  options.threads = threads;
  options.scaler.initial_scale = 1024;
  t5zero::trainer<Run> trainer(Run::model::shape, shape_of(batch), options);
  trainer.initialize(7);
  long after_first = 0;
  int skipped = 0;
  for (int step = 0; step < 3; ++step) {
    trainer.train_micro_batch(batch.view());
    skipped += trainer.update(1e-3).skipped ? 1 : 0;
    trainer.evaluate(batch.view());
    if (step == 0) after_first = t5zero_test::allocation_count();
  }
  const long at_the_end = t5zero_test::allocation_count();
  CHECK(skipped == 0);
  CHECK(at_the_end == after_first);
  return golden::weights_of(trainer);
}

}  // namespace

TEMPLATE_TEST_CASE("no allocation after the first step, the same bits with any number of threads", "",
                   t5zero::fp32, t5zero::fp16, t5zero::bf16) {
  using run = t5zero::run<tiny, t5zero::zero_2, TestType, t5zero::cpu::backend>;
  const std::vector<float> one = train<run>(1);
  CHECK(train<run>(1) == one);
  CHECK(train<run>(2) == one);
  CHECK(train<run>(3) == one);
}

TEMPLATE_TEST_CASE("recomputed activations give the same bits in less memory", "", tiny, one_layer) {
  const auto check = []<class Precision>() {
    using run = t5zero::run<TestType, t5zero::zero_2, Precision, t5zero::cpu::backend>;
    t5zero::trainer_options recomputes;
    recomputes.recomputes_activations = true;
    const std::vector<float> expected = train<run>(2);
    CHECK(train<run>(2, recomputes) == expected);
    recomputes.optimizer = t5zero::adafactor_options{};
    CHECK(train<run>(2, recomputes) != expected);
  };
  check.template operator()<t5zero::fp32>();
  check.template operator()<t5zero::bf16>();
}

TEST_CASE("what recomputing and Adafactor leave out of the plan of t5-large") {
  using run = t5zero::run<t5zero::t5_large, t5zero::zero_0, t5zero::fp32, t5zero::cpu::backend>;
  const auto plan = [](t5zero::plan_options options) {
    return run::plan(t5zero::t5_large::shape, t5zero::batch_shape::of_lengths(8, 128, 128), options);
  };
  const t5zero::memory_plan whole = plan({});
  const t5zero::memory_plan recomputed = plan({.recomputes_activations = true});
  CHECK(recomputed.activation_bytes * 3 < whole.activation_bytes);
  CHECK(recomputed.model_state_bytes() == whole.model_state_bytes());
  const t5zero::memory_plan factored = plan({.optimizer = t5zero::optimizer_kind::adafactor});
  CHECK(factored.first_moments.bytes == 0);
  CHECK(factored.second_moments.bytes * 100 < whole.second_moments.bytes);
}

TEST_CASE("the lines of a plan add up to its total") {
  using run = t5zero::run<t5zero::t5_3b, t5zero::zero_3, t5zero::bf16, t5zero::cpu::backend>;
  const t5zero::memory_plan plan =
      run::plan(t5zero::t5_3b::shape, t5zero::batch_shape::of_lengths(2, 100, 50), {.micro_batches = 2});
  index_t sum = 0;
  for (const t5zero::plan_line& line : plan.lines()) sum += line.name == "total" ? 0 : line.bytes;
  // Each slice begins at an aligned address.
  CHECK(plan.total_bytes >= sum);
  CHECK(plan.total_bytes - sum < 16 * t5zero::slice_alignment);
}

TEMPLATE_TEST_CASE("the bytes held are the bytes planned", "",
                   (t5zero::run<tiny, t5zero::zero_0, t5zero::fp32, counted_backend>),
                   (t5zero::run<tiny, t5zero::zero_2, t5zero::fp16, counted_backend>),
                   (t5zero::run<one_layer, t5zero::zero_3, t5zero::bf16, counted_backend>)) {
  const golden::ragged_batch batch = make_batch(3, 37);
  const bool recomputes = GENERATE(false, true);
  for (const index_t accumulation : {1, 2}) {
    t5zero::trainer_options options;
    options.gradient_accumulation = accumulation;
    options.evaluation_batch = shape_of(batch);
    options.scaler.initial_scale = 1024;
    options.recomputes_activations = recomputes;
    if (recomputes) options.optimizer = t5zero::adafactor_options{};
    const index_t planned = TestType::plan(TestType::model::shape, shape_of(batch),
                                           t5zero::trainer<TestType>::plan_options_of(options))
                                .total_bytes;
    REQUIRE(counted_memory::held == 0);
    {
      t5zero::trainer<TestType> trainer(TestType::model::shape, shape_of(batch), options);
      CHECK(counted_memory::held == planned);
      trainer.initialize(1);
      for (index_t micro = 0; micro < accumulation; ++micro) trainer.train_micro_batch(batch.view());
      trainer.update(1e-3);
      trainer.evaluate(batch.view());
      CHECK(counted_memory::held == planned);
    }
    CHECK(counted_memory::held == 0);
  }
}

TEST_CASE("the counter counts") {
  if (!t5zero_test::counts_allocations()) return skip_test("a sanitizer has malloc");
  const long before = t5zero_test::allocation_count();
  const std::vector<int> some(100);
  CHECK(some.size() == 100);
  CHECK(t5zero_test::allocation_count() > before);
}

TEMPLATE_TEST_CASE("16-bit gradients are those of fp32, rounded", "", tiny, one_layer) {
  const golden::ragged_batch batch = make_batch(3, 37);
  t5zero::trainer_options options;
  options.dropout_rate = 0.0F;
  options.scaler.initial_scale = 64;
  const auto gradients = [&]<class Precision>() {
    t5zero::trainer<t5zero::run<TestType, t5zero::zero_0, Precision, t5zero::cpu::backend>> trainer(
        TestType::shape, shape_of(batch), options);
    trainer.initialize(5);
    trainer.train_micro_batch(batch.view());
    std::vector<std::vector<float>> all;
    for (const t5zero::parameter_row& row : trainer.parameters()) {
      all.emplace_back(static_cast<std::size_t>(row.count()));
      trainer.read_gradient(row, all.back().data());
    }
    return all;
  };
  const auto expected = gradients.template operator()<t5zero::fp32>();
  const auto half = gradients.template operator()<t5zero::fp16>();
  const auto brain = gradients.template operator()<t5zero::bf16>();
  const auto rows = t5zero::parameter_table(TestType::shape);
  for (std::size_t i = 0; i < rows.size(); ++i) {
    CAPTURE(t5zero::checkpoint_name(rows[i]));
    CHECK(golden::relative_error(half[i], expected[i]) < 3e-2);
    CHECK(golden::relative_error(brain[i], expected[i]) < 2e-1);
  }
}

TEMPLATE_TEST_CASE("micro-batches accumulate to the gradient of their mean", "", tiny, one_layer) {
  using run = t5zero::run<TestType, t5zero::zero_0, t5zero::fp32, t5zero::cpu::backend>;
  const golden::ragged_batch batches[2] = {make_batch(2, 9), make_batch(3, 17)};
  t5zero::trainer_options options;
  options.dropout_rate = 0.0F;
  std::vector<std::vector<float>> single;
  auto gradient = [](t5zero::trainer<run>& trainer) {
    std::vector<float> all;
    for (const t5zero::parameter_row& row : trainer.parameters()) {
      std::vector<float> values(static_cast<std::size_t>(row.count()));
      trainer.read_gradient(row, values.data());
      all.insert(all.end(), values.begin(), values.end());
    }
    return all;
  };
  for (const golden::ragged_batch& batch : batches) {
    t5zero::trainer<run> trainer(TestType::shape, shape_of(batches[1]), options);
    trainer.initialize(3);
    trainer.train_micro_batch(batch.view());
    single.push_back(gradient(trainer));
  }
  options.gradient_accumulation = 2;
  t5zero::trainer<run> trainer(TestType::shape, shape_of(batches[1]), options);
  trainer.initialize(3);
  trainer.train_micro_batch(batches[0].view());
  trainer.train_micro_batch(batches[1].view());
  std::vector<float> mean(single[0].size());
  for (std::size_t i = 0; i < mean.size(); ++i) mean[i] = 0.5F * (single[0][i] + single[1][i]);
  CHECK(golden::relative_error(gradient(trainer), mean) < 1e-5);
}
