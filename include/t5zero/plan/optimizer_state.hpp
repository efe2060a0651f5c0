// What an optimizer keeps between updates, beside the weights: how many elements, and where each tensor's
// stand.
#pragma once

#include <cstdint>

#include <t5zero/core/integers.hpp>
#include <t5zero/plan/parameter_table.hpp>

namespace t5zero {

enum class optimizer_kind : std::uint8_t {
  adamw,     ///< two moments of each element
  adafactor  ///< the second moment alone: of a matrix, its row and column means
};

/// Places in the buffer of Adafactor's second moments: of a matrix `rows` then `columns`; of a vector
/// `columns` holds each element's.
struct factored_moment {
  index_t rows = 0;     ///< first element of row.rows
  index_t columns = 0;  ///< first element of row.cols
};

/// Calls f(row, places) for each tensor; returns the elements of the buffer. Each part starts at a multiple
/// of 64 bytes.
template <class F>
constexpr index_t for_each_factored_moment(const model_shape& shape, const F& f) {
  index_t first = 0;
  for_each_parameter(shape, [&](const parameter_row& row) {
    factored_moment places;
    places.rows = first;
    if (!row.is_vector()) first += round_up(row.rows, index_t{16});
    places.columns = first;
    first += round_up(row.cols, index_t{16});
    f(row, places);
  });
  return first;
}

/// Floats of the first moments.
[[nodiscard]] constexpr index_t first_moment_elements(const model_shape& shape, optimizer_kind kind) {
  return kind == optimizer_kind::adamw ? parameter_count(shape) : 0;
}
/// Floats of the second moments.
[[nodiscard]] constexpr index_t second_moment_elements(const model_shape& shape, optimizer_kind kind) {
  if (kind == optimizer_kind::adamw) return parameter_count(shape);
  return for_each_factored_moment(shape, [](const parameter_row&, factored_moment) {});
}

}  // namespace t5zero
