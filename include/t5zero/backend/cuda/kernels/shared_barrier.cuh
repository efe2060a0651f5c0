// Barriers in shared memory, for some threads of a block and for bytes that are on their way to it (PTX ISA,
// "mbarrier"): what compute capability 9.0 brought. Below it these functions do nothing, but
// for wait_for_bytes.
#pragma once

#include <cstdint>

#include <t5zero/backend/cuda/kernels/tensor_core.cuh>

namespace t5zero::cuda::detail {

/// A barrier of `arrivals` in shared memory.
__device__ inline void make_barrier(std::uint64_t* barrier, int arrivals) {
#if __CUDA_ARCH__ >= 900
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(barrier)), "r"(arrivals)
               : "memory");
#endif
}
__device__ inline void arrive(std::uint64_t* barrier) {
#if __CUDA_ARCH__ >= 900
  asm volatile("mbarrier.arrive.release.cta.shared::cta.b64 _, [%0];" ::"r"(shared_address(barrier))
               : "memory");
#endif
}
/// The same; so many bytes are to come in this phase, too.
__device__ inline void arrive_and_expect(std::uint64_t* barrier, int bytes) {
#if __CUDA_ARCH__ >= 900
  asm volatile(
      "mbarrier.arrive.expect_tx.release.cta.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(barrier)),
      "r"(bytes)
      : "memory");
#endif
}
/// Until phases of the given parity are over; of a fresh barrier those of parity 1 are.
__device__ inline void wait_for(std::uint64_t* barrier, int parity) {
#if __CUDA_ARCH__ >= 900
  asm volatile(
      "{\n"
      ".reg .pred done;\n"
      "again:\n"
      "mbarrier.try_wait.parity.acquire.cta.shared::cta.b64 done, [%0], %1;\n"
      "@!done bra again;\n"
      "}" ::"r"(shared_address(barrier)),
      "r"(parity)
      : "memory");
#endif
}

/// Barriers that this thread made are there for the whole cluster, and for bulk copies.
__device__ inline void publish_barriers() {
#if __CUDA_ARCH__ >= 900
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
#endif
}
/// wait_for, of all threads of the block, what neighbours store or bulk copies bring. (By the letter the
/// former want an acquire by the cluster; that empties the cache of global memory, and here there is only
/// shared memory to be seen.) Where stores and copies end when they return, a barrier of the block.
__device__ inline void wait_for_bytes(std::uint64_t* barrier, int parity) {
#if __CUDA_ARCH__ >= 900
  wait_for(barrier, parity);
#else
  __syncthreads();
#endif
}

}  // namespace t5zero::cuda::detail
