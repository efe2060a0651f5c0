// The feed-forward's activations on the GPU against the CPU's.
#include <t5zero/backend/cpu/operations.hpp>
#include <t5zero/backend/cuda/operations.hpp>

#include <array>
#include <vector>

#include "backend/cuda/device_machine.hpp"
#include "backend/cuda/host_machine.hpp"
#include "catch.hpp"

namespace {

using namespace t5zero_test;

const std::vector<std::vector<index_t>> batches{{1}, {3, 0, 5, 1}, {0, 129, 7, 0}};
const std::vector<index_t> widths{1, 7, 8, 1023, 1024, 1032, 2816};

/// tanh differs in its last bits; 1 - tanh^2 is what is left of it near 1, times up to x^3 and the linear
/// part.
template <class T>
constexpr double gelu_tolerance = sizeof(T) == 4 ? 1e-4 : tolerance<T>;

}  // namespace

TEMPLATE_TEST_CASE("cuda: relu with dropout is the CPU's", "[cuda]", float, t5zero::float16,
                   t5zero::bfloat16) {
  if (!has_gpu()) return;
  device_machine gpu;
  host_machine cpu;
  const float rate = GENERATE(0.0F, 0.1F);
  const dropout_pair site(rate);
  for (const auto& lengths : batches) {
    const ragged_batch tokens(lengths, 5);
    const device_ragged_batch device_tokens(tokens);
    const index_t rows = tokens.tokens();
    for (const index_t cols : widths) {
      CAPTURE(rows, cols, rate);
      auto hidden = random_elements<TestType>(rows * cols, 1);
      const auto device_hidden = on_device(hidden);
      t5zero::cpu::operations<TestType>::relu_dropout_forward(cpu.main(), {hidden.data(), rows, cols},
                                                              site.host(), tokens.view());
      t5zero::cuda::operations<TestType>::relu_dropout_forward(gpu.main(), device_hidden.matrix(rows, cols),
                                                               site.device(), device_tokens.view());
      CHECK(same_bits(device_hidden.download(), hidden));

      const auto grad = random_elements<TestType>(rows * cols, 2);
      std::vector<TestType> expected(grad.size());
      t5zero::cpu::operations<TestType>::relu_dropout_backward(cpu.main(), {grad.data(), rows, cols},
                                                               {hidden.data(), rows, cols}, site.host(),
                                                               {expected.data(), rows, cols});
      const auto device_grad = on_device(grad);
      const device_array<TestType> out(rows * cols);
      t5zero::cuda::operations<TestType>::relu_dropout_backward(gpu.main(), device_grad.matrix(rows, cols),
                                                                device_hidden.matrix(rows, cols),
                                                                site.device(), out.matrix(rows, cols));
      CHECK(same_bits(out.download(), expected));
    }
  }
}

TEMPLATE_TEST_CASE("cuda: a product's gradient through relu is both one after the other", "[cuda]", float,
                   t5zero::float16, t5zero::bfloat16) {
  if (!has_gpu()) return;
  using ops = t5zero::cuda::operations<TestType>;
  device_machine gpu;
  const dropout_pair site(GENERATE(0.0F, 0.1F));
  // The few tokens are cuBLASLt's, the others in fp32 split_matmul's.
  for (const auto& [rows, features, depth] :
       {std::array<index_t, 3>{9, 72, 40}, std::array<index_t, 3>{120, 2048, 512},
        std::array<index_t, 3>{227, 4096, 1024}}) {
    CAPTURE(rows, features, depth);
    const auto grad_y = on_device(random_elements<TestType>(rows * depth, 1));
    const auto weight = on_device(random_elements<TestType>(depth * features, 2));
    const auto activated = on_device(random_elements<TestType>(rows * features, 3));
    const device_array<TestType> apart(rows * features);
    const device_array<TestType> together(rows * features);
    ops::template matmul<TestType, TestType, TestType>(
        gpu.main(), t5zero::transpose::no, grad_y.matrix(rows, depth), t5zero::transpose::no,
        weight.matrix(depth, features), apart.matrix(rows, features));
    ops::relu_dropout_backward(gpu.main(), apart.matrix(rows, features), activated.matrix(rows, features),
                               site.device(), apart.matrix(rows, features));
    ops::relu_gradient_matmul(gpu.main(), grad_y.matrix(rows, depth), weight.matrix(depth, features),
                              activated.matrix(rows, features), site.device(),
                              together.matrix(rows, features));
    CHECK(same_bits(together.download(), apart.download()));
  }
}

TEMPLATE_TEST_CASE("cuda: gated gelu with dropout is the CPU's", "[cuda]", float, t5zero::float16,
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
    for (const index_t d_ff : widths) {
      CAPTURE(rows, d_ff, rate);
      const auto hidden = random_elements<TestType>(rows * 2 * d_ff, 1, 2.0F);
      const auto grad = random_elements<TestType>(rows * d_ff, 2);
      std::vector<TestType> expected(grad.size());
      std::vector<TestType> expected_grad(hidden.size());
      t5zero::cpu::operations<TestType>::gated_gelu_dropout_forward(
          cpu.main(), {hidden.data(), rows, 2 * d_ff}, site.host(), tokens.view(),
          {expected.data(), rows, d_ff});
      t5zero::cpu::operations<TestType>::gated_gelu_dropout_backward(
          cpu.main(), {grad.data(), rows, d_ff}, {hidden.data(), rows, 2 * d_ff}, site.host(), tokens.view(),
          {expected_grad.data(), rows, 2 * d_ff});

      const auto device_hidden = on_device(hidden);
      const auto device_grad = on_device(grad);
      std::vector<TestType> first;
      for (int run = 0; run < 2; ++run) {
        const device_array<TestType> out(rows * d_ff);
        const device_array<TestType> out_grad(rows * 2 * d_ff);
        t5zero::cuda::operations<TestType>::gated_gelu_dropout_forward(
            gpu.main(), device_hidden.matrix(rows, 2 * d_ff), site.device(), device_tokens.view(),
            out.matrix(rows, d_ff));
        t5zero::cuda::operations<TestType>::gated_gelu_dropout_backward(
            gpu.main(), device_grad.matrix(rows, d_ff), device_hidden.matrix(rows, 2 * d_ff), site.device(),
            device_tokens.view(), out_grad.matrix(rows, 2 * d_ff));
        CHECK(largest_difference(out.download(), expected) < gelu_tolerance<TestType>);
        const auto found = out_grad.download();
        CHECK(largest_difference(found, expected_grad) < gelu_tolerance<TestType>);
        if (run == 1) CHECK(same_bits(found, first));
        first = found;
      }
    }
  }
}
