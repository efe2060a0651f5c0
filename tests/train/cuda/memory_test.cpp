// What a training takes from the GPU is what its plan says: the arena, and graphs of steps as far as there is
// room.
#include <t5zero/cuda.hpp>

#include <cstdint>
#include <string>
#include <vector>

#include "backend/cuda/device_machine.hpp"
#include "catch.hpp"
#include "golden_generation.hpp"
#include "golden_models.hpp"
#include "skip.hpp"

namespace {

using t5zero::index_t;
using backend = t5zero::cuda::backend;

golden::ragged_batch sentence(index_t source, index_t target) {
  golden::ragged_batch batch;
  golden::add_row(batch, std::vector<std::int32_t>(static_cast<std::size_t>(source), 5),
                  std::vector<std::int32_t>(static_cast<std::size_t>(target), 7));
  return batch;
}

/// Two updates on each of 36 shapes, more than there is room for; then what the GPU has left.
template <class Run>
index_t available_after_training(t5zero::trainer<Run>& trainer) {
  trainer.initialize(1);
  for (int use = 0; use < 2; ++use) {
    for (index_t source = 16; source <= 96; source += 16) {
      for (index_t target = 16; target <= 96; target += 16) {
        trainer.train_micro_batch(sentence(source, target).view());
        trainer.update(1e-4);
      }
    }
  }
  return backend::memory::available_bytes();
}

}  // namespace

TEST_CASE("the GPU's memory in use is what was planned, graphs included", "[cuda]") {
  if (!t5zero_test::has_gpu()) return;
  if (t5zero_test::under_sanitizer()) return skip_test("a sanitizer takes memory of its own");
  using run = t5zero::run<t5zero::t5_small, t5zero::zero_2, t5zero::fp16, backend>;
  const t5zero::batch_shape largest = golden::shape_of(sentence(96, 96));
  const auto trains = [&](bool uses_graphs) {
    t5zero::trainer_options options;
    options.uses_graphs = uses_graphs;
    const index_t before = backend::memory::available_bytes();
    t5zero::trainer<run> trainer(run::model::shape, largest, options);
    const index_t taken = before - available_after_training(trainer);
    return static_cast<double>(taken) / static_cast<double>(trainer.plan().total_bytes);
  };
  static_cast<void>(trains(false));  // the driver's context, and code that is loaded when it is needed
  CHECK(trains(false) == Approx(1.0).margin(0.01));
  CHECK(trains(true) == Approx(1.0).margin(0.05));
}

TEST_CASE("a model that the kernels do not take is refused before anything is allocated", "[cuda]") {
  const auto refusal = [](t5zero::model_shape shape) -> std::string {
    try {
      static_cast<void>(t5zero::plan_memory<backend, t5zero::fp16>(shape, {}));
    } catch (const t5zero::input_error& e) {
      return e.what();
    }
    return "";
  };
  t5zero::model_shape shape = t5zero::t5_small::shape;
  CHECK(refusal(shape).empty());
  shape.d_kv = 136;
  CHECK(refusal(shape) == "the CUDA backend takes no model of this shape: d_kv is at most 128");
  shape = t5zero::t5_small::shape;
  shape.n_buckets = 4;
  shape.n_heads = 1;
  CHECK(refusal(shape).find("n_buckets times n_heads") != std::string::npos);
  shape = t5zero::t5_small::shape;
  shape.d_model = 8192;
  CHECK(refusal(shape).find("d_model") != std::string::npos);
}
