// The optimizer's passes on the GPU against the CPU's.
#include <t5zero/backend/cpu/operations.hpp>
#include <t5zero/backend/cuda/backend.hpp>
#include <t5zero/backend/cuda/operations.hpp>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <utility>
#include <vector>

#include "backend/cuda/device_machine.hpp"
#include "backend/cuda/host_machine.hpp"
#include "catch.hpp"

namespace {

using namespace t5zero_test;
using t5zero::dtype_of;

// Around the elements of a thread, of a block, and of all blocks at once.
const std::vector<index_t> sizes{1, 3, 4, 8, 1000, 2047, 2048, 2049, 100003, 9'000'001};

template <class T>
const std::byte* bytes_of(const device_array<T>& values) {
  return reinterpret_cast<const std::byte*>(values.data());
}

struct adamw_state {
  std::vector<float> master, first, second;

  explicit adamw_state(index_t size)
      : master(random_elements(size, 1)), first(random_elements(size, 2, 0.1F)), second(first) {
    for (float& value : second) value *= value;
    // Parameters that no gradient has reached yet.
    for (std::size_t i = 0; i < second.size(); i += 7) first[i] = second[i] = 0.0F;
  }
};

t5zero::adamw_params params_of_step() {
  t5zero::adamw_params params;
  params.applies = true;
  params.learning_rate = 0.01F;
  params.weight_decay = 0.1F;
  params.bias_correction1 = 0.271F;
  params.bias_correction2_sqrt = 0.0547F;
  params.grad_multiplier = 0.5F;
  return params;
}

}  // namespace

TEMPLATE_TEST_CASE("cuda: AdamW is the CPU's", "[cuda]", float, t5zero::float16, t5zero::bfloat16) {
  if (!has_gpu()) return;
  device_machine gpu;
  host_machine cpu;
  for (const index_t size : sizes) {
    // Weight decay from 8 on, off in a few elements here and there, in the middle of blocks and at their
    // ends.
    std::vector<index_t> boundaries{8, 512, 520, 1016, 1024, 2040, 2048, 4096, 4104};
    for (index_t i = 5000; i < 100000; i += 96) boundaries.push_back(i / 8 * 8);
    CAPTURE(size, boundaries.size());
    const auto gradient = random_elements<TestType>(size, 3);
    const adamw_state before(size);
    adamw_state expected = before;
    std::vector<TestType> expected_weights(gradient.size());
    TestType* const host_weights = sizeof(TestType) == 4 ? nullptr : expected_weights.data();
    t5zero::adamw_params params = params_of_step();
    // The CPU has one decay for each call.
    index_t begin = 0;
    for (std::size_t i = 0; begin < size; ++i) {
      const index_t end = i < boundaries.size() ? std::min(size, boundaries[i]) : size;
      params.weight_decay = i % 2 == 1 ? params_of_step().weight_decay : 0.0F;
      t5zero::cpu::adamw(cpu.main(), params, expected.master.data() + begin, expected.first.data() + begin,
                         expected.second.data() + begin, gradient.data() + begin,
                         host_weights == nullptr ? nullptr : host_weights + begin, end - begin);
      begin = end;
    }

    const auto device_params = on_device(std::vector<t5zero::adamw_params>{params_of_step()});
    const auto device_boundaries = on_device(boundaries);
    const auto device_gradient = on_device(gradient);
    std::vector<float> first_master;
    for (int run = 0; run < 2; ++run) {
      const auto master = on_device(before.master);
      const auto first = on_device(before.first);
      const auto second = on_device(before.second);
      const device_array<TestType> weights(size);
      t5zero::cuda::operations<TestType>::adamw(gpu.main(), device_params.data(), device_boundaries.vector(),
                                                master.data(), first.data(), second.data(),
                                                bytes_of(device_gradient), dtype_of<TestType>,
                                                sizeof(TestType) == 4 ? nullptr : weights.data(), {0, size});
      const auto found = master.download();
      CHECK(largest_difference(found, expected.master) < 1e-6);
      CHECK(largest_difference(first.download(), expected.first) < 1e-6);
      CHECK(largest_difference(second.download(), expected.second) < 1e-6);
      if constexpr (sizeof(TestType) != 4)
        CHECK(largest_difference(weights.download(), expected_weights) < tolerance<TestType>);
      if (run == 1) CHECK(same_bits(found, first_master));
      first_master = found;
    }
  }
}

