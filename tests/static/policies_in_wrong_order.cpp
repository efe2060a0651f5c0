// expect: Model is no model policy.*Precision is no precision policy
#include <t5zero/train/run.hpp>

template struct t5zero::run<t5zero::fp16, t5zero::zero_2, t5zero::t5_small, int>;
