// expect: thrifty.*accumulates_in_fp32
#include <t5zero/policy/precision.hpp>

struct thrifty : t5zero::fp16 {
  using accum_type = t5zero::float16;
};
template <t5zero::precision_policy Precision>
struct user {};
user<thrifty> it;
