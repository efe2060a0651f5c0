// The instructions of tensor cores and asynchronous copies that kernels use, as functions: D = A B + C on 16
// x 8 x 16 tiles, and 16 x 8 x 8 in TF32 (PTX ISA, "Matrix multiply-accumulate operation using mma
// instruction", m16n8k16 and m16n8k8: the fragments' layouts are there), ldmatrix, cp.async. Where an
// architecture lacks one, a slower equal stands in.
#pragma once

#include <cstdint>

#include <t5zero/backend/cuda/kernels/element.cuh>
#include <t5zero/core/dtype.hpp>

namespace t5zero::cuda::detail {

/// The block's dynamic shared memory.
[[nodiscard]] __device__ inline unsigned char* dynamic_shared_memory() {
  extern __shared__ __align__(128) unsigned char memory[];
  return memory;
}

[[nodiscard]] __device__ inline unsigned shared_address(const void* pointer) {
  return static_cast<unsigned>(__cvta_generic_to_shared(pointer));
}

/// Starts a copy of 16 bytes from global to shared memory; zeros are written where `inside` is false.
__device__ inline void copy_16_bytes_async(void* to, const void* from, bool inside) {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;"
               :
               : "r"(shared_address(to)), "l"(from), "r"(inside ? 16 : 0)
               : "memory");
#else
  *static_cast<uint4*>(to) = inside ? *static_cast<const uint4*>(from) : uint4{0, 0, 0, 0};
#endif
}
/// The same for 4 bytes.
__device__ inline void copy_4_bytes_async(void* to, const void* from, bool inside) {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;"
               :
               : "r"(shared_address(to)), "l"(from), "r"(inside ? 4 : 0)
               : "memory");
#else
  *static_cast<unsigned*>(to) = inside ? *static_cast<const unsigned*>(from) : 0U;
#endif
}
/// Waits for this thread's copies; a barrier must follow before other threads read them.
__device__ inline void wait_for_copies() {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.wait_all;" ::: "memory");
#endif
}

/// Ends a group of this thread's copies; groups are waited for in order.
__device__ inline void end_copy_group() {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}
/// Waits for all groups but the last `Later`.
template <int Later>
__device__ inline void wait_for_copy_groups() {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.wait_group %0;" ::"n"(Later) : "memory");
#endif
}

/// Four 8 x 8 matrices of 16-bit elements; lane i names the address of row i % 8 of matrix i / 8. Lane i gets
/// elements 2 * (i % 4) and the next of row i / 4 of each.
__device__ inline void load_matrices(std::uint32_t (&to)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"(shared_address(row))
               : "memory");
}
/// The same, transposed: lane i gets rows 2 * (i % 4) and the next of column i / 4.
__device__ inline void load_matrices_transposed(std::uint32_t (&to)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"(shared_address(row))
               : "memory");
}

/// Two values rounded to T, the first in the lower half.
template <element T>
[[nodiscard]] __device__ inline std::uint32_t round_pair(float low, float high) {
  if constexpr (std::same_as<T, float16>) {
    const __half2 pair = __floats2half2_rn(low, high);
    return *reinterpret_cast<const std::uint32_t*>(&pair);
  } else {
    const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
    return *reinterpret_cast<const std::uint32_t*>(&pair);
  }
}