TEMPLATE_TEST_CASE("cuda: AdamW piece by piece, and rows before the rest, give the bits of one pass",
                   "[cuda]", t5zero::float16, t5zero::bfloat16) {
  if (!has_gpu()) return;
  device_machine gpu;
  using ops = t5zero::cuda::operations<TestType>;
  constexpr index_t cols = 72;
  constexpr index_t rows = 300;
  constexpr index_t size = cols * rows + 5000;
  const t5zero::parameter_range table{0, cols * rows};
  const auto gradient = on_device(random_elements<TestType>(size, 3));
  const auto params = on_device(std::vector<t5zero::adamw_params>{params_of_step()});
  const auto boundaries = on_device(std::vector<index_t>{8, 720, 728, 6000});
  const adamw_state before(size);
  const auto step = [&](const auto& submit) {
    const auto master = on_device(before.master);
    const auto first = on_device(before.first);
    const auto second = on_device(before.second);
    const device_array<TestType> weights(size);
    submit(master.data(), first.data(), second.data(), weights.data());
    return std::pair(master.download(), weights.download());
  };
  const auto piece = [&](float* master, float* first, float* second, TestType* weights,
                         t5zero::parameter_range range) {
    ops::adamw(gpu.main(), params.data(), boundaries.vector(), master, first, second, bytes_of(gradient),
               dtype_of<TestType>, weights, range);
  };
  const auto [whole_master, whole_weights] =
      step([&](float* master, float* first, float* second, TestType* weights) {
        piece(master, first, second, weights, {0, size});
      });
  const auto [pieces_master, pieces_weights] =
      step([&](float* master, float* first, float* second, TestType* weights) {
        index_t begin = 0;
        for (const index_t end : {index_t{8}, index_t{4096}, index_t{20008}, size}) {
          piece(master, first, second, weights, {begin, end - begin});
          begin = end;
        }
      });
  CHECK(same_bits(pieces_master, whole_master));
  CHECK(same_bits(pieces_weights, whole_weights));

  const std::vector<std::int32_t> ids{0, 7, 299, 7, -1, 300};
  const std::vector<std::int32_t> more{10};
  const auto device_ids = on_device(ids);
  const auto device_more = on_device(more);
  const auto [rows_master,
              rows_weights] = step([&](float* master, float* first, float* second, TestType* weights) {
    ops::adamw_rows(gpu.main(), params.data(), boundaries.vector(), master, first, second, bytes_of(gradient),
                    dtype_of<TestType>, weights, table, cols, device_ids.vector(), device_more.vector());
  });
  CHECK(same_bits(rows_master, before.master));
  for (const index_t row : {0, 7, 10, 299}) {
    CAPTURE(row);
    const auto begin = static_cast<std::ptrdiff_t>(row * cols);
    CHECK(std::equal(rows_weights.begin() + begin, rows_weights.begin() + begin + cols,
                     whole_weights.begin() + begin,
                     [](TestType a, TestType b) { return static_cast<float>(a) == static_cast<float>(b); }));
  }
}

