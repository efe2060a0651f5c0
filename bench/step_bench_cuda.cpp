// A training step on a GPU; see step_bench.hpp.
#include <t5zero/cuda.hpp>

#include "gpu_machine.hpp"
#include "step_bench.hpp"

int main(int argc, char** argv) {
  return t5zero_bench::run_step_bench<t5zero::cuda::backend>(argc, argv, t5zero_bench::gpu_machine{});
}
