// One micro-batch as the model reads it.
#pragma once

#include <cstdint>

#include <t5zero/tensor/ragged_view.hpp>

namespace t5zero {

/// Token ids without padding. The arrays belong to the caller and live as long as the call.
struct batch_view {
  ragged_view source;
  ragged_view target;
  const std::int32_t* source_ids = nullptr;   ///< [source.tokens]
  const std::int32_t* decoder_ids = nullptr;  ///< [target.tokens]: labels shifted right
  const std::int32_t* labels = nullptr;       ///< [target.tokens]; negative (-100): does not count
};

}  // namespace t5zero
