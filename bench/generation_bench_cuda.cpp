// Generation on a GPU; see generation_bench.hpp.
#include <t5zero/cuda.hpp>

#include "generation_bench.hpp"
#include "gpu_machine.hpp"

int main(int argc, char** argv) {
  return t5zero_bench::run_generation_bench<t5zero::cuda::backend>(argc, argv, t5zero_bench::gpu_machine{});
}
