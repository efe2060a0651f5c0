// Which types hold parameters and gradients for a ZeRO policy and a communicator.
#pragma once

#include <t5zero/comm/communicator.hpp>
#include <t5zero/comm/self.hpp>
#include <t5zero/core/dtype.hpp>
#include <t5zero/policy/zero_stage.hpp>
#include <t5zero/zero/local_gradients.hpp>
#include <t5zero/zero/resident_source.hpp>

namespace t5zero::zero {

/// A rank that is alone holds everything, whatever the stage: sharding among one is the identity.
template <zero_policy Zero, comm::communicator Communicator, element T>
struct sharding {
  static_assert(
      Communicator::is_alone,
      "several ranks need a gradient sink that reduces, and stages 1 to 3 sharded sources: there are "
      "no types for that yet; run one rank (comm::self)");
  using parameter_source = resident_source<T>;
  using gradient_sink = local_gradients;
};

}  // namespace t5zero::zero
