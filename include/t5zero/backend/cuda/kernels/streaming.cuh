// Accesses to memory that is read or written once: marked so that the L2 gives its lines up first.
#pragma once

#include <bit>

#include <t5zero/backend/cuda/kernels/element.cuh>

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

}  // namespace t5zero::cuda
