// Generation on the CPU; see generation_bench.hpp.
#include <sys/resource.h>

#include <t5zero/cpu.hpp>

#include "generation_bench.hpp"

int main(int argc, char** argv) {
  return t5zero_bench::run_generation_bench<t5zero::cpu::backend>(argc, argv, [] {
    struct rusage usage {};
    ::getrusage(RUSAGE_SELF, &usage);
    return t5zero::index_t{usage.ru_maxrss} * 1024;
  });
}