TEST_CASE("cuda: AdamW without boundaries decays nowhere, and does nothing where it does not apply",
          "[cuda]") {
  if (!has_gpu()) return;
  device_machine gpu;
  host_machine cpu;
  constexpr index_t size = 5000;
  const auto gradient = random_elements(size, 3);
  const auto device_gradient = on_device(gradient);
  const adamw_state before(size);
  t5zero::adamw_params params = params_of_step();
  params.applies = GENERATE(true, false);
  adamw_state expected = before;
  if (params.applies) {
    auto without_decay = params;
    without_decay.weight_decay = 0.0F;
    t5zero::cpu::adamw(cpu.main(), without_decay, expected.master.data(), expected.first.data(),
                       expected.second.data(), gradient.data(), static_cast<float*>(nullptr), size);
  }
  const auto device_params = on_device(std::vector<t5zero::adamw_params>{params});
  const auto master = on_device(before.master);
  const auto first = on_device(before.first);
  const auto second = on_device(before.second);
  t5zero::cuda::operations<float>::adamw(gpu.main(), device_params.data(), {}, master.data(), first.data(),
                                         second.data(), bytes_of(device_gradient), t5zero::dtype::f32,
                                         nullptr, {0, size});
  CHECK(largest_difference(master.download(), expected.master) < 1e-6);
  CHECK(largest_difference(first.download(), expected.first) < 1e-6);
  CHECK(largest_difference(second.download(), expected.second) < 1e-6);
  if (!params.applies) CHECK(same_bits(master.download(), before.master));
}

/// As parts of two ranges.
template <class T>
static double sum_of_squares(device_machine& gpu, const device_array<T>& gradient, index_t size) {
  using backend = t5zero::cuda::backend;
  using ops = t5zero::cuda::operations<T>;
  const index_t first = size / 2 / 8 * 8;
  const index_t first_parts = first > 0 ? backend::square_parts(first) : 0;
  const index_t all_parts = first_parts + backend::square_parts(size - first);
  const device_array<double> parts(all_parts);
  const device_array<double> result(1);
  if (first > 0)
    ops::partial_squares(gpu.main(), bytes_of(gradient), dtype_of<T>, {0, first},
                         {parts.data(), first_parts});
  ops::partial_squares(gpu.main(), bytes_of(gradient), dtype_of<T>, {first, size - first},
                       {parts.data() + first_parts, all_parts - first_parts});
  ops::sum_parts(gpu.main(), {parts.data(), all_parts}, result.data());
  return result.download()[0];
}

TEMPLATE_TEST_CASE("cuda: the sum of squares is the CPU's and shows what is not finite", "[cuda]", float,
                   t5zero::float16, t5zero::bfloat16) {
  if (!has_gpu()) return;
  device_machine gpu;
  host_machine cpu;
  for (const index_t size : sizes) {
    CAPTURE(size);
    auto gradient = random_elements<TestType>(size, 1);
    const double expected = t5zero::cpu::sum_of_squares(cpu.main(), gradient.data(), size);
    const auto device_gradient = on_device(gradient);
    double first = 0.0;
    for (int run = 0; run < 2; ++run) {
      const double found = sum_of_squares(gpu, device_gradient, size);
      CHECK(std::abs(found - expected) <= 1e-6 * expected);
      if (run == 1) CHECK(found == first);
      first = found;
    }
    for (const float bad : {std::numeric_limits<float>::infinity(), std::nanf("")}) {
      for (const index_t at : {index_t{0}, size / 2, size - 1}) {
        auto copy = gradient;
        copy[static_cast<std::size_t>(at)] = static_cast<TestType>(bad);
        const auto device_copy = on_device(copy);
        CHECK(!std::isfinite(sum_of_squares(gpu, device_copy, size)));
      }
    }
  }
}

TEMPLATE_TEST_CASE("cuda: conversion is the CPU's", "[cuda]", float, t5zero::float16, t5zero::bfloat16) {
  if (!has_gpu()) return;
  device_machine gpu;
  host_machine cpu;
  for (const index_t size : sizes) {
    CAPTURE(size);
    const auto from = random_elements(size, 1, 30000.0F);  // some beyond float16
    std::vector<TestType> expected(from.size());
    t5zero::cpu::operations<TestType>::convert(cpu.main(), from.data(), expected.data(), dtype_of<TestType>,
                                               size);
    const auto device_from = on_device(from);
    const device_array<TestType> to(size);
    t5zero::cuda::operations<TestType>::convert(gpu.main(), device_from.data(), to.data(), dtype_of<TestType>,
                                                size);
    CHECK(same_bits(to.download(), expected));
  }
}
