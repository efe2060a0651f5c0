// expect: bare_bf16.*keeps_masters_for_16_bit_weights
#include <t5zero/policy/precision.hpp>

struct bare_bf16 : t5zero::bf16 {
  static constexpr bool has_master_weights = false;
};
template <t5zero::precision_policy Precision>
struct user {};
user<bare_bf16> it;
