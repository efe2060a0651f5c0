// What attention's kernels compute softmax with: powers of two, and the softmax of keys that come one after
// another.
#pragma once

#include <cmath>

namespace t5zero::cuda::detail {

/// Attention keeps scores and biases times log2(e): powers of two cost one multiplication less.
inline constexpr float log2_e = 1.4426950408889634F;
inline constexpr float ln_2 = 0.6931471805599453F;

/// 2^x; results below the normal numbers are 0 (relative error at most 2^-22).
[[nodiscard]] __device__ inline float power_of_two(float x) {
  float result;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x));
  return result;
}

/// The softmax of some keys: scores times log2(e), relative to `maximum`.
template <int Columns>
struct running_softmax {
  float maximum = -INFINITY;
  float total = 0.0F;
  float sums[Columns] = {};

  __device__ void rescale(float next) {
    const float factor = next == -INFINITY ? 0.0F : power_of_two(maximum - next);
    maximum = next;
    total *= factor;
#pragma unroll
    for (float& sum : sums) sum *= factor;
  }
};

}  // namespace t5zero::cuda::detail
