// RMS norm on the GPU against the CPU's.
#include <t5zero/backend/cpu/operations.hpp>
#include <t5zero/backend/cuda/operations.hpp>
#include <t5zero/backend/cuda/reduction_workspace.hpp>

#include <array>
#include <vector>

#include "backend/cuda/device_machine.hpp"
#include "backend/cuda/host_machine.hpp"
#include "catch.hpp"

namespace {

using namespace t5zero_test;
using t5zero::matrix_view;
using t5zero::vector_view;

// Rows: one, few, many; at 2048 the weight's gradient changes its path. Columns: every block size, and rows
// that are not made of whole packs.
const std::vector<std::array<index_t, 2>> shapes{{1, 8},     {3, 7},     {5, 130},   {40, 512},
                                                 {129, 513}, {33, 1024}, {17, 2048}, {9, 4096},
                                                 {2048, 64}, {2049, 64}, {4100, 12}, {2500, 1030}};

}  // namespace

TEMPLATE_TEST_CASE("cuda: RMS norm forward is the CPU's", "[cuda]", float, t5zero::float16,
                   t5zero::bfloat16) {
  if (!has_gpu()) return;
  device_machine gpu;
  host_machine cpu;
  for (const auto& [rows, cols] : shapes) {
    CAPTURE(rows, cols);
    // Every other row of a wider buffer: a stride that is not the width.
    const index_t stride = 2 * cols;
    const auto x = random_elements(rows * stride, 1, 3.0F);
    const auto weight = random_elements<TestType>(cols, 2);
    std::vector<TestType> y(static_cast<std::size_t>(rows * cols));
    std::vector<float> inverse(static_cast<std::size_t>(rows));
    t5zero::cpu::operations<TestType>::rms_norm_forward(cpu.main(), {x.data(), rows, cols, stride},
                                                        {weight.data(), cols}, 1e-6F, {y.data(), rows, cols},
                                                        {inverse.data(), rows});

    const auto device_x = on_device(x);
    const auto device_weight = on_device(weight);
    std::vector<TestType> first;
    for (int run = 0; run < 2; ++run) {
      const device_array<TestType> device_y(rows * cols);
      const device_array<float> device_inverse(rows);
      t5zero::cuda::operations<TestType>::rms_norm_forward(
          gpu.main(), {device_x.data(), rows, cols, stride}, {device_weight.data(), cols}, 1e-6F,
          device_y.matrix(rows, cols), device_inverse.vector());
      const auto found = device_y.download();
      CHECK(largest_difference(found, y) < tolerance<TestType>);
      CHECK(largest_difference(device_inverse.download(), inverse) < 1e-6);
      if (run == 1) CHECK(same_bits(found, first));
      first = found;
    }
  }
}

TEMPLATE_TEST_CASE("cuda: RMS norm backward is the CPU's", "[cuda]", float, t5zero::float16,
                   t5zero::bfloat16) {
  if (!has_gpu()) return;
  device_machine gpu;
  host_machine cpu;
  const auto mode = GENERATE(t5zero::gradient_mode::overwrite, t5zero::gradient_mode::accumulate);
  for (const auto& [rows, cols] : shapes) {
    CAPTURE(rows, cols, mode == t5zero::gradient_mode::accumulate);
    const auto grad_y = random_elements(rows * cols, 1);
    const auto x = random_elements(rows * cols, 2, 2.0F);
    const auto weight = random_elements<TestType>(cols, 3);
    auto inverse = random_elements(rows, 4, 0.1F);
    for (float& value : inverse) value = 0.5F + value * value;
    const auto grad_x = random_elements(rows * cols, 5);
    const auto before = random_elements<TestType>(cols, 6);

    auto expected_x = grad_x;
    auto expected_weight = before;
    t5zero::cpu::operations<TestType>::rms_norm_backward(
        cpu.main(), {grad_y.data(), rows, cols}, {x.data(), rows, cols}, {weight.data(), cols},
        {inverse.data(), rows}, {expected_x.data(), rows, cols},
        {expected_weight.data(), t5zero::dtype_of<TestType>, mode, 1, cols});

    const auto device_grad_y = on_device(grad_y);
    const auto device_x = on_device(x);
    const auto device_weight = on_device(weight);
    const auto device_inverse = on_device(inverse);
    std::vector<float> first_x;
    std::vector<TestType> first_weight;
    for (int run = 0; run < 2; ++run) {
      const auto device_grad_x = on_device(grad_x);
      const auto device_grad_weight =
          mode == t5zero::gradient_mode::accumulate ? on_device(before) : device_array<TestType>(cols);
      t5zero::cuda::operations<TestType>::rms_norm_backward(
          gpu.main(), device_grad_y.matrix(rows, cols), device_x.matrix(rows, cols), device_weight.vector(),
          device_inverse.vector(), device_grad_x.matrix(rows, cols),
          {device_grad_weight.data(), t5zero::dtype_of<TestType>, mode, 1, cols});
      const auto found_x = device_grad_x.download();
      const auto found_weight = device_grad_weight.download();
      CHECK(largest_difference(found_x, expected_x) < 1e-5);
      // Sums of up to 4100 products of the size of one: absolute errors grow with their root.
      CHECK(largest_difference(found_weight, expected_weight) < tolerance<TestType> + 1e-4);
      if (run == 1) {
        CHECK(same_bits(found_x, first_x));
        CHECK(same_bits(found_weight, first_weight));
      }
      first_x = found_x;
      first_weight = found_weight;
    }
  }
}

