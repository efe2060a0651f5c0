// A training step on the CPU; see step_bench.hpp.
#include <t5zero/cpu.hpp>

#include "host_machine.hpp"
#include "step_bench.hpp"

int main(int argc, char** argv) {
  return t5zero_bench::run_step_bench<t5zero::cpu::backend>(argc, argv, t5zero_bench::host_machine{});
}
