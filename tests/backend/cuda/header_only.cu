// A program of one translation unit, kernels included: links without the library t5zero::kernels, and trains.
#include <t5zero/cuda.cuh>

#include <cmath>
#include <cstdint>
#include <iostream>
#include <vector>

#include "golden_models.hpp"

int main() {
  using t5zero::index_t;
  using run = t5zero::run<golden::tiny_relu, t5zero::zero_2, t5zero::fp32, t5zero::cuda::backend>;
  if (!run::backend::is_available()) {
    std::cerr << "skipped: no GPU\n";
    return 4;
  }
  const std::vector<index_t> offsets{0, 3};
  const std::vector<std::uint32_t> rows(3, 0);
  const std::vector<std::uint32_t> positions{0, 1, 2};
  const std::vector<std::int32_t> ids{5, 6, 1};
  t5zero::batch_view batch;
  batch.source = batch.target = {offsets.data(), rows.data(), positions.data(), 1, 3, 3};
  batch.source_ids = batch.decoder_ids = batch.labels = ids.data();
  t5zero::trainer_options options;
  options.dropout_rate = 0.0F;
  t5zero::trainer<run> trainer(golden::tiny_relu::shape, t5zero::batch_shape::of_lengths(1, 3, 3), options);
  trainer.initialize(1);
  const double before = trainer.train_micro_batch(batch);
  trainer.update(1e-2);
  const double after = trainer.evaluate(batch);
  std::cout << run::name() << ": " << before << " " << after << "\n";
  return std::isfinite(before) && after < before ? 0 : 1;
}
