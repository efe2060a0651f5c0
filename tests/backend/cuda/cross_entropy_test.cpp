// Cross entropy on the GPU against the CPU's.
#include <t5zero/backend/cpu/operations.hpp>
#include <t5zero/backend/cuda/operations.hpp>

#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <random>
#include <vector>

#include "backend/cuda/device_machine.hpp"
#include "backend/cuda/host_machine.hpp"
#include "catch.hpp"

namespace {

using namespace t5zero_test;

// 32768 values stay in registers, more do not.
const std::vector<std::array<index_t, 2>> shapes{{1, 1},     {5, 7},     {3, 100},   {4, 4096},  {40, 32128},
                                                 {2, 32767}, {2, 32768}, {2, 32772}, {3, 50257}, {1100, 128}};

std::vector<std::int32_t> random_labels(index_t rows, index_t vocabulary) {
  std::mt19937 engine(9);
  std::vector<std::int32_t> labels(static_cast<std::size_t>(rows));
  for (auto& label : labels)
    label =
        engine() % 5 == 0 ? -100 : static_cast<std::int32_t>(engine() % static_cast<unsigned>(vocabulary));
  return labels;
}

}  // namespace

TEMPLATE_TEST_CASE("cuda: cross entropy is the CPU's", "[cuda]", float, t5zero::float16, t5zero::bfloat16) {
  if (!has_gpu()) return;
  device_machine gpu;
  host_machine cpu;
  const float smoothing = GENERATE(0.0F, 0.1F);
  const auto device_scale = on_device(std::vector<float>{512.0F});
  for (const auto& [rows, cols] : shapes) {
    CAPTURE(rows, cols, smoothing);
    const auto logits = random_elements(rows * cols, 1, 4.0F);
    const auto labels = random_labels(rows, cols);
    std::vector<double> expected_loss(static_cast<std::size_t>(2 * rows));
    auto used_up = logits;
    t5zero::cpu::operations<TestType>::cross_entropy_forward(
        cpu.main(), {used_up.data(), rows, cols}, labels.data(), smoothing, {expected_loss.data(), rows, 2});
    t5zero::loss_sums expected_sums;
    for (std::size_t t = 0; t < labels.size(); ++t) {
      expected_sums.negative_log_likelihood += expected_loss[2 * t];
      expected_sums.uniform += expected_loss[2 * t + 1];
      expected_sums.labels += labels[t] >= 0 ? 1 : 0;
    }

    const auto device_labels = on_device(labels);
    const auto device_logits = on_device(logits);
    const device_array<double> loss(2 * rows);
    t5zero::cuda::operations<TestType>::cross_entropy_forward(
        gpu.main(), device_logits.matrix(rows, cols), device_labels.data(), smoothing, loss.matrix(rows, 2));
    CHECK(largest_difference(loss.download(), expected_loss) < 3e-6);  // fp32 sums of 32128 exponentials

    const device_array<t5zero::loss_sums> sums(1);
    t5zero::cuda::operations<TestType>::sum_losses(gpu.main(), loss.matrix(rows, 2), device_labels.data(),
                                                   sums.data());
    const auto found_sums = sums.download()[0];
    CHECK(found_sums.labels == expected_sums.labels);
    CHECK(std::abs(found_sums.negative_log_likelihood - expected_sums.negative_log_likelihood) <=
          1e-6 * (1.0 + expected_sums.negative_log_likelihood));
    CHECK(std::abs(found_sums.uniform - expected_sums.uniform) <= 1e-6 * (1.0 + expected_sums.uniform));

    // In fp32 the gradient takes the logits' place, as it does in training.
    std::vector<TestType> expected(logits.size());
    used_up = logits;
    t5zero::cpu::cross_entropy_backward<TestType>(cpu.main(), {used_up.data(), rows, cols}, labels.data(),
                                                  smoothing, 512.0F * 0.25F, {expected.data(), rows, cols},
                                                  {expected_loss.data(), rows, 2});
    std::vector<TestType> first;
    for (int run = 0; run < 2; ++run) {
      const auto own_logits = on_device(logits);
      const device_array<TestType> apart(rows * cols);
      device_array<double> own_loss(2 * rows);
      if constexpr (sizeof(TestType) == 4) {
        t5zero::cuda::operations<TestType>::cross_entropy_backward(
            gpu.main(), own_logits.matrix(rows, cols), device_labels.data(), smoothing, device_scale.data(),
            0.25F, own_logits.matrix(rows, cols), own_loss.matrix(rows, 2));
      } else {
        t5zero::cuda::operations<TestType>::cross_entropy_backward(
            gpu.main(), own_logits.matrix(rows, cols), device_labels.data(), smoothing, device_scale.data(),
            0.25F, apart.matrix(rows, cols), own_loss.matrix(rows, 2));
      }
      std::vector<TestType> found;
      if constexpr (sizeof(TestType) == 4)
        found = own_logits.download();
      else
        found = apart.download();
      // 128 (p - 1): where p is nearly 1, what is left are the last bits of 128 p.
      CHECK(largest_difference(found, expected) < (sizeof(TestType) == 4 ? 2e-4 : tolerance<TestType>));
      CHECK(same_bits(own_loss.download(), loss.download()));
      if (run == 1) CHECK(same_bits(found, first));
      first = found;
    }
  }
}

TEST_CASE("cuda: infinite logits and a label beyond the vocabulary give NaN, not a crash", "[cuda]") {
  if (!has_gpu()) return;
  device_machine gpu;
  auto values = random_elements(3 * 64, 1);
  values[5] = INFINITY;
  const auto logits = on_device(values);
  const auto labels = on_device(std::vector<std::int32_t>{0, 64, 2});
  const device_array<double> loss(6);
  t5zero::cuda::operations<float>::cross_entropy_forward(gpu.main(), logits.matrix(3, 64), labels.data(),
                                                         0.0F, loss.matrix(3, 2));
  const auto found = loss.download();
  CHECK(std::isnan(found[0]));
  CHECK(std::isnan(found[2]));
  CHECK(std::isfinite(found[4]));
}
