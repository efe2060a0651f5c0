// A training loop of one's own over the public headers: no command line, no files, any batches.
#include <t5zero/cpu.hpp>

#include <cstdint>
#include <cstdio>
#include <vector>

using run = t5zero::run<t5zero::t5_small, t5zero::zero_0, t5zero::fp32, t5zero::cpu::backend>;

namespace {

/// Sequences stand one after another, without padding; here one of each side.
struct one_pair {
  std::vector<std::int32_t> source{100, 200, 300, 1};  // 1 is the end of a sequence
  std::vector<std::int32_t> labels{400, 500, 1};
  std::vector<std::int32_t> decoder{0, 400, 500};  // the labels, shifted right
  std::vector<std::uint32_t> rows{0, 0, 0, 0};
  std::vector<std::uint32_t> positions{0, 1, 2, 3};
  std::vector<t5zero::index_t> source_offsets{0, 4};
  std::vector<t5zero::index_t> target_offsets{0, 3};

  [[nodiscard]] t5zero::batch_view view() const {
    return {{source_offsets.data(), rows.data(), positions.data(), 1, 4, 4},
            {target_offsets.data(), rows.data(), positions.data(), 1, 3, 3},
            source.data(),
            decoder.data(),
            labels.data()};
  }
};

}  // namespace

int main() {
  t5zero::trainer_options options;
  options.threads = t5zero::cpu::backend::default_threads();
  options.dropout_rate = 0.0F;

  // The largest batch that will come: it sizes the one allocation.
  const auto largest = t5zero::batch_shape::of_lengths(1, 4, 4);
  t5zero::trainer<run> trainer(run::model::shape, largest, options);
  trainer.initialize(/*seed=*/42);

  const one_pair pair;
  const t5zero::lr_schedule schedule{t5zero::lr_schedule_kind::constant, 1e-3};
  for (t5zero::index_t step = 0; step < 5; ++step) {
    const double loss = trainer.train_micro_batch(pair.view());
    const t5zero::update_result result = trainer.update(schedule(step));
    std::printf("step %lld: loss %.4f, gradient norm %.3f\n", static_cast<long long>(step), loss,
                result.grad_norm);
  }
}
