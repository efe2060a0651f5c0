// World size 1.
#pragma once

#include <t5zero/comm/communicator.hpp>

namespace t5zero::comm {

/// The only rank there is: no collective exists, so none can be called.
struct self {
  static constexpr bool is_alone = true;
  [[nodiscard]] static constexpr index_t rank() { return 0; }
  [[nodiscard]] static constexpr index_t world_size() { return 1; }
};

static_assert(communicator<self>);

}  // namespace t5zero::comm
