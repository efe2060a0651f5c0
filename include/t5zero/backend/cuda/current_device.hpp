// The limits of the GPU in use.
#pragma once

#include <cuda_runtime_api.h>

#include <t5zero/backend/cuda/check.hpp>
#include <t5zero/backend/cuda/device_limits.hpp>

namespace t5zero::cuda {

/// The GPU in use; some of its shared memory is left to what kernels declare.
[[nodiscard]] inline device_limits current_device_limits() {
  int ordinal = 0;
  int multiprocessors = 0;
  int shared = 0;
  check(cudaGetDevice(&ordinal));
  check(cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, ordinal));
  check(cudaDeviceGetAttribute(&shared, cudaDevAttrMaxSharedMemoryPerBlockOptin, ordinal));
  return {multiprocessors, shared - 1024};
}

}  // namespace t5zero::cuda
