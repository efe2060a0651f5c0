// A batch of sequences without padding: their tokens stand one after another. Padding costs nothing, because
// there is none; a sublayer that needs sequences (attention) reads the offsets, all others see rows of a
// matrix.
#pragma once

#include <cstdint>

#include <t5zero/core/integers.hpp>

namespace t5zero {

/// `batch` sequences of at least one token; sequence b is tokens [offsets[b], offsets[b + 1]).
struct ragged_view {
  const index_t* offsets = nullptr;          ///< [batch + 1], offsets[0] == 0
  const std::uint32_t* rows = nullptr;       ///< [tokens] row of the global batch that a token belongs to
  const std::uint32_t* positions = nullptr;  ///< [tokens] position of a token in its sequence
  index_t batch = 0;
  index_t tokens = 0;
  index_t max_length = 0;  ///< of the sequences, in tokens

  [[nodiscard]] constexpr index_t length(index_t b) const { return offsets[b + 1] - offsets[b]; }
};

}  // namespace t5zero
