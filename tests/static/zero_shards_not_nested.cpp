// expect: Zero is no ZeRO policy.*each implying the one before: use zero_0 to zero_3
#include <t5zero/train/run.hpp>

struct parameters_only : t5zero::zero_0 {
  static constexpr bool shards_parameters = true;
};
template struct t5zero::run<t5zero::t5_small, parameters_only, t5zero::fp32, int>;
