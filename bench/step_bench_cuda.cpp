// A training step on a GPU; see step_bench.hpp. peak_bytes is what the driver says is taken on the device, by
// this process and any other.
#include <t5zero/cuda.hpp>

#include <string>

#include "step_bench.hpp"

namespace {

struct gpu {
  [[nodiscard]] std::string name() const {
    cudaDeviceProp properties{};
    t5zero::cuda::check(cudaGetDeviceProperties(&properties, 0));
    return properties.name;
  }
  [[nodiscard]] t5zero::index_t used_bytes() const {
    std::size_t free = 0;
    std::size_t total = 0;
    t5zero::cuda::check(cudaMemGetInfo(&free, &total));
    return static_cast<t5zero::index_t>(total - free);
  }
};

}  // namespace

int main(int argc, char** argv) {
  return t5zero_bench::run_step_bench<t5zero::cuda::backend>(argc, argv, gpu{});
}
