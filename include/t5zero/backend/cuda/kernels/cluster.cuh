// Blocks that exchange data through shared memory (thread-block clusters), which compute capability 9.0
// brought. Below it a block is its own and only neighbour.
//
// A few bytes go by stores that a barrier in the neighbour's memory counts (PTX ISA, "st.async"): a block
// makes its barrier with expect_stores; all threads of the cluster call arrive_at_cluster and, before they
// store to a neighbour, wait_for_cluster; who reads what was stored calls wait_for_stores. A block may end
// before its own stores have arrived, but not before those to it. Many bytes go as fast by plain stores,
// publish_to_cluster and wait_for_cluster; for a few that would be long, since what is published is all that
// the threads have stored anywhere: a fence of the GPU's memory.
#pragma once

#include <cstdint>

#include <t5zero/backend/cuda/kernels/element.cuh>
#include <t5zero/backend/cuda/kernels/shared_barrier.cuh>
#include <t5zero/backend/cuda/kernels/tensor_core.cuh>

namespace t5zero::cuda::detail {

/// So many bytes will be stored to this block, by its neighbours and itself. All threads of the block call
/// it.
__device__ inline void expect_stores(std::uint64_t* barrier, int bytes) {
#if __CUDA_ARCH__ >= 900
  if (threadIdx.x >= warp_size) return;
  if (threadIdx.x == 0) make_barrier(barrier, 1);
  __syncwarp();  // for racecheck, which takes the first for all lanes' work
  if (threadIdx.x != 0) return;
  arrive_and_expect(barrier, bytes);
  publish_barriers();
#endif
}

/// Two halves of a barrier of all threads of a cluster. It says that they have come to it, and nothing of
/// what they have stored but for barriers that were made.
__device__ inline void arrive_at_cluster() {
#if __CUDA_ARCH__ >= 900
  __syncwarp();
  asm volatile("barrier.cluster.arrive.relaxed.aligned;" ::: "memory");
#endif
}
/// The first half, after which all that they have stored is visible to those who wait.
__device__ inline void publish_to_cluster() {
#if __CUDA_ARCH__ >= 900
  __syncwarp();
  asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory");
#endif
}
/// After it the cluster's blocks run, so that their shared memory may be written.
__device__ inline void wait_for_cluster() {
#if __CUDA_ARCH__ >= 900
  __syncwarp();
  asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
#endif
}

/// The address of the same place of shared memory of block `rank` of the cluster.
[[nodiscard]] __device__ inline unsigned peer_address(const void* place, int rank) {
  unsigned address = shared_address(place);
#if __CUDA_ARCH__ >= 900
  asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(address) : "r"(shared_address(place)), "r"(rank));
#endif
  return address;
}
/// Stores to the same place of block `rank`, whose barrier counts it.
__device__ inline void send_to_peer(float* place, int rank, float value, const std::uint64_t* barrier) {
#if __CUDA_ARCH__ >= 900
  asm volatile("st.async.shared::cluster.mbarrier::complete_tx::bytes.b32 [%0], %1, [%2];"
               :
               : "r"(peer_address(place, rank)), "r"(__float_as_uint(value)), "r"(peer_address(barrier, rank))
               : "memory");
#else
  *place = value;
#endif
}
/// The same; the place is a multiple of 8 bytes.
__device__ inline void send_to_peer(void* place, int rank, uint2 value, const std::uint64_t* barrier) {
#if __CUDA_ARCH__ >= 900
  asm volatile("st.async.shared::cluster.mbarrier::complete_tx::bytes.v2.b32 [%0], {%1, %2}, [%3];"
               :
               : "r"(peer_address(place, rank)), "r"(value.x), "r"(value.y), "r"(peer_address(barrier, rank))
               : "memory");
#else
  *static_cast<uint2*>(place) = value;
#endif
}
/// The same; the place is a multiple of 16 bytes.
__device__ inline void send_to_peer(void* place, int rank, float4 value, const std::uint64_t* barrier) {
#if __CUDA_ARCH__ >= 900
  asm volatile("st.async.shared::cluster.mbarrier::complete_tx::bytes.v4.b32 [%0], {%1, %2, %3, %4}, [%5];"
               :
               : "r"(peer_address(place, rank)), "r"(__float_as_uint(value.x)), "r"(__float_as_uint(value.y)),
                 "r"(__float_as_uint(value.z)), "r"(__float_as_uint(value.w)),
                 "r"(peer_address(barrier, rank))
               : "memory");
#else
  *static_cast<float4*>(place) = value;
#endif
}

/// Stores to the same place of block `rank`, a multiple of 16 bytes; to be published.
__device__ inline void store_to_peer(void* place, int rank, float4 value) {
#if __CUDA_ARCH__ >= 900
  asm volatile("st.shared::cluster.v4.f32 [%0], {%1, %2, %3, %4};"
               :
               : "r"(peer_address(place, rank)), "f"(value.x), "f"(value.y), "f"(value.z), "f"(value.w)
               : "memory");
#else
  *static_cast<float4*>(place) = value;
#endif
}

/// Until all stores that this block's barrier expects have arrived. All threads of the block call it.
__device__ inline void wait_for_stores(std::uint64_t* barrier) {
  wait_for_bytes(barrier, 0);
}

}  // namespace t5zero::cuda::detail
