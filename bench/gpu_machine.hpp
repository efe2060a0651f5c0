// The first GPU.
#pragma once

#include <cuda_runtime_api.h>

#include <string>

#include <t5zero/backend/cuda/check.hpp>
#include <t5zero/core/integers.hpp>

#include "machine.hpp"

namespace t5zero_bench {

struct gpu_machine {
  [[nodiscard]] std::string name() const {
    cudaDeviceProp properties{};
    t5zero::cuda::check(cudaGetDeviceProperties(&properties, 0));
    return properties.name;
  }
  /// By this process and any other, the driver's context with it.
  [[nodiscard]] t5zero::index_t used_bytes() const {
    std::size_t free = 0;
    std::size_t total = 0;
    t5zero::cuda::check(cudaMemGetInfo(&free, &total));
    return static_cast<t5zero::index_t>(total - free);
  }
};

}  // namespace t5zero_bench
