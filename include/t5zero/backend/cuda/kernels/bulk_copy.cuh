// Copies of many bytes to shared memory that a barrier there counts, without a thread's registers or its
// place among the multiprocessor's loads (PTX ISA, "cp.async.bulk"): what compute capability 9.0 brought.
// Below it they have ended when they return.
#pragma once

#include <cstdint>

#include <t5zero/backend/cuda/kernels/tensor_core.cuh>

namespace t5zero::cuda::detail {

/// Starts to copy bytes that are read once from global memory. Both addresses and the count are multiples
/// of 16.
__device__ inline void start_bulk_copy(void* to, const void* from, int bytes, std::uint64_t* barrier) {
#if __CUDA_ARCH__ >= 900
  std::uint64_t policy;
  asm("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint [%0], [%1], %2, "
      "[%3], %4;"
      :
      : "r"(shared_address(to)), "l"(from), "r"(bytes), "r"(shared_address(barrier)), "l"(policy)
      : "memory");
#else
  for (int i = 0; i < bytes / 16; ++i) static_cast<uint4*>(to)[i] = static_cast<const uint4*>(from)[i];
#endif
}

/// Brings bytes to the L2, for a copy that will come; of the same addresses and counts.
__device__ inline void start_prefetch(const void* from, int bytes) {
#if __CUDA_ARCH__ >= 900
  asm volatile("cp.async.bulk.prefetch.L2.global [%0], %1;" ::"l"(from), "r"(bytes) : "memory");
#endif
}

}  // namespace t5zero::cuda::detail
