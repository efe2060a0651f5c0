// A run is a type: the one class that lists all four policies.
#pragma once

#include <string>

#include <t5zero/backend/backend.hpp>
#include <t5zero/comm/self.hpp>
#include <t5zero/plan/memory_plan.hpp>
#include <t5zero/policy/model_size.hpp>
#include <t5zero/policy/precision.hpp>
#include <t5zero/policy/zero_stage.hpp>

namespace t5zero {

/// run<t5_small, zero_2, fp16, cpu::backend>: everything that is decided at compile time.
template <class Model, class Zero, class Precision, class Backend>
struct run {
  static_assert(
      model_policy<Model>,
      "run<Model, ...>: Model is no model policy. It needs a `name` and a `shape` whose dimensions are "
      "positive, d_model, d_kv and d_ff multiples of 8: see policy/model_size.hpp");
  static_assert(zero_policy<Zero>,
                "run<..., Zero, ...>: Zero is no ZeRO policy. It needs `name`, `stage` and shards_optimizer, "
                "shards_gradients, shards_parameters, each implying the one before: use zero_0 to zero_3");
  static_assert(precision_policy<Precision>,
                "run<..., Precision, ...>: Precision is no precision policy. 16-bit param_type needs "
                "has_master_weights = true, accum_type is float: use fp32, fp16 or bf16");
  static_assert(
      backend_for<Backend, Precision>,
      "run<..., Precision, Backend>: this backend does not offer this precision. The CPU backend has fp32, "
      "fp16 and bf16; tf32 needs a GPU: use fp32 instead");

  using model = Model;
  using zero = Zero;
  using precision = Precision;
  using backend = Backend;
  using param_type = typename Precision::param_type;
  using communicator = comm::self;
  using sublayers = typename Backend::template sublayers<Precision>;
  using operations = typename Backend::template operations<Precision>;

  /// The exact bytes of this run.
  [[nodiscard]] static constexpr memory_plan plan(const model_shape& shape, const batch_shape& batch,
                                                  const plan_options& options = {}) {
    return plan_memory<Backend, Precision>(shape, batch, options);
  }

  /// "t5-small, ZeRO-2, fp16, cpu".
  [[nodiscard]] static std::string name() {
    return std::string(Model::name) + ", " + std::string(Zero::name) + ", " + std::string(Precision::name) +
           ", " + std::string(Backend::name);
  }
};

}  // namespace t5zero
