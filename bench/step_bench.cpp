// A training step on the CPU; see step_bench.hpp. peak_bytes is the most that the process held.
#include <sys/resource.h>

#include <string>

#include <t5zero/cpu.hpp>

#include "step_bench.hpp"

namespace {

struct host {
  [[nodiscard]] std::string name() const { return "CPU"; }
  [[nodiscard]] t5zero::index_t used_bytes() const {
    struct rusage usage {};
    ::getrusage(RUSAGE_SELF, &usage);
    return t5zero::index_t{usage.ru_maxrss} * 1024;
  }
};

}  // namespace

int main(int argc, char** argv) {
  return t5zero_bench::run_step_bench<t5zero::cpu::backend>(argc, argv, host{});
}
