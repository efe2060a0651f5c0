// expect: The CPU backend has fp32, fp16 and bf16; tf32 needs a GPU: use fp32 instead
#include <t5zero/cpu.hpp>

template struct t5zero::run<t5zero::t5_small, t5zero::zero_2, t5zero::tf32, t5zero::cpu::backend>;
