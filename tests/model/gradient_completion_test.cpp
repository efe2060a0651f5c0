// What a model says of its gradients: each element is completed once, after its last contribution.
#include <t5zero/cpu.hpp>

#include <cstddef>
#include <cstring>
#include <limits>
#include <string_view>
#include <vector>

#include "catch.hpp"
#include "golden_generation.hpp"
#include "golden_models.hpp"

namespace {

using t5zero::index_t;

struct shape_case {
  std::string_view name;
  t5zero::model_shape shape;
};

std::vector<shape_case> shape_cases() {
  std::vector<shape_case> cases{{"relu, tied", golden::tiny_relu::shape},
                                {"gated, untied", golden::tiny_gated::shape},
                                {"gated, tied", golden::tiny_gated_tied::shape}};
  const auto with_layers = [&](std::string_view name, index_t encoder, index_t decoder) {
    shape_case more{name, golden::tiny_relu::shape};
    more.shape.n_encoder_layers = encoder;
    more.shape.n_decoder_layers = decoder;
    cases.push_back(more);
  };
  with_layers("one layer each", 1, 1);
  with_layers("one and three layers", 1, 3);
  with_layers("three layers and one", 3, 1);
  return cases;
}

}  // namespace

TEMPLATE_TEST_CASE("each gradient is completed once, when it is whole", "", t5zero::fp32, t5zero::bf16) {
  using backend = t5zero::cpu::backend;
  using run = t5zero::run<golden::tiny_relu, t5zero::zero_0, TestType, backend>;
  using T = typename run::param_type;
  golden::ragged_batch batch;
  golden::add_row(batch, {5, 6, 7, 1}, {9, 4, 1});
  golden::add_row(batch, {9, 1}, {8, 1});
  const bool recomputes = GENERATE(false, true);
  for (const auto& [name, shape] : shape_cases()) {
    CAPTURE(name, recomputes);
    const t5zero::memory_plan plan =
        run::plan(shape, golden::shape_of(batch), {.recomputes_activations = recomputes});
    const t5zero::trainer_memory<run> memory(plan);
    typename backend::device device({.threads = 1});
    device.set_workspace(memory.template at<std::byte>(plan.workspace), plan.workspace.bytes);
    const index_t count = t5zero::parameter_count(shape);
    auto* weights = memory.weights();
    for (index_t i = 0; i < count; ++i)
      weights[i] = static_cast<T>(0.02F * static_cast<float>(i * 37 % 19 - 9));
    // Whatever is completed before it is written differs from what it is in the end.
    auto* gradients = memory.template at<T>(plan.gradients);
    for (index_t i = 0; i < count; ++i)
      gradients[i] = static_cast<T>(std::numeric_limits<float>::quiet_NaN());

    std::vector<int> completed(static_cast<std::size_t>(count));
    std::vector<T> seen(static_cast<std::size_t>(count));
    using ops = typename run::operations;
    t5zero::zero::local_gradients sink(
        shape, memory.template at<std::byte>(plan.gradients), plan.gradient_type,
        memory.template at<float>(plan.gradient_sums),
        [&](const float* from, void* to, t5zero::dtype type, index_t elements) {
          ops::convert(device.main(), from, to, type, elements);
        },
        [&](float* sums, index_t elements) {
          ops::fill_zero(device.main(), t5zero::matrix_view<float>(sums, 1, elements));
        },
        [&](t5zero::parameter_range range) {
          REQUIRE(range.first >= 0);
          REQUIRE(range.first + range.count <= count);
          for (index_t i = range.first; i < range.first + range.count; ++i) {
            ++completed[static_cast<std::size_t>(i)];
            seen[static_cast<std::size_t>(i)] = gradients[i];
          }
        });
    sink.begin_micro_batch(false);
    t5zero::zero::resident_source<T> source(weights);
    const t5zero::model::activations<T> activations(memory.data(), plan.training, shape);
    const float scale = 1.0F;
    t5zero::loss_sums sums;
    const t5zero::model::t5<typename run::sublayers, T> model(shape);
    model.forward_backward(device.main(), source, sink, batch.view(), t5zero::dropout_state{},
                           {.gradient_scale = &scale, .sums = &sums}, activations);
    index_t once = 0;
    for (const int times : completed) once += times == 1 ? 1 : 0;
    CHECK(once == count);
    CHECK(std::memcmp(seen.data(), gradients, static_cast<std::size_t>(count) * sizeof(T)) == 0);
  }
}
