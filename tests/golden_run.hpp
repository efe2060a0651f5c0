// The whole step of a run against PyTorch: loss, logits, encoder output, every gradient, 24 AdamW steps.
#pragma once

#include <t5zero/t5zero.hpp>

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "catch.hpp"
#include "golden.hpp"
#include "golden_models.hpp"

namespace golden {

using t5zero::index_t;

inline t5zero::batch_shape largest(const ragged_batch* batches, int count) {
  t5zero::batch_shape shape;
  for (int i = 0; i < count; ++i) {
    const t5zero::batch_view view = batches[i].view();
    shape.batch = std::max(shape.batch, view.source.batch);
    shape.source_tokens = std::max(shape.source_tokens, view.source.tokens);
    shape.target_tokens = std::max(shape.target_tokens, view.target.tokens);
    shape.max_source_length = std::max(shape.max_source_length, view.source.max_length);
    shape.max_target_length = std::max(shape.max_target_length, view.target.max_length);
  }
  return shape;
}

template <class Run>
struct golden_run {
  golden_run(t5zero::trainer_options options, const tensors& values)
      : batches{read_batch(values, 0), read_batch(values, 1), read_batch(values, 2), read_batch(values, 3)},
        trainer(Run::model::shape, largest(batches, 4), options) {
    const tensors weights = golden::read(directory(std::string(Run::model::name)) / "model.safetensors");
    trainer.load([&](const t5zero::parameter_row& row, float* to) {
      const auto& from = weights.at(t5zero::checkpoint_name(row)).values;
      std::copy(from.begin(), from.end(), to);
    });
  }
  static t5zero::trainer_options defaults() {
    t5zero::trainer_options options;
    options.dropout_rate = 0.0F;
    options.threads = 2;
    // tiny_gated's gradients reach 50: 65536 times that overflows fp16, and its own test is elsewhere.
    options.scaler.initial_scale = 256.0;
    return options;
  }
  std::vector<float> read(const t5zero::parameter_row& row) const {
    std::vector<float> values(static_cast<std::size_t>(row.count()));
    trainer.read(row, values.data());
    return values;
  }

  ragged_batch batches[4];
  t5zero::trainer<Run> trainer;
};

/// Bounds of one precision: relative, in the L2 norm of a tensor.
struct tolerance {
  double loss;
  double tensor;
  double step;
  double final_weights;
};
// fp32: sums in another order than PyTorch's. fp16 and tf32 round each matmul input to 11 bits, bf16 to 8;
// the sums of a norm's gradient cancel most, so they set the bound.
template <class Precision>
constexpr tolerance tolerance_of =
    std::is_same_v<Precision, t5zero::fp32>    ? tolerance{1e-6, 1e-5, 1e-5, 1e-4}
    : !std::is_same_v<Precision, t5zero::bf16> ? tolerance{1e-3, 3e-2, 1e-2, 1e-2}
                                               : tolerance{4e-3, 1e-1, 4e-2, 4e-2};

template <class Run>
void check_forward_and_gradients() {
  constexpr tolerance bound = tolerance_of<typename Run::precision>;
  const tensors values = golden::read(directory(std::string(Run::model::name)) / "golden.safetensors");
  golden_run<Run> run(golden_run<Run>::defaults(), values);
  const t5zero::batch_view batch = run.batches[0].view();

  const double expected_loss = values.at("forward.loss").values[0];
  CHECK(std::abs(run.trainer.evaluate(batch) / expected_loss - 1.0) < bound.loss);

  std::vector<float> encoder;
  for (const auto value : run.trainer.encoder_output(batch.source.tokens))
    encoder.push_back(static_cast<float>(value));
  CHECK(relative_error(encoder, without_padding(values.at("forward.encoder_last_hidden_state"),
                                                run.batches[0].source_offsets)) < bound.tensor);
  CHECK(relative_error(run.trainer.logits(batch.target.tokens),
                       without_padding(values.at("forward.logits"), run.batches[0].target_offsets)) <
        bound.tensor);

  CHECK(std::abs(run.trainer.train_micro_batch(batch) / expected_loss - 1.0) < bound.loss);
  for (const t5zero::parameter_row& row : run.trainer.parameters()) {
    const std::string name = t5zero::checkpoint_name(row);
    std::vector<float> gradient(static_cast<std::size_t>(row.count()));
    run.trainer.read_gradient(row, gradient.data());
    CAPTURE(name);
    CHECK(relative_error(gradient, values.at("grad." + name).values) < bound.tensor);
  }

  t5zero::trainer_options smoothed = golden_run<Run>::defaults();
  smoothed.label_smoothing = 0.1F;
  golden_run<Run> smooth(smoothed, values);
  const double expected_smoothed = values.at("forward.label_smoothed_loss_0.1").values[0];
  CHECK(std::abs(smooth.trainer.evaluate(batch) / expected_smoothed - 1.0) < bound.loss);
  CHECK(std::abs(smooth.trainer.train_micro_batch(batch) / expected_smoothed - 1.0) < bound.loss);
}

template <class Run>
void check_training(index_t steps = 24) {
  constexpr tolerance bound = tolerance_of<typename Run::precision>;
  const tensors values = golden::read(directory(std::string(Run::model::name)) / "golden.safetensors");
  const nlohmann::json curve = read_json(directory(std::string(Run::model::name)) / "golden.json");
  t5zero::trainer_options options = golden_run<Run>::defaults();
  // The reference was trained with the groups of a hand-written loop: relative bias tables decay too.
  // (Measured: with transformers' groups exactly those two tensors differ, by the decay.)
  t5zero::adamw_options adamw;
  adamw.weight_decay = 0.01;
  adamw.decay_scope = t5zero::weight_decay_scope::all_but_norms;
  options.optimizer = adamw;
  golden_run<Run> run(options, values);
  const t5zero::lr_schedule schedule{t5zero::lr_schedule_kind::linear, 1e-3, 4, 24};
  for (index_t step = 0; step < steps; ++step) {
    CAPTURE(step);
    const auto at = static_cast<std::size_t>(step);
    const double lr = schedule(step);
    CHECK(std::abs(lr - curve["lr"][at].get<double>()) < 1e-12);
    const double loss = run.trainer.train_micro_batch(run.batches[step % 4].view());
    const t5zero::update_result result = run.trainer.update(lr);
    CHECK(std::abs(loss / curve["loss"][at].get<double>() - 1.0) < bound.step);
    CHECK(std::abs(result.grad_norm / curve["grad_norm"][at].get<double>() - 1.0) < bound.step);
  }
  if (steps < 24) return;
  for (const t5zero::parameter_row& row : run.trainer.parameters()) {
    const std::string name = t5zero::checkpoint_name(row);
    CAPTURE(name);
    CHECK(relative_error(run.read(row), values.at("trained." + name).values) < bound.final_weights);
  }
}

}  // namespace golden