/// Lane l holds rows l / 4 (c0, c1) and l / 4 + 8 (c2, c3), columns 2 * (l % 4) and the next, of c.
template <element T>
__device__ inline void multiply_add(float& c0, float& c1, float& c2, float& c3, const std::uint32_t (&a)[4],
                                    std::uint32_t b0, std::uint32_t b1) {
  if constexpr (std::same_as<T, float16>) {
#if __CUDA_ARCH__ >= 800
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(c0), "+f"(c1), "+f"(c2), "+f"(c3)
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#else
    asm("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5}, {%6}, {%0, %1, %2, %3};"
        : "+f"(c0), "+f"(c1), "+f"(c2), "+f"(c3)
        : "r"(a[0]), "r"(a[1]), "r"(b0));
    asm("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5}, {%6}, {%0, %1, %2, %3};"
        : "+f"(c0), "+f"(c1), "+f"(c2), "+f"(c3)
        : "r"(a[2]), "r"(a[3]), "r"(b1));
#endif
  } else {
#if __CUDA_ARCH__ >= 800
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(c0), "+f"(c1), "+f"(c2), "+f"(c3)
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#else
    // No bfloat16 in these tensor cores: the operands travel by shuffles.
    const int lane = static_cast<int>(threadIdx.x) % warp_size;
    const auto low = [](std::uint32_t pair) { return __uint_as_float(pair << 16); };
    const auto high = [](std::uint32_t pair) { return __uint_as_float(pair & 0xffff0000U); };
#pragma unroll
    for (int k = 0; k < 8; ++k) {
      const int row_lane = lane / 4 * 4 + k % 4;
      const int column_lane = lane % 4 * 8 + k % 4;
      const std::uint32_t top = __shfl_sync(all_lanes, a[k / 4 * 2], row_lane);
      const std::uint32_t bottom = __shfl_sync(all_lanes, a[k / 4 * 2 + 1], row_lane);
      const std::uint32_t left = __shfl_sync(all_lanes, k < 4 ? b0 : b1, column_lane);
      const std::uint32_t right = __shfl_sync(all_lanes, k < 4 ? b0 : b1, column_lane + 4);
      c0 += low(top) * low(left) + high(top) * high(left);
      c1 += low(top) * low(right) + high(top) * high(right);
      c2 += low(bottom) * low(left) + high(bottom) * high(left);
      c3 += low(bottom) * low(right) + high(bottom) * high(right);
    }
#endif
  }
}

/// The same for one 16 x 8 x 8 tile in TF32, whose operands' last 13 bits may not count. Lane l holds rows l
/// / 4 (a[0], a[2]) and l / 4 + 8 (a[1], a[3]) of a, columns l % 4 and l % 4 + 4 (a[2], a[3]), and of b
/// column l / 4, rows l % 4 (b0) and l % 4 + 4 (b1).
__device__ inline void multiply_add_tf32(float (&c)[4], const float (&a)[4], float b0, float b1) {
#if __CUDA_ARCH__ >= 800
  asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(__float_as_uint(a[0])), "r"(__float_as_uint(a[1])), "r"(__float_as_uint(a[2])),
        "r"(__float_as_uint(a[3])), "r"(__float_as_uint(b0)), "r"(__float_as_uint(b1)));
#else
  const int lane = static_cast<int>(threadIdx.x) % warp_size;
#pragma unroll 1
  for (int k = 0; k < 4; ++k) {
    const int row_lane = lane / 4 * 4 + k;
    const int column_lane = lane % 4 * 8 + k;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const float top = __shfl_sync(all_lanes, a[2 * half], row_lane);
      const float bottom = __shfl_sync(all_lanes, a[2 * half + 1], row_lane);
      const float left = __shfl_sync(all_lanes, half == 0 ? b0 : b1, column_lane);
      const float right = __shfl_sync(all_lanes, half == 0 ? b0 : b1, column_lane + 4);
      c[0] += top * left;
      c[1] += top * right;
      c[2] += bottom * left;
      c[3] += bottom * right;
    }
  }
#endif
}

/// A number as the sum of two that TF32 holds, to 2^-23 of it.
struct tf32_pair {
  float high;
  float low;
};
[[nodiscard]] __device__ inline tf32_pair split_for_tf32(float value) {
  const float high = __uint_as_float((__float_as_uint(value) + 0x1000U) & 0xffffe000U);
  return {high, value - high};
}

/// large + small += A B of fp32 numbers, with three products in TF32 (Ootomo and Yokota 2022); the fourth, at
/// most 2^-22 of the product, is left out. Tensor cores round sums towards zero: a sum of many is to be added
/// up elsewhere. large and small may be the same.
__device__ inline void multiply_add_fp32(float (&large)[4], float (&small)[4], const float (&a)[4], float b0,
                                         float b1) {
#if __CUDA_ARCH__ >= 800
  float high[4];
  float low[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const tf32_pair pair = split_for_tf32(a[i]);
    high[i] = pair.high;
    low[i] = pair.low;
  }
  const tf32_pair left = split_for_tf32(b0);
  const tf32_pair right = split_for_tf32(b1);
  multiply_add_tf32(small, high, left.low, right.low);
  multiply_add_tf32(small, low, left.high, right.high);
  multiply_add_tf32(large, high, left.high, right.high);
#else
  multiply_add_tf32(large, a, b0, b1);
#endif
}

}  // namespace t5zero::cuda::detail
