// What the order of the examples of a run depends on.
#pragma once

#include <cstdint>

#include <t5zero/core/integers.hpp>

namespace t5zero {

/// What must be the same for a run to go on: the order of the examples depends on it.
struct data_fingerprint {
  index_t examples = 0;
  index_t batch_size = 0;
  index_t gradient_accumulation = 0;
  std::uint32_t order_seed = 0;
  bool drops_last = false;
  bool groups_by_length = false;

  [[nodiscard]] index_t batches_per_epoch() const {
    return drops_last ? examples / batch_size : ceil_div(examples, batch_size);
  }
};

}  // namespace t5zero
