// Generation on a GPU; see generation_bench.hpp. peak_bytes is what the driver says is taken on the device,
// by this process and any other.
#include <t5zero/cuda.hpp>

#include "generation_bench.hpp"

int main(int argc, char** argv) {
  return t5zero_bench::run_generation_bench<t5zero::cuda::backend>(argc, argv, [] {
    std::size_t free = 0;
    std::size_t total = 0;
    t5zero::cuda::check(cudaMemGetInfo(&free, &total));
    return static_cast<t5zero::index_t>(total - free);
  });
}
