// Generation on the CPU; see generation_bench.hpp.
#include <t5zero/cpu.hpp>

#include "generation_bench.hpp"
#include "host_machine.hpp"

int main(int argc, char** argv) {
  return t5zero_bench::run_generation_bench<t5zero::cpu::backend>(argc, argv, t5zero_bench::host_machine{});
}
