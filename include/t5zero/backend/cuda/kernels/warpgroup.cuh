// Hopper's products of a warpgroup, four warps (PTX ISA, "Asynchronous Warpgroup Level Matrix
// Multiply-Accumulate"). Code for sm_90a alone has them; elsewhere these functions do nothing, and
// takes_warpgroups says so to the host.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include <t5zero/backend/cuda/kernels/element.cuh>
#include <t5zero/backend/cuda/kernels/tensor_core.cuh>

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define T5ZERO_WARPGROUPS 1
#else
#define T5ZERO_WARPGROUPS 0
#endif

namespace t5zero::cuda::detail {

inline constexpr int warpgroup_size = 4 * warp_size;

/// The launch bound of a kernel of `threads` that needs warpgroups: compiled for other architectures it takes
/// a warp at most, which the host can read.
#if !defined(__CUDA_ARCH__) || T5ZERO_WARPGROUPS
[[nodiscard]] constexpr int warpgroup_threads(int threads) {
  return threads;
}
#else
[[nodiscard]] constexpr int warpgroup_threads(int /*threads*/) {
  return warp_size;
}
#endif
/// Is a kernel that was launched bound by warpgroup_threads compiled with warpgroups?
[[nodiscard]] inline bool takes_warpgroups(const cudaFuncAttributes& kernel) {
  return kernel.maxThreadsPerBlock > warp_size;
}

/// An operand in shared memory: matrices of 8 x 8 16-bit elements, 128 bytes each; the next along the depth
/// is depth_bytes away, the next along the rows or columns side_bytes.
[[nodiscard]] __device__ inline std::uint64_t warpgroup_operand(const void* data, int depth_bytes,
                                                                int side_bytes) {
  return std::uint64_t{(shared_address(data) & 0x3ffffU) >> 4} |
         static_cast<std::uint64_t>(depth_bytes >> 4) << 16 |
         static_cast<std::uint64_t>(side_bytes >> 4) << 32;
}
/// The same operand `bytes` further on.
[[nodiscard]] __device__ inline std::uint64_t advance(std::uint64_t operand, int bytes) {
  return operand + static_cast<std::uint64_t>(bytes >> 4);
}

/// Before the first product that reads registers which were written by other instructions.
__device__ inline void begin_products() {
#if T5ZERO_WARPGROUPS
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#endif
}
/// Products submitted so far are a group.
__device__ inline void end_products() {
#if T5ZERO_WARPGROUPS
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
#endif
}
/// Until all groups but the last `Later` are done; take_products then gives their sums.
template <int Later>
__device__ void wait_for_products() {
#if T5ZERO_WARPGROUPS
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(Later) : "memory");
#endif
}
template <int Count>
__device__ void take_products(float (&sums)[Count]) {
#pragma unroll
  for (float& sum : sums) asm volatile("" : "+f"(sum)::"memory");
}

/// The fragment's registers hold it until here.
__device__ inline void keep(const std::uint32_t (&a)[4]) {
  asm volatile("" ::"r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]) : "memory");
}

/// sums[64, 32] = a b, or sums + a b where `adds`, over a depth of 16: a's fragment is in registers; b is in
/// shared memory, rows of its 8 x 8 matrices consecutive along the columns or the depth.
template <bool AlongColumns>
__device__ void multiply(float (&sums)[16], const std::uint32_t (&a)[4], std::uint64_t b, bool adds) {
#if T5ZERO_WARPGROUPS
  asm volatile(
      "{\n"
      ".reg .pred adds;\n"
      "setp.ne.b32 adds, %21, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n32k16.f32.bf16.bf16 "
      "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15}, "
      "{%16, %17, %18, %19}, %20, adds, 1, 1, %22;\n"
      "}"
      : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3]), "+f"(sums[4]), "+f"(sums[5]),
        "+f"(sums[6]), "+f"(sums[7]), "+f"(sums[8]), "+f"(sums[9]), "+f"(sums[10]), "+f"(sums[11]),
        "+f"(sums[12]), "+f"(sums[13]), "+f"(sums[14]), "+f"(sums[15])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(static_cast<int>(adds)),
        "n"(AlongColumns ? 1 : 0));
