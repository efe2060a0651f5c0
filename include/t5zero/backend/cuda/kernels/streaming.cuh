// Accesses to memory that is read or written once: marked so that the L2 gives its lines up first.
#pragma once

#include <bit>
#include <cstdint>

#include <t5zero/backend/cuda/kernels/element.cuh>
#include <t5zero/backend/cuda/kernels/tensor_core.cuh>

namespace t5zero::cuda {

/// `Count` consecutive elements; the address is a multiple of their access size, 8 or 16 bytes. Loads keep
/// their place before a barrier.
template <int Count, element T>
[[nodiscard]] __device__ inline pack<T, Count> load_streaming(const T* from) {
  static_assert(sizeof(pack<T, Count>) == 8 || sizeof(pack<T, Count>) == 16);
  if constexpr (sizeof(pack<T, Count>) == 16)
    return std::bit_cast<pack<T, Count>>(__ldcs(reinterpret_cast<const uint4*>(from)));
  else
    return std::bit_cast<pack<T, Count>>(__ldcs(reinterpret_cast<const uint2*>(from)));
}
template <int Count>
__device__ inline void store_streaming(float* to, const float (&from)[Count]) {
  static_assert(Count == 4);
  __stcs(reinterpret_cast<float4*>(to), make_float4(from[0], from[1], from[2], from[3]));
}

/// What copy_pack_streaming is told: lines of the L2 that were read by it are given up first.
[[nodiscard]] __device__ inline std::uint64_t streaming_policy() {
  std::uint64_t policy = 0;
#if __CUDA_ARCH__ >= 800
  asm("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));
#endif
  return policy;
}
/// copy_pack_async of what is read once.
template <element T>
__device__ inline void copy_pack_streaming(pack<T, 4>* to, const pack<T, 4>* from, bool inside,
                                           [[maybe_unused]] std::uint64_t policy) {
#if __CUDA_ARCH__ >= 800
  constexpr int bytes = sizeof(pack<T, 4>);
  const int copied = inside ? bytes : 0;
  if constexpr (bytes == 16)
    asm volatile("cp.async.cg.shared.global.L2::cache_hint [%0], [%1], 16, %2, %3;"
                 :
                 : "r"(detail::shared_address(to)), "l"(from), "r"(copied), "l"(policy)
                 : "memory");
  else
    asm volatile("cp.async.ca.shared.global.L2::cache_hint [%0], [%1], 8, %2, %3;"
                 :
                 : "r"(detail::shared_address(to)), "l"(from), "r"(copied), "l"(policy)
                 : "memory");
#else
  detail::copy_pack_async(to, from, inside);
#endif
}

}  // namespace t5zero::cuda
