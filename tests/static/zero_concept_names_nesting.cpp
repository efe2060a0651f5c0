// expect: gradients_only.*zero_shards_nested
#include <t5zero/policy/zero_stage.hpp>

struct gradients_only : t5zero::zero_2 {
  static constexpr bool shards_optimizer = false;
};
template <t5zero::zero_policy Zero>
struct user {};
user<gradients_only> it;
