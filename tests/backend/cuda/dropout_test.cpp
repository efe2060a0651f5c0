// Dropout and the residual sum on the GPU against the CPU's: the masks are the same bit for bit.
#include <t5zero/backend/cpu/operations.hpp>
#include <t5zero/backend/cuda/operations.hpp>

#include <vector>

#include "backend/cuda/device_machine.hpp"
#include "backend/cuda/host_machine.hpp"
#include "catch.hpp"

namespace {

using namespace t5zero_test;

const std::vector<std::vector<index_t>> batches{{1}, {3, 0, 5, 1}, {40}, {0, 129, 7, 0}};
const std::vector<index_t> widths{1, 4, 7, 8, 64, 511, 512, 520, 1024, 4100};

}  // namespace

TEST_CASE("cuda: residual sum with dropout is the CPU's", "[cuda]") {
  if (!has_gpu()) return;
  device_machine gpu;
  host_machine cpu;
  const float rate = GENERATE(0.0F, 0.1F, 0.9F);
  const dropout_pair site(rate);
  for (const auto& lengths : batches) {
    const ragged_batch tokens(lengths, 11);
    const device_ragged_batch device_tokens(tokens);
    const index_t rows = tokens.tokens();
    for (const index_t cols : widths) {
      CAPTURE(rows, cols, rate);
      const auto x = random_elements(rows * cols, 1);
      const auto branch = random_elements(rows * cols, 2);
      std::vector<float> expected(x.size());
      t5zero::cpu::operations<float>::residual_dropout_add(cpu.main(), {x.data(), rows, cols},
                                                           {branch.data(), rows, cols}, site.host(),
                                                           tokens.view(), {expected.data(), rows, cols});
      const auto device_x = on_device(x);
      const auto device_branch = on_device(branch);
      const device_array<float> out(rows * cols);
      t5zero::cuda::operations<float>::residual_dropout_add(gpu.main(), device_x.matrix(rows, cols),
                                                            device_branch.matrix(rows, cols), site.device(),
                                                            device_tokens.view(), out.matrix(rows, cols));
      // A product of up to 40 may be rounded before the sum on one side, and not on the other.
      CHECK(largest_difference(out.download(), expected) < 5e-6);
      // In place.
      t5zero::cuda::operations<float>::residual_dropout_add(
          gpu.main(), device_x.matrix(rows, cols), device_branch.matrix(rows, cols), site.device(),
          device_tokens.view(), device_x.matrix(rows, cols));
      CHECK(same_bits(device_x.download(), out.download()));
    }
  }
}

TEMPLATE_TEST_CASE("cuda: dropout of gradients and in place is the CPU's", "[cuda]", float, t5zero::float16,
                   t5zero::bfloat16) {
  if (!has_gpu()) return;
  device_machine gpu;
  host_machine cpu;
  const float rate = GENERATE(0.0F, 0.1F);
  const dropout_pair site(rate);
  for (const auto& lengths : batches) {
    const ragged_batch tokens(lengths);
    const device_ragged_batch device_tokens(tokens);
    const index_t rows = tokens.tokens();
    for (const index_t cols : widths) {
      CAPTURE(rows, cols, rate);
      const auto grad = random_elements(rows * cols, 1);
      std::vector<TestType> expected(grad.size());
      t5zero::cpu::operations<TestType>::dropout_backward(cpu.main(), {grad.data(), rows, cols}, site.host(),
                                                          tokens.view(), {expected.data(), rows, cols});
      const auto device_grad = on_device(grad);
      const device_array<TestType> out(rows * cols);
      t5zero::cuda::operations<TestType>::dropout_backward(gpu.main(), device_grad.matrix(rows, cols),
                                                           site.device(), device_tokens.view(),
                                                           out.matrix(rows, cols));
      CHECK(same_bits(out.download(), expected));

      auto x = random_elements<TestType>(rows * cols, 2);
      const auto device_x = on_device(x);
      t5zero::cpu::operations<TestType>::template dropout_in_place<TestType>(
          cpu.main(), {x.data(), rows, cols}, site.host(), tokens.view());
      t5zero::cuda::operations<TestType>::template dropout_in_place<TestType>(
          gpu.main(), device_x.matrix(rows, cols), site.device(), device_tokens.view());
      CHECK(same_bits(device_x.download(), x));
    }
  }
}

TEST_CASE("cuda: zeros fill a matrix and leave what is between its rows", "[cuda]") {
  if (!has_gpu()) return;
  device_machine gpu;
  const auto memory = on_device(std::vector<float>(5 * 12, 1.0F));
  t5zero::cuda::operations<float>::fill_zero(gpu.main(), {memory.data(), 5, 7, 12});
  const auto found = memory.download();
  for (std::size_t i = 0; i < found.size(); ++i) CHECK(found[i] == (i % 12 < 7 ? 0.0F : 1.0F));
  t5zero::cuda::operations<float>::fill_zero(gpu.main(), {memory.data(), 5, 12});
  CHECK(same_bits(memory.download(), std::vector<float>(5 * 12, 0.0F)));
}