#endif
}
/// sums[64, 64] = a b, or sums + a b where `adds`, over a depth of 16: a's fragment is in registers; b is in
/// shared memory, rows of its 8 x 8 matrices consecutive along the columns or the depth.
template <bool AlongColumns>
__device__ void multiply(float (&sums)[32], const std::uint32_t (&a)[4], std::uint64_t b, bool adds) {
#if T5ZERO_WARPGROUPS
  asm volatile(
      "{\n"
      ".reg .pred adds;\n"
      "setp.ne.b32 adds, %37, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 "
      "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
      "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}, "
      "{%32, %33, %34, %35}, %36, adds, 1, 1, %38;\n"
      "}"
      : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3]), "+f"(sums[4]), "+f"(sums[5]),
        "+f"(sums[6]), "+f"(sums[7]), "+f"(sums[8]), "+f"(sums[9]), "+f"(sums[10]), "+f"(sums[11]),
        "+f"(sums[12]), "+f"(sums[13]), "+f"(sums[14]), "+f"(sums[15]), "+f"(sums[16]), "+f"(sums[17]),
        "+f"(sums[18]), "+f"(sums[19]), "+f"(sums[20]), "+f"(sums[21]), "+f"(sums[22]), "+f"(sums[23]),
        "+f"(sums[24]), "+f"(sums[25]), "+f"(sums[26]), "+f"(sums[27]), "+f"(sums[28]), "+f"(sums[29]),
        "+f"(sums[30]), "+f"(sums[31])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(static_cast<int>(adds)),
        "n"(AlongColumns ? 1 : 0));
#endif
}
/// sums[64, 128] = a b, or sums + a b where `adds`, over a depth of 16: a's fragment is in registers; b is in
/// shared memory, rows of its 8 x 8 matrices consecutive along the columns or the depth.
template <bool AlongColumns>
__device__ void multiply(float (&sums)[64], const std::uint32_t (&a)[4], std::uint64_t b, bool adds) {
#if T5ZERO_WARPGROUPS
  asm volatile(
      "{\n"
      ".reg .pred adds;\n"
      "setp.ne.b32 adds, %69, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 "
      "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
      "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
      "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
      "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63}, "
      "{%64, %65, %66, %67}, %68, adds, 1, 1, %70;\n"
      "}"
      : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3]), "+f"(sums[4]), "+f"(sums[5]),
        "+f"(sums[6]), "+f"(sums[7]), "+f"(sums[8]), "+f"(sums[9]), "+f"(sums[10]), "+f"(sums[11]),
        "+f"(sums[12]), "+f"(sums[13]), "+f"(sums[14]), "+f"(sums[15]), "+f"(sums[16]), "+f"(sums[17]),
        "+f"(sums[18]), "+f"(sums[19]), "+f"(sums[20]), "+f"(sums[21]), "+f"(sums[22]), "+f"(sums[23]),
        "+f"(sums[24]), "+f"(sums[25]), "+f"(sums[26]), "+f"(sums[27]), "+f"(sums[28]), "+f"(sums[29]),
        "+f"(sums[30]), "+f"(sums[31]), "+f"(sums[32]), "+f"(sums[33]), "+f"(sums[34]), "+f"(sums[35]),
        "+f"(sums[36]), "+f"(sums[37]), "+f"(sums[38]), "+f"(sums[39]), "+f"(sums[40]), "+f"(sums[41]),
        "+f"(sums[42]), "+f"(sums[43]), "+f"(sums[44]), "+f"(sums[45]), "+f"(sums[46]), "+f"(sums[47]),
        "+f"(sums[48]), "+f"(sums[49]), "+f"(sums[50]), "+f"(sums[51]), "+f"(sums[52]), "+f"(sums[53]),
        "+f"(sums[54]), "+f"(sums[55]), "+f"(sums[56]), "+f"(sums[57]), "+f"(sums[58]), "+f"(sums[59]),
        "+f"(sums[60]), "+f"(sums[61]), "+f"(sums[62]), "+f"(sums[63])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(static_cast<int>(adds)),
        "n"(AlongColumns ? 1 : 0));
#endif
}

/// Shared memory that threads wrote becomes visible to products after a barrier.
__device__ inline void publish_to_products() {
#if T5ZERO_WARPGROUPS
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
#endif
}

/// A barrier of a warpgroup's threads; `index` is its own, from 1.
__device__ inline void synchronize_warpgroup(int index) {
#if T5ZERO_WARPGROUPS
  asm volatile("bar.sync %0, %1;" ::"r"(index), "n"(warpgroup_size) : "memory");
#endif
}

/// Registers of each thread of this warpgroup from now on.
template <int Registers>
__device__ void release_registers_to() {
#if T5ZERO_WARPGROUPS
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(Registers));
#endif
}
template <int Registers>
__device__ void claim_registers_to() {
#if T5ZERO_WARPGROUPS
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(Registers));
#endif
}

}  // namespace t5zero::cuda::detail
