// Planned bytes are allocated bytes, and after the first step nothing is allocated at all.

#include <numeric>
#include <vector>

#include <t5zero/cpu.hpp>

#include "allocation_counter.hpp"
#include "catch.hpp"
#include "golden.hpp"

namespace {

using t5zero::index_t;

struct tiny {
  static constexpr std::string_view name = "tiny";
  static constexpr t5zero::model_shape shape{.d_model = 64,
                                             .d_kv = 16,
                                             .d_ff = 96,
                                             .n_heads = 4,
                                             .n_encoder_layers = 2,
                                             .n_decoder_layers = 2,
                                             .feed_forward = t5zero::feed_forward_kind::gated_gelu,
                                             .ties_embeddings = false,
                                             .scales_output = false,
                                             .vocab_size = 384};
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
std::vector<float> train(int threads) {
  const golden::ragged_batch batch = make_batch(3, 37);
  t5zero::trainer_options options;
  options.threads = threads;
  options.scaler.initial_scale = 1024;
  t5zero::trainer<Run> trainer(Run::model::shape, shape_of(batch), options);
  CHECK(trainer.allocated_bytes() == trainer.plan().total_bytes);
  trainer.initialize(7);
  long after_first = 0;
  for (int step = 0; step < 3; ++step) {
    trainer.train_micro_batch(batch.view());
    CHECK_FALSE(trainer.update(1e-3).skipped);
    trainer.evaluate(batch.view());
    if (step == 0) after_first = t5zero_test::allocation_count();
  }
  CHECK(t5zero_test::allocation_count() == after_first);
  std::vector<float> weights;
  for (const t5zero::parameter_row& row : trainer.parameters()) {
    std::vector<float> values(static_cast<std::size_t>(row.count()));
    trainer.read(row, values.data());
    weights.insert(weights.end(), values.begin(), values.end());
  }
  return weights;
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

TEST_CASE("micro-batches accumulate to the gradient of their mean") {
  using run = t5zero::run<tiny, t5zero::zero_0, t5zero::fp32, t5zero::cpu::backend>;
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
    t5zero::trainer<run> trainer(tiny::shape, shape_of(batches[1]), options);
    trainer.initialize(3);
    trainer.train_micro_batch(batch.view());
    single.push_back(gradient(trainer));
  }
  options.gradient_accumulation = 2;
  t5zero::trainer<run> trainer(tiny::shape, shape_of(batches[1]), options);
  trainer.initialize(3);
  trainer.train_micro_batch(batches[0].view());
  trainer.train_micro_batch(batches[1].view());
  std::vector<float> mean(single[0].size());
  for (std::size_t i = 0; i < mean.size(); ++i) mean[i] = 0.5F * (single[0][i] + single[1][i]);
  CHECK(golden::relative_error(gradient(trainer), mean) < 1e-5);
}
