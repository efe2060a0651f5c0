// What kernels share: element types as CUDA has them, 16-byte accesses, reductions in a fixed order.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <concepts>
#include <cstdint>

#include <t5zero/core/dtype.hpp>
#include <t5zero/core/integers.hpp>

namespace t5zero::cuda {

inline constexpr int warp_size = 32;
inline constexpr unsigned all_lanes = 0xffffffffU;

[[nodiscard]] __device__ inline float to_float(float value) {
  return value;
}
[[nodiscard]] __device__ inline float to_float(float16 value) {
  return __half2float(__ushort_as_half(value.bits));
}
[[nodiscard]] __device__ inline float to_float(bfloat16 value) {
  return __uint_as_float(static_cast<unsigned>(value.bits) << 16);
}

/// Round to nearest, ties to even.
template <element T>
[[nodiscard]] __device__ inline T from_float(float value) {
  if constexpr (sizeof(T) == 4) {
    return value;
  } else {
    T result;
    if constexpr (std::same_as<T, float16>)
      result.bits = __half_as_ushort(__float2half_rn(value));
    else
      result.bits = __bfloat16_as_ushort(__float2bfloat16_rn(value));
    return result;
  }
}

/// `Count` consecutive elements, moved by accesses of up to 16 bytes; the address is a multiple of that.
template <element T, int Count>
struct alignas(sizeof(T) * Count < 16 ? sizeof(T) * Count : 16) pack {
  T values[Count];
};
template <int Count, element T>
__device__ inline void load_pack(const T* from, float (&to)[Count]) {
  const auto loaded = *reinterpret_cast<const pack<T, Count>*>(from);
#pragma unroll
  for (int i = 0; i < Count; ++i) to[i] = to_float(loaded.values[i]);
}
template <int Count, element T>
__device__ inline void store_pack(T* to, const float (&from)[Count]) {
  pack<T, Count> stored;
#pragma unroll
  for (int i = 0; i < Count; ++i) stored.values[i] = from_float<T>(from[i]);
  *reinterpret_cast<pack<T, Count>*>(to) = stored;
}

/// Sum (or maximum) over a warp, the same in every lane; the order of additions is fixed.
template <class V>
[[nodiscard]] __device__ inline V warp_sum(V value) {
#pragma unroll
  for (int offset = warp_size / 2; offset > 0; offset /= 2)
    value += __shfl_xor_sync(all_lanes, value, offset);
  return value;
}
[[nodiscard]] __device__ inline float warp_max(float value) {
#pragma unroll
  for (int offset = warp_size / 2; offset > 0; offset /= 2)
    value = fmaxf(value, __shfl_xor_sync(all_lanes, value, offset));
  return value;
}
/// Sum over a block of `Threads` threads, the same in every thread. All threads call it; `shared` holds
/// Threads / 32 values and may be reused after the next __syncthreads.
template <int Threads, class V>
[[nodiscard]] __device__ inline V block_sum(V value, V* shared) {
  static_assert(Threads % warp_size == 0 && Threads <= 1024);
  value = warp_sum(value);
  if constexpr (Threads == warp_size) return value;
  __syncthreads();  // whoever still reads `shared` from before
  if (threadIdx.x % warp_size == 0) shared[threadIdx.x / warp_size] = value;
  __syncthreads();
  value = shared[0];
#pragma unroll
  for (int i = 1; i < Threads / warp_size; ++i) value += shared[i];
  return value;
}
template <int Threads>
[[nodiscard]] __device__ inline float block_max(float value, float* shared) {
  static_assert(Threads % warp_size == 0 && Threads <= 1024);
  value = warp_max(value);
  if constexpr (Threads == warp_size) return value;
  __syncthreads();
  if (threadIdx.x % warp_size == 0) shared[threadIdx.x / warp_size] = value;
  __syncthreads();
  value = shared[0];
#pragma unroll
  for (int i = 1; i < Threads / warp_size; ++i) value = fmaxf(value, shared[i]);
  return value;
}

}  // namespace t5zero::cuda
