// Adafactor's update of one tensor. Sums run over a fixed number of row blocks, so that the bits do not
// depend on the number of threads.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <type_traits>

#include <t5zero/backend/backend.hpp>
#include <t5zero/backend/cpu/execution.hpp>
#include <t5zero/backend/cpu/vector.hpp>
#include <t5zero/backend/cpu/vector_math.hpp>

namespace t5zero::cpu {

namespace detail {

inline constexpr index_t adafactor_blocks = 32;  ///< of rows; each has sums of its own

/// Calls f(i, load, store) for each vector of [0, n) and then for each element that is left over; `load` and
/// `store` work on float_vector or float.
template <class F>
void for_each_lane_group(index_t n, const F& f) {
  index_t i = 0;
  for (; i + vector_width <= n; i += vector_width) {
    f([i](const auto* from) { return cpu::load(from + i); },
      [i](auto* to, float_vector value) { cpu::store(to + i, value); });
  }
  for (; i < n; ++i) {
    f([i](const auto* from) { return static_cast<float>(from[i]); },
      [i](auto* to, float value) { to[i] = static_cast<std::remove_pointer_t<decltype(to)>>(value); });
  }
}

[[nodiscard]] inline double sum_of_lanes(float value) {
  return static_cast<double>(value);
}
[[nodiscard]] inline double sum_of_lanes(float_vector value) {
  double sum = 0.0;
  for (index_t lane = 0; lane < vector_width; ++lane) sum += static_cast<double>(value[lane]);
  return sum;
}

}  // namespace detail

/// Bytes that adafactor borrows for a matrix of `cols` columns.
[[nodiscard]] constexpr index_t adafactor_workspace_bytes(index_t cols) {
  return detail::adafactor_blocks * 8 + (detail::adafactor_blocks + 1) * round_up(cols, index_t{16}) * 4;
}

/// One update of a matrix [rows, cols]. row_moments: [rows], column_moments: [cols]. A vector (is_vector)
/// keeps each element's moment in column_moments. `weights`: 16-bit copies that are written back, or null.
template <element G, element W>
void adafactor(execution& execution, const adafactor_params& p, bool is_vector, index_t rows, index_t cols,
               float* master, float* row_moments, float* column_moments, const G* gradient, W* weights) {
  using detail::for_each_lane_group;
  const index_t stride = round_up(cols, index_t{16});
  const index_t rows_per_block = ceil_div(rows, detail::adafactor_blocks);
  const index_t blocks = ceil_div(rows, rows_per_block);
  std::byte* const workspace = execution.workspace(adafactor_workspace_bytes(cols));
  auto* const squares = reinterpret_cast<double*>(workspace);                                 // [blocks]
  auto* const column_factors = reinterpret_cast<float*>(squares + detail::adafactor_blocks);  // [cols]
  float* const column_sums = column_factors + stride;  // [blocks, cols]
  const auto for_each_row = [&](const auto& body) {
    execution.threads().run(blocks, [&](index_t block) {
      const index_t end = std::min(rows, (block + 1) * rows_per_block);
      for (index_t row = block * rows_per_block; row < end; ++row) body(block, row);
    });
  };

  if (!is_vector) {
    execution.threads().run(blocks,
                            [&](index_t block) { std::fill_n(column_sums + block * stride, cols, 0.0F); });
    for_each_row([&](index_t block, index_t row) {
      const G* const g = gradient + row * cols;
      float* const sums = column_sums + block * stride;
      double total = 0.0;
      float_vector lanes = {};
      for_each_lane_group(cols, [&](const auto& load, const auto& store) {
        const auto value = load(g) * p.grad_multiplier;
        const auto square = value * value + p.epsilon;
        store(sums, load(sums) + square);
        if constexpr (std::is_same_v<decltype(square), const float>) {
          total += static_cast<double>(square);
        } else {
          lanes += square;
        }
      });
      total += detail::sum_of_lanes(lanes);
      row_moments[row] = p.beta2 * row_moments[row] +
                         p.one_minus_beta2 * static_cast<float>(total / static_cast<double>(cols));
    });
  }
  constexpr index_t columns_per_task = 4096;
  execution.threads().run(ceil_div(cols, columns_per_task), [&](index_t task) {
    const index_t end = std::min(cols, (task + 1) * columns_per_task);
    for (index_t col = task * columns_per_task; col < end; ++col) {
      float mean = 0.0F;
      if (is_vector) {
        const float g = static_cast<float>(gradient[col]) * p.grad_multiplier;
        mean = g * g + p.epsilon;
      } else {
        for (index_t block = 0; block < blocks; ++block) mean += column_sums[block * stride + col];
        mean /= static_cast<float>(rows);
      }
      column_moments[col] = p.beta2 * column_moments[col] + p.one_minus_beta2 * mean;
      column_factors[col] = 1.0F / std::sqrt(column_moments[col]);
    }
  });
  double mean_of_rows = 0.0;
  if (!is_vector) {
    for (index_t row = 0; row < rows; ++row) mean_of_rows += static_cast<double>(row_moments[row]);
    mean_of_rows /= static_cast<double>(rows);
  }
  // The step before clipping is gradient * row_factor * column_factor.
  const auto row_factor = [&](index_t row) {
    const float factor =
        is_vector ? 1.0F : 1.0F / std::sqrt(row_moments[row] / static_cast<float>(mean_of_rows));
    return factor * p.grad_multiplier;
  };

  std::fill_n(squares, blocks, 0.0);
  for_each_row([&](index_t block, index_t row) {
    const G* const g = gradient + row * cols;
    const float factor = row_factor(row);
    double total = 0.0;
    float_vector lanes = {};
    for_each_lane_group(cols, [&](const auto& load, const auto&) {
      const auto step = load(g) * factor * load(column_factors);
      if constexpr (std::is_same_v<decltype(step), const float>) {
        total += static_cast<double>(step * step);
      } else {
        lanes += step * step;
      }
    });
    squares[block] += total + detail::sum_of_lanes(lanes);
  });
  double sum = 0.0;
  for (index_t block = 0; block < blocks; ++block) sum += squares[block];
  const auto root_mean_square = static_cast<float>(std::sqrt(sum / static_cast<double>(rows * cols)));
  const float rate = p.learning_rate / std::max(1.0F, root_mean_square / p.clip_threshold);
  const float keep = 1.0F - p.learning_rate * p.weight_decay;

  for_each_row([&](index_t, index_t row) {
    const G* const g = gradient + row * cols;
    float* const w = master + row * cols;
    W* const copy = weights == nullptr ? nullptr : weights + row * cols;
    const float factor = row_factor(row) * rate;
    for_each_lane_group(cols, [&](const auto& load, const auto& store) {
      const auto updated = load(w) * keep - load(g) * factor * load(column_factors);
      store(w, updated);
      if (copy != nullptr) store(copy, updated);
    });
  });
}

}  // namespace t5zero::cpu
