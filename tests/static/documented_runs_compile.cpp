// compiles: the documented runs on the CPU backend
#include <t5zero/cpu.hpp>

template struct t5zero::run<t5zero::t5_small, t5zero::zero_2, t5zero::fp16, t5zero::cpu::backend>;
template struct t5zero::run<t5zero::t5_large, t5zero::zero_2, t5zero::fp32, t5zero::cpu::backend>;
template struct t5zero::run<t5zero::t5_3b, t5zero::zero_3, t5zero::fp16, t5zero::cpu::backend>;
template struct t5zero::run<t5zero::t5_small, t5zero::zero_0, t5zero::fp32, t5zero::cpu::backend>;
