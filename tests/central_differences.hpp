// Gradients of a function of doubles by central differences, and the random inputs of the tests that use
// them.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <random>
#include <vector>

#include <t5zero/backend/dropout.hpp>
#include <t5zero/core/integers.hpp>
#include <t5zero/tensor/ragged_view.hpp>

namespace t5zero_test {

using t5zero::index_t;
using doubles = std::vector<double>;

inline std::vector<float> random_floats(index_t count, unsigned seed, float scale = 1.0F) {
  std::mt19937 generator(seed);
  std::uniform_real_distribution<float> uniform(-scale, scale);
  std::vector<float> values(static_cast<std::size_t>(count));
  for (float& value : values) value = uniform(generator);
  return values;
}
inline doubles widen(const std::vector<float>& values) {
  return {values.begin(), values.end()};
}

/// d f / d x[i] for every i; f takes all of x. Accurate to about 1e-9 of the function's scale.
template <class F>
doubles central_differences(doubles x, const F& f) {
  constexpr double h = 1e-5;
  doubles gradient(x.size());
  for (std::size_t i = 0; i < x.size(); ++i) {
    const double at = x[i];
    x[i] = at + h;
    const double above = f(x);
    x[i] = at - h;
    const double below = f(x);
    x[i] = at;
    gradient[i] = (above - below) / (2.0 * h);
  }
  return gradient;
}

/// |a - b| / |b| in the L2 norm; sizes must agree.
template <class A, class B>
double distance(const A& a, const B& b) {
  if (a.size() != b.size()) return 1e9;
  double difference = 0.0;
  double norm = 1e-30;
  for (std::size_t i = 0; i < b.size(); ++i) {
    const double d = static_cast<double>(a[i]) - static_cast<double>(b[i]);
    difference += d * d;
    norm += static_cast<double>(b[i]) * static_cast<double>(b[i]);
  }
  return std::sqrt(difference / norm);
}

inline double dot(const doubles& a, const std::vector<float>& b) {
  double sum = 0.0;
  for (std::size_t i = 0; i < a.size(); ++i) sum += a[i] * static_cast<double>(b[i]);
  return sum;
}

/// Owns the arrays of a ragged batch with these lengths.
struct ragged {
  explicit ragged(const std::vector<index_t>& lengths) {
    for (const index_t length : lengths) {
      for (index_t p = 0; p < length; ++p) {
        rows.push_back(static_cast<std::uint32_t>(offsets.size()) + 2);
        positions.push_back(static_cast<std::uint32_t>(p));
      }
      offsets.push_back(offsets.back() + length);
      longest = std::max(longest, length);
    }
  }
  [[nodiscard]] t5zero::ragged_view view() const {
    return {offsets.data(), rows.data(), positions.data(), static_cast<index_t>(offsets.size()) - 1,
            offsets.back(), longest};
  }
  std::vector<index_t> offsets{0};
  std::vector<std::uint32_t> rows, positions;
  index_t longest = 0;
};

/// The multiplier of one element, straight from the definition.
inline double dropout_multiplier(const t5zero::dropout_site& site, std::uint32_t row, std::uint32_t position,
                                 index_t feature) {
  if (!site.active()) return 1.0;
  const auto lanes = site.lanes(row, position, static_cast<std::uint32_t>(feature / 4));
  return lanes[static_cast<std::size_t>(feature % 4)] >= site.threshold() ? static_cast<double>(site.scale())
                                                                          : 0.0;
}

}  // namespace t5zero_test
