// The optimizer's two passes over all parameters: sum of squares of the gradients, and AdamW.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>

#include <t5zero/backend/backend.hpp>
#include <t5zero/backend/cpu/execution.hpp>
#include <t5zero/backend/cpu/vector.hpp>
#include <t5zero/backend/cpu/vector_math.hpp>

namespace t5zero::cpu {

namespace detail {

inline constexpr index_t squares_per_task = index_t{1} << 18;
inline constexpr index_t squares_per_double = 4096;  ///< summed in float lanes before they go to double
inline constexpr index_t adamw_per_task = index_t{1} << 16;

}  // namespace detail

/// Bytes that sum_of_squares borrows.
[[nodiscard]] constexpr index_t sum_of_squares_workspace_bytes(index_t count) {
  return ceil_div(count, detail::squares_per_task) * 8;
}

/// Sum of squares of `count` gradients; not finite if any gradient is not.
template <element T>
double sum_of_squares(execution& execution, const T* gradient, index_t count) {
  const index_t tasks = ceil_div(count, detail::squares_per_task);
  auto* partial = reinterpret_cast<double*>(execution.workspace(sum_of_squares_workspace_bytes(count)));
  execution.threads().run(tasks, [&](index_t task) {
    double sum = 0.0;
    const index_t end = std::min(count, (task + 1) * detail::squares_per_task);
    for (index_t first = task * detail::squares_per_task; first < end; first += detail::squares_per_double) {
      const index_t stop = std::min(end, first + detail::squares_per_double);
      float_vector lanes[4] = {};
      index_t i = first;
      for (; i + 4 * vector_width <= stop; i += 4 * vector_width) {
        for (index_t j = 0; j < 4; ++j) {
          const float_vector value = load(gradient + i + j * vector_width);
          lanes[j] += value * value;
        }
      }
      const float_vector all = (lanes[0] + lanes[1]) + (lanes[2] + lanes[3]);
      for (index_t lane = 0; lane < vector_width; ++lane) sum += static_cast<double>(all[lane]);
      for (; i < stop; ++i) {
        const auto value = static_cast<double>(static_cast<float>(gradient[i]));
        sum += value * value;
      }
    }
    partial[task] = sum;
  });
  double sum = 0.0;
  for (index_t task = 0; task < tasks; ++task) sum += partial[task];
  return sum;
}

/// One AdamW update of `count` parameters, in PyTorch's order: decay, moments, step. `weights`: 16-bit copies
/// that are written back, or null.
template <element G, element W>
void adamw(execution& execution, const adamw_params& p, float* master, float* first, float* second,
           const G* gradient, W* weights, index_t count) {
  const float keep = 1.0F - p.learning_rate * p.weight_decay;
  const float step = p.learning_rate / p.bias_correction1;
  const float inverse_correction2 = 1.0F / p.bias_correction2_sqrt;
  execution.threads().run(ceil_div(count, detail::adamw_per_task), [&](index_t task) {
    const index_t end = std::min(count, (task + 1) * detail::adamw_per_task);
    for (index_t i = task * detail::adamw_per_task; i < end; i += vector_width) {
      const index_t n = std::min(vector_width, end - i);
      const auto update = [&](auto g, auto m, auto v, auto w) {
        using cpu::sqrt, std::sqrt;
        g = g * p.grad_multiplier;
        m = p.beta1 * m + p.one_minus_beta1 * g;
        v = p.beta2 * v + p.one_minus_beta2 * (g * g);
        w = w * keep - step * (m / (sqrt(v) * inverse_correction2 + p.epsilon));
        return std::array{m, v, w};
      };
      if (n == vector_width) {
        const auto [m, v, w] =
            update(load(gradient + i), load(first + i), load(second + i), load(master + i));
        store(first + i, m);
        store(second + i, v);
        store(master + i, w);
        if (weights != nullptr) store(weights + i, w);
      } else {
        for (index_t j = i; j < end; ++j) {
          const auto [m, v, w] = update(static_cast<float>(gradient[j]), first[j], second[j], master[j]);
          first[j] = m;
          second[j] = v;
          master[j] = w;
          if (weights != nullptr) weights[j] = static_cast<W>(w);
        }
      }
    }
  });
}

}  // namespace t5zero::cpu
