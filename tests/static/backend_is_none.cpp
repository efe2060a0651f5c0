// expect: this backend does not offer this precision
#include <t5zero/train/run.hpp>

struct no_backend {};
template struct t5zero::run<t5zero::t5_small, t5zero::zero_2, t5zero::fp16, no_backend>;
