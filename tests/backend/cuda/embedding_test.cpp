// Embedding rows and their gradient on the GPU against the CPU's.
#include <t5zero/backend/cpu/operations.hpp>
#include <t5zero/backend/cuda/operations.hpp>

#include <cmath>
#include <cstdint>
#include <random>
#include <vector>

#include "backend/cuda/device_machine.hpp"
#include "backend/cuda/host_machine.hpp"
#include "catch.hpp"

namespace {

using namespace t5zero_test;

// The last has more tokens than a block looks at once, and ids that come up a hundred times.
const std::vector<std::vector<index_t>> batches{{1}, {3, 0, 5, 1}, {129, 0, 300}, {1500, 0, 1600}};
const std::vector<index_t> widths{1, 7, 8, 500, 512, 1024, 1028, 2050};
constexpr index_t vocabulary = 97;

std::vector<std::int32_t> random_ids(index_t count) {
  std::mt19937 engine(9);
  std::vector<std::int32_t> ids(static_cast<std::size_t>(count));
  for (auto& id : ids) {
    id = static_cast<std::int32_t>(engine() % vocabulary);
    if (id > 60) id = 3;
  }
  return ids;
}

}  // namespace

TEMPLATE_TEST_CASE("cuda: embedding is the CPU's", "[cuda]", float, t5zero::float16, t5zero::bfloat16) {
  if (!has_gpu()) return;
  device_machine gpu;
  host_machine cpu;
  const float rate = GENERATE(0.0F, 0.1F);
  const dropout_pair site(rate);
  for (const auto& lengths : batches) {
    const ragged_batch tokens(lengths, 2);
    const device_ragged_batch device_tokens(tokens);
    const index_t rows = tokens.tokens();
    const auto ids = random_ids(rows);
    const auto device_ids = on_device(ids);
    for (const index_t cols : widths) {
      CAPTURE(rows, cols, rate);
      const auto table = random_elements<TestType>(vocabulary * cols, 1);
      std::vector<float> expected(static_cast<std::size_t>(rows * cols));
      t5zero::cpu::operations<TestType>::embedding_forward(cpu.main(), ids.data(), tokens.view(),
                                                           {table.data(), vocabulary, cols}, site.host(),
                                                           {expected.data(), rows, cols});
      const auto device_table = on_device(table);
      const device_array<float> out(rows * cols);
      t5zero::cuda::operations<TestType>::embedding_forward(
          gpu.main(), device_ids.data(), device_tokens.view(), device_table.matrix(vocabulary, cols),
          site.device(), out.matrix(rows, cols));
      CHECK(same_bits(out.download(), expected));

      const auto grad = random_elements(rows * cols, 2);
      const auto before = random_elements(vocabulary * cols, 3);
      auto expected_table = before;
      t5zero::cpu::operations<TestType>::embedding_backward(cpu.main(), ids.data(), tokens.view(),
                                                            site.host(), {grad.data(), rows, cols},
                                                            {expected_table.data(), vocabulary, cols});
      const auto device_grad = on_device(grad);
      std::vector<float> first;
      for (int run = 0; run < 2; ++run) {
        const auto grad_table = on_device(before);
        t5zero::cuda::operations<TestType>::embedding_backward(
            gpu.main(), device_ids.data(), device_tokens.view(), site.device(),
            device_grad.matrix(rows, cols), grad_table.matrix(vocabulary, cols));
        const auto found = grad_table.download();
        CHECK(largest_difference(found, expected_table) < 5e-5);  // sums of up to 1000 terms
        if (run == 1) CHECK(same_bits(found, first));
        first = found;
      }
    }
  }
}

TEST_CASE("cuda: an id outside the table shows in the output and touches nothing else", "[cuda]") {
  if (!has_gpu()) return;
  device_machine gpu;
  const ragged_batch tokens({3});
  const device_ragged_batch device_tokens(tokens);
  const auto ids = on_device(std::vector<std::int32_t>{1, -1, 5});
  const auto table = on_device(std::vector<float>(5 * 8, 2.0F));
  const device_array<float> out(3 * 8);
  t5zero::cuda::operations<float>::embedding_forward(gpu.main(), ids.data(), device_tokens.view(),
                                                     table.matrix(5, 8), {}, out.matrix(3, 8));
  const auto rows = out.download();
  for (std::size_t i = 0; i < rows.size(); ++i) CHECK(std::isnan(rows[i]) == (i >= 8));
  const auto grad = on_device(std::vector<float>(3 * 8, 1.0F));
  t5zero::cuda::operations<float>::embedding_backward(gpu.main(), ids.data(), device_tokens.view(), {},
                                                      grad.matrix(3, 8), table.matrix(5, 8));
  const auto sums = table.download();
  for (std::size_t i = 0; i < sums.size(); ++i) CHECK(sums[i] == (i / 8 == 1 ? 3.0F : 2.0F));
}
