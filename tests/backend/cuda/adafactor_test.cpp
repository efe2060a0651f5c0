// Adafactor on the GPU against the CPU's.
#include <t5zero/backend/cpu/operations.hpp>
#include <t5zero/backend/cuda/operations.hpp>

#include <cstddef>
#include <vector>

#include "backend/cuda/device_machine.hpp"
#include "backend/cuda/host_machine.hpp"
#include "catch.hpp"

namespace {

using namespace t5zero_test;
using t5zero::dtype_of;

struct shape {
  index_t rows;
  index_t cols;
  bool is_vector;
};

// Relative bias, projections, more rows than one sum takes, columns around a chunk, and no whole packs.
const std::vector<shape> shapes{{1, 1, true},    {1, 512, true},     {1, 1030, true},    {1, 1, false},
                                {32, 8, false},  {7, 13, false},     {512, 511, false},  {513, 512, false},
                                {9, 516, false}, {257, 2048, false}, {4100, 129, false}, {2000, 1028, false}};

}  // namespace

TEMPLATE_TEST_CASE("cuda: Adafactor is the CPU's", "[cuda]", float, t5zero::float16, t5zero::bfloat16) {
  if (!has_gpu()) return;
  device_machine gpu;
  host_machine cpu;
  const bool decays = GENERATE(true, false);
  // A large rate and threshold: is the step clipped or not?
  const float threshold = GENERATE(0.5F, 100.0F);
  for (const auto& [rows, cols, is_vector] : shapes) {
    CAPTURE(rows, cols, is_vector, decays, threshold);
    t5zero::adafactor_params params;
    params.learning_rate = 0.01F;
    params.beta2 = 0.75F;
    params.one_minus_beta2 = 0.25F;
    params.clip_threshold = threshold;
    params.weight_decay = 0.1F;
    params.grad_multiplier = 0.5F;
    const auto gradient = random_elements<TestType>(rows * cols, 1);
    const auto master = random_elements(rows * cols, 2);
    auto row_moments = random_elements(rows, 3);
    auto column_moments = random_elements(cols, 4);
    for (float& value : row_moments) value = 0.1F + value * value;
    for (float& value : column_moments) value = 0.1F + value * value;

    auto expected = master;
    auto expected_rows = row_moments;
    auto expected_columns = column_moments;
    std::vector<TestType> expected_weights(gradient.size());
    auto host_params = params;
    if (!decays) host_params.weight_decay = 0.0F;
    t5zero::cpu::adafactor(cpu.main(), host_params, is_vector, rows, cols, expected.data(),
                           expected_rows.data(), expected_columns.data(), gradient.data(),
                           expected_weights.data());

    const auto device_gradient = on_device(gradient);
    std::vector<float> first;
    for (int run = 0; run < 2; ++run) {
      const auto device_params = on_device(std::vector<t5zero::adafactor_params>{params});
      const auto device_master = on_device(master);
      const auto device_rows = on_device(row_moments);
      const auto device_columns = on_device(column_moments);
      const device_array<TestType> weights(rows * cols);
      t5zero::cuda::operations<TestType>::adafactor(
          gpu.main(), device_params.data(), decays, is_vector, rows, cols, device_master.data(),
          device_rows.data(), device_columns.data(),
          reinterpret_cast<const std::byte*>(device_gradient.data()), dtype_of<TestType>, weights.data());
      const auto found = device_master.download();
      CHECK(largest_difference(found, expected) < 1e-6);
      CHECK(largest_difference(device_rows.download(), expected_rows) < 1e-5);
      CHECK(largest_difference(device_columns.download(), expected_columns) < 1e-5);
      CHECK(largest_difference(weights.download(), expected_weights) < tolerance<TestType>);
      if (run == 1) CHECK(same_bits(found, first));
      first = found;
    }
  }
}

TEST_CASE("cuda: Adafactor does nothing where it does not apply", "[cuda]") {
  if (!has_gpu()) return;
  device_machine gpu;
  const bool is_vector = GENERATE(true, false);
  t5zero::adafactor_params params;
  params.applies = false;
  params.learning_rate = 1.0F;
  const auto device_params = on_device(std::vector<t5zero::adafactor_params>{params});
  const auto master = random_elements(4 * 64, 1);
  const std::vector<float> moments(4 * 64, 1.0F);
  const auto device_master = on_device(master);
  const auto row_moments = on_device(moments);
  const auto column_moments = on_device(moments);
  const auto gradient = on_device(random_elements(4 * 64, 2));
  t5zero::cuda::operations<float>::adafactor(
      gpu.main(), device_params.data(), true, is_vector, is_vector ? 1 : 4, is_vector ? 256 : 64,
      device_master.data(), row_moments.data(), column_moments.data(),
      reinterpret_cast<const std::byte*>(gradient.data()), t5zero::dtype::f32, nullptr);
  CHECK(same_bits(device_master.download(), master));
  CHECK(same_bits(row_moments.download(), moments));
  CHECK(same_bits(column_moments.download(), moments));
}
