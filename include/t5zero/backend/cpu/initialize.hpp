// Random normal weights as a function of seed and place.
#pragma once

#include <algorithm>
#include <cmath>
#include <numbers>

#include <t5zero/backend/cpu/execution.hpp>
#include <t5zero/backend/dropout.hpp>
#include <t5zero/tensor/tensor_view.hpp>

namespace t5zero::cpu {

/// values[i] = factor * N(0, std) of element first_element + i (Box and Muller 1958, on Philox), or the
/// constant `factor` where std is 0. The same values whatever the threads and the order of tensors.
inline void initialize(execution& execution, vector_view<float> values, double std, double factor,
                       std::uint32_t seed, std::uint64_t first_element) {
  constexpr index_t per_task = index_t{1} << 14;
  execution.threads().run(ceil_div(values.size, per_task), [&](index_t task) {
    const index_t end = std::min(values.size, (task + 1) * per_task);
    for (index_t i = task * per_task; i < end; i += 4) {
      const std::uint64_t place = (first_element + static_cast<std::uint64_t>(i)) / 4;
      const auto bits =
          philox4x32({static_cast<std::uint32_t>(place), static_cast<std::uint32_t>(place >> 32), 0, 0},
                     {seed, 0x74357a30U});
      for (index_t pair = 0; pair < 2 && i + 2 * pair < end; ++pair) {
        const auto j = static_cast<std::size_t>(2 * pair);
        const double u = (static_cast<double>(bits[j]) + 0.5) / 4294967296.0;
        const double angle = 2.0 * std::numbers::pi * static_cast<double>(bits[j + 1]) / 4294967296.0;
        const double radius = std::sqrt(-2.0 * std::log(u)) * std * factor;
        const double normal[2] = {radius * std::cos(angle), radius * std::sin(angle)};
        for (index_t l = 0; l < 2 && i + 2 * pair + l < end; ++l) {
          values[i + 2 * pair + l] = std == 0.0 ? static_cast<float>(factor) : static_cast<float>(normal[l]);
        }
      }
    }
  });
}

}  // namespace t5zero::cpu