TEMPLATE_TEST_CASE("cuda: RMS norm backward with dropout behind it is both one after the other", "[cuda]",
                   float, t5zero::float16, t5zero::bfloat16) {
  if (!has_gpu()) return;
  using ops = t5zero::cuda::operations<TestType>;
  device_machine gpu;
  const float rate = GENERATE(0.0F, 0.1F);
  const dropout_pair site(rate);
  for (const auto& [rows, cols] : shapes) {
    CAPTURE(rows, cols, rate);
    const ragged_batch tokens({rows / 3, 0, rows - rows / 3}, 5);
    const device_ragged_batch device_tokens(tokens);
    const auto grad_y = on_device(random_elements(rows * cols, 1));
    const auto x = on_device(random_elements(rows * cols, 2, 2.0F));
    const auto weight = on_device(random_elements<TestType>(cols, 3));
    const auto inverse = on_device(std::vector<float>(static_cast<std::size_t>(rows), 0.75F));
    const auto before = random_elements(rows * cols, 5);
    const auto apart = on_device(before);
    const auto together = on_device(before);
    const device_array<TestType> weight_apart(cols);
    const device_array<TestType> weight_together(cols);
    const device_array<TestType> dropped_apart(rows * cols);
    const device_array<TestType> dropped_together(rows * cols);
    const auto gradient_of = [&](const device_array<TestType>& to) {
      return t5zero::gradient_view{to.data(), t5zero::dtype_of<TestType>, t5zero::gradient_mode::overwrite, 1,
                                   cols};
    };
    ops::rms_norm_backward(gpu.main(), grad_y.matrix(rows, cols), x.matrix(rows, cols), weight.vector(),
                           inverse.vector(), apart.matrix(rows, cols), gradient_of(weight_apart));
    ops::dropout_backward(gpu.main(), apart.matrix(rows, cols), site.device(), device_tokens.view(),
                          dropped_apart.matrix(rows, cols));
    ops::rms_norm_dropout_backward(gpu.main(), grad_y.matrix(rows, cols), x.matrix(rows, cols),
                                   weight.vector(), inverse.vector(), together.matrix(rows, cols),
                                   gradient_of(weight_together), site.device(), device_tokens.view(),
                                   dropped_together.matrix(rows, cols));
    CHECK(same_bits(together.download(), apart.download()));
    CHECK(same_bits(weight_together.download(), weight_apart.download()));
    CHECK(same_bits(dropped_together.download(), dropped_apart.download()));
  }
}

TEST_CASE("cuda: RMS norm of no rows gives a weight gradient of zero", "[cuda]") {
  if (!has_gpu()) return;
  device_machine gpu;
  const auto weight = on_device(random_elements(64, 1));
  const device_array<float> grad_weight(64);
  t5zero::cuda::operations<float>::rms_norm_backward(
      gpu.main(), {nullptr, 0, 64}, {nullptr, 0, 64}, {weight.data(), 64}, {nullptr, 0}, {nullptr, 0, 64},
      {grad_weight.data(), t5zero::dtype::f32, t5zero::gradient_mode::overwrite, 1, 64});
  CHECK(largest_difference(grad_weight.download(), std::vector<float>(64, 0.0F)) == 0.0);
}
