// expect: Precision is no precision policy. 16-bit param_type needs has_master_weights = true
#include <t5zero/train/run.hpp>

struct bare_fp16 : t5zero::fp16 {
  static constexpr bool has_master_weights = false;
};
template struct t5zero::run<t5zero::t5_small, t5zero::zero_2, bare_fp16, int>;
