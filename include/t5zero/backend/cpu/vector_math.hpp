// Exponentials, hyperbolic tangents, maxima and sums over ranges, through Eigen's packets of fixed width:
// unlike Eigen's own passes over a range they do not depend on where the range lies in memory, so neither do
// the bits of a result.
#pragma once

#include <algorithm>
#include <limits>

#include <t5zero/backend/cpu/vector.hpp>
#include <t5zero/core/integers.hpp>

#include <Eigen/Core>

namespace t5zero::cpu {

namespace detail {

using packet_array = Eigen::Array<float, vector_width, 1>;

inline packet_array to_packet(float_vector value) {
  packet_array result;
  std::memcpy(result.data(), &value, sizeof(value));
  return result;
}
inline float_vector from_packet(const packet_array& value) {
  float_vector result;
  std::memcpy(&result, value.data(), sizeof(result));
  return result;
}

/// The last count < vector_width floats of a range, the rest filled with `filler`.
inline float_vector load_partial(const float* from, index_t count, float filler) {
  float_vector result = broadcast(filler);
  std::memcpy(&result, from, static_cast<std::size_t>(count) * sizeof(float));
  return result;
}
inline void store_partial(float* to, index_t count, float_vector value) {
  std::memcpy(to, &value, static_cast<std::size_t>(count) * sizeof(float));
}

/// Lanes added pairwise.
inline float horizontal_sum(float_vector lanes) {
  for (index_t half = vector_width / 2; half > 0; half /= 2) {
    for (index_t i = 0; i < half; ++i) lanes[i] += lanes[i + half];
  }
  return lanes[0];
}

}  // namespace detail

inline float_vector exp(float_vector value) {
  return detail::from_packet(detail::to_packet(value).exp());
}
/// Correctly rounded, as std::sqrt.
inline float_vector sqrt(float_vector value) {
  return detail::from_packet(detail::to_packet(value).sqrt());
}
inline float_vector tanh(float_vector value) {
  return detail::from_packet(detail::to_packet(value).tanh());
}

/// Largest of count >= 1 floats.
inline float range_maximum(const float* from, index_t count) {
  float_vector lanes = broadcast(-std::numeric_limits<float>::infinity());
  index_t i = 0;
  for (; i + vector_width <= count; i += vector_width) {
    const float_vector value = load(from + i);
    lanes = value > lanes ? value : lanes;
  }
  float maximum = lanes[0];
  for (index_t lane = 1; lane < vector_width; ++lane) maximum = std::max(maximum, lanes[lane]);
  for (; i < count; ++i) maximum = std::max(maximum, from[i]);
  return maximum;
}

namespace detail {

/// Sum of exp(values[i] - shift): of sums of short pieces, so that it is as accurate for a vocabulary as for
/// a sentence. keep(i, lanes, exponentials) takes those of elements i, ..., i + lanes - 1, in order.
template <class Keep>
inline float sum_of_exponentials(const float* values, index_t count, float shift, const Keep& keep) {
  constexpr index_t piece = 32 * vector_width;
  const index_t whole = count / vector_width * vector_width;
  float_vector total{};
  for (index_t first = 0; first < whole; first += piece) {
    const index_t end = std::min(whole, first + piece);
    float_vector sums{};
    for (index_t i = first; i < end; i += vector_width) {
      const float_vector value = exp(load(values + i) - shift);
      keep(i, vector_width, value);
      sums += value;
    }
    total += sums;
  }
  if (whole < count) {
    // exp(-1e4) is 0: lanes beyond the range add nothing.
    const float_vector value = exp(load_partial(values + whole, count - whole, shift - 1e4F) - shift);
    keep(whole, count - whole, value);
    total += value;
  }
  return horizontal_sum(total);
}

}  // namespace detail

/// values[i] = exp(values[i] - shift); returns their sum.
inline float exponentiate_range(float* values, index_t count, float shift) {
  return detail::sum_of_exponentials(values, count, shift,
                                     [&](index_t i, index_t lanes, const float_vector& exponentials) {
                                       if (lanes == vector_width)
                                         store(values + i, exponentials);
                                       else
                                         detail::store_partial(values + i, lanes, exponentials);
                                     });
}

/// Sum of exp(values[i] - shift).
inline float sum_of_exponentials(const float* values, index_t count, float shift) {
  return detail::sum_of_exponentials(values, count, shift, [](index_t, index_t, const float_vector&) {});
}

/// Sum of floats, in double.
inline double range_sum(const float* from, index_t count) {
  double sum = 0.0;
  for (index_t i = 0; i < count; ++i) sum += static_cast<double>(from[i]);
  return sum;
}

inline void scale_range(float* values, index_t count, float factor) {
  for (index_t i = 0; i < count; ++i) values[i] *= factor;
}

}  // namespace t5zero::cpu
