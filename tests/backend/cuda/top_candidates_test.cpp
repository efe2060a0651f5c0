// The best tokens of each row and log probabilities on the GPU, against their definitions.
#include <t5zero/backend/cpu/operations.hpp>
#include <t5zero/backend/cuda/operations.hpp>
#include <t5zero/backend/cuda/reduction_workspace.hpp>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <numeric>
#include <vector>

#include "backend/cuda/device_machine.hpp"
#include "backend/cuda/host_machine.hpp"
#include "catch.hpp"

namespace {

using namespace t5zero_test;

/// Ids of a row by falling value, equal ones by rising id, NaN last.
std::vector<std::int32_t> ranking(const float* row, index_t cols) {
  std::vector<std::int32_t> order(static_cast<std::size_t>(cols));
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](std::int32_t a, std::int32_t b) {
    if (std::isnan(row[a]) || std::isnan(row[b])) return !std::isnan(row[a]) && std::isnan(row[b]);
    return row[a] > row[b];
  });
  return order;
}

void check_candidates(device_machine& gpu, const std::vector<float>& values, index_t rows, index_t cols,
                      index_t count) {
  CAPTURE(rows, cols, count);
  const auto device_values = on_device(values);
  const device_array<float> scores(rows * count);
  const device_array<std::int32_t> ids(rows * count);
  t5zero::cuda::operations<float>::top_candidates(gpu.main(), device_values.matrix(rows, cols),
                                                  scores.matrix(rows, count), ids.matrix(rows, count));
  std::vector<std::int32_t> expected_ids;
  std::vector<float> expected_scores;
  for (index_t row = 0; row < rows; ++row) {
    const float* const from = values.data() + row * cols;
    auto order = ranking(from, cols);
    order.resize(static_cast<std::size_t>(count));
    for (const std::int32_t id : order) {
      expected_ids.push_back(id);
      expected_scores.push_back(from[id]);
    }
  }
  CHECK(ids.download() == expected_ids);
  CHECK(same_bits(scores.download(), expected_scores));
}

}  // namespace

TEST_CASE("cuda: the best tokens of a row, descending, ties to the lower id", "[cuda]") {
  if (!has_gpu()) return;
  device_machine gpu;
  const std::vector<index_t> widths =
      under_sanitizer() ? std::vector<index_t>{5, 1003, 32128, 32769}
                        : std::vector<index_t>{1, 5, 16, 1003, 4100, 32128, 32768, 32769, 50260};
  for (const index_t cols : widths) {
    auto values = random_elements(3 * cols, 5);
    for (float& value : values)
      value = std::round(value * 100.0F) / 100.0F;  // ties everywhere, zeros of both signs
    std::vector<index_t> counts{1, 128, 129, 5000, cols};
    if (!under_sanitizer()) counts.insert(counts.end(), {2, 8, 16, 50});
    for (const index_t count : counts) {
      if (count <= cols) check_candidates(gpu, values, 3, cols, count);
    }
  }
}

TEST_CASE("cuda: more rows than there is workspace for are sorted some at a time", "[cuda]") {
  if (!has_gpu()) return;
  device_machine gpu(index_t{1} << 20);
  for (const index_t rows : {index_t{1}, index_t{2}, index_t{7}})
    check_candidates(gpu, random_elements(rows * 32128, 5), rows, 32128, 300);
}

TEST_CASE("cuda: rows of equal, infinite and undefined values still have an order", "[cuda]") {
  if (!has_gpu()) return;
  device_machine gpu;
  constexpr float infinity = std::numeric_limits<float>::infinity();
  const float nan = std::nanf("");
  for (const index_t cols : {index_t{200}, index_t{32128}, index_t{40000}}) {
    if (under_sanitizer() && cols == 32128) continue;
    std::vector<float> values(static_cast<std::size_t>(4 * cols), -infinity);
    for (index_t i = 0; i < cols; ++i) {
      values[static_cast<std::size_t>(cols + i)] = nan;
      values[static_cast<std::size_t>(2 * cols + i)] = i % 3 == 0 ? nan : i % 3 == 1 ? -infinity : 1.0F;
      values[static_cast<std::size_t>(3 * cols + i)] = i == cols - 1 ? infinity : i % 2 == 0 ? -0.0F : 0.0F;
    }
    for (const index_t count : {index_t{1}, index_t{5}, index_t{150}, cols})
      check_candidates(gpu, values, 4, cols, count);
  }
}

TEST_CASE("cuda: log softmax of rows is the CPU's", "[cuda]") {
  if (!has_gpu()) return;
  device_machine gpu;
  host_machine cpu;
  for (const index_t cols :
       {index_t{1}, index_t{7}, index_t{1003}, index_t{32128}, index_t{32769}, index_t{50260}}) {
    if (under_sanitizer() && (cols == 32128 || cols == 50260)) continue;
    constexpr index_t rows = 5;
    CAPTURE(cols);
    auto values = random_elements(rows * cols, 6, 3.0F);
    if (cols > 7) values[3] = -std::numeric_limits<float>::infinity();
    const auto first = on_device(values);
    const auto second = on_device(values);
    t5zero::cpu::operations<float>::log_softmax_rows(cpu.main(), {values.data(), rows, cols});
    t5zero::cuda::operations<float>::log_softmax_rows(gpu.main(), first.matrix(rows, cols));
    t5zero::cuda::operations<float>::log_softmax_rows(gpu.main(), second.matrix(rows, cols));
    const auto found = first.download();
    CHECK(largest_difference(found, values) < 3e-6);
    CHECK(same_bits(second.download(), found));
  }
}
