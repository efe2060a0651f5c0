// Memory spaces of the GPU backend: the device's own, and host memory that the device reads and writes.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstring>
#include <string>

#include <t5zero/backend/cuda/check.hpp>
#include <t5zero/core/error.hpp>
#include <t5zero/core/integers.hpp>

namespace t5zero::cuda {

/// Device memory of the current GPU, one allocation per arena.
struct memory {
  static constexpr bool is_host = false;

  /// Zeroed. Throws capacity_error if the GPU has less.
  static std::byte* allocate(index_t bytes) {
    if (bytes == 0) return nullptr;
    void* data = nullptr;
    const cudaError_t status = cudaMalloc(&data, static_cast<std::size_t>(bytes));
    if (status == cudaErrorMemoryAllocation) {
      (void)cudaGetLastError();  // the error is dealt with: later calls do not report it again
      throw capacity_error("the GPU cannot give " + std::to_string(bytes) + " bytes (" +
                           std::to_string(available_bytes()) +
                           " are free): choose a smaller batch or model, or end what else uses it");
    }
    check(status);
    try {
      check(cudaMemset(data, 0, static_cast<std::size_t>(bytes)));
      check(cudaDeviceSynchronize());
    } catch (...) {
      cudaFree(data);
      throw;
    }
    return static_cast<std::byte*>(data);
  }
  static void release(std::byte* data, index_t /*bytes*/) noexcept { cudaFree(data); }

  // Both wait; work in flight on the memory must be done.
  static void to_host(const void* from, void* to, index_t bytes) {
    check(cudaMemcpy(to, from, static_cast<std::size_t>(bytes), cudaMemcpyDeviceToHost));
  }
  static void from_host(const void* from, void* to, index_t bytes) {
    check(cudaMemcpy(to, from, static_cast<std::size_t>(bytes), cudaMemcpyHostToDevice));
    check(cudaDeviceSynchronize());  // of pageable memory the copy may still be under way
  }

  /// Bytes that the current GPU would give now.
  [[nodiscard]] static index_t available_bytes() {
    std::size_t free = 0;
    std::size_t total = 0;
    check(cudaMemGetInfo(&free, &total));
    return static_cast<index_t>(free);
  }
};

/// Page-locked host memory, at one address for host and device.
struct pinned_memory {
  static std::byte* allocate(index_t bytes) {
    if (bytes == 0) return nullptr;
    void* data = nullptr;
    const cudaError_t status = cudaHostAlloc(&data, static_cast<std::size_t>(bytes), cudaHostAllocPortable);
    if (status == cudaErrorMemoryAllocation) {
      (void)cudaGetLastError();
      throw capacity_error("the system cannot lock " + std::to_string(bytes) +
                           " bytes of host memory: free some, use a smaller batch or shorter sequences, or "
                           "raise the container's memory limit");
    }
    check(status);
    std::memset(data, 0, static_cast<std::size_t>(bytes));
    return static_cast<std::byte*>(data);
  }
  static void release(std::byte* data, index_t /*bytes*/) noexcept { cudaFreeHost(data); }
};

}  // namespace t5zero::cuda
