// The largest micro-batch that a run's buffers are planned for.
#pragma once

#include <t5zero/core/integers.hpp>

namespace t5zero {

/// Batches carry no padding, so tokens, not lengths times batch, are what costs memory.
struct batch_shape {
  index_t batch = 1;              ///< sequences
  index_t source_tokens = 0;      ///< of all sequences together
  index_t target_tokens = 0;      ///< of all sequences together
  index_t max_source_length = 0;  ///< of one sequence
  index_t max_target_length = 0;  ///< of one sequence

  /// The worst batch that a command line allows: every sequence as long as it may be.
  [[nodiscard]] static constexpr batch_shape of_lengths(index_t batch, index_t max_source_length,
                                                        index_t max_target_length) {
    return {batch, batch * max_source_length, batch * max_target_length, max_source_length,
            max_target_length};
  }
  /// The smallest shape that holds batches of both.
  [[nodiscard]] constexpr batch_shape covering(const batch_shape& other) const {
    const auto larger = [](index_t a, index_t b) { return a > b ? a : b; };
    return {larger(batch, other.batch), larger(source_tokens, other.source_tokens),
            larger(target_tokens, other.target_tokens), larger(max_source_length, other.max_source_length),
            larger(max_target_length, other.max_target_length)};
  }
};

}  // namespace t5zero
