// Matrix products on the GPU: through cuBLASLt, or for fp32 operands split_matmul where it is faster.
#pragma once

#include <cublasLt.h>
#include <cuda_runtime_api.h>

#include <algorithm>
#include <concepts>
#include <cstdint>

#include <t5zero/backend/backend.hpp>
#include <t5zero/backend/cuda/check.hpp>
#include <t5zero/backend/cuda/execution.hpp>
#include <t5zero/backend/cuda/matmul_plans.hpp>
#include <t5zero/backend/cuda/split_matmul.hpp>

namespace t5zero::cuda {

/// Scratch that a matmul may use: what cuBLAS advises for Hopper. Small models have less, a layer's weights
/// in fp32 four times over.
inline constexpr index_t most_matmul_workspace_bytes = index_t{32} << 20;

namespace detail {

template <element T>
inline constexpr cudaDataType_t cuda_type = std::same_as<T, float>     ? CUDA_R_32F
                                            : std::same_as<T, float16> ? CUDA_R_16F
                                                                       : CUDA_R_16BF;

[[nodiscard]] inline std::uint32_t alignment_of(const void* data) {
  const auto address = reinterpret_cast<std::uintptr_t>(data);
  return static_cast<std::uint32_t>(std::min<std::uintptr_t>(256, address & (~address + 1)));
}

/// The product through cuBLASLt; matmul below has the contract.
template <element A, element B, element C>
void library_matmul(execution& execution, transpose transpose_a, matrix_view<const A> a,
                    transpose transpose_b, matrix_view<const B> b, matrix_view<C> c, gradient_mode mode,
                    float alpha) {
  const bool ta = transpose_a == transpose::yes;
  const bool tb = transpose_b == transpose::yes;
  const matmul_problem problem{cuda_type<A>,
                               cuda_type<B>,
                               cuda_type<C>,
                               ta,
                               tb,
                               mode == gradient_mode::accumulate,
                               execution.allows_tf32() && std::same_as<A, float>,
                               c.rows,
                               c.cols,
                               ta ? a.rows : a.cols,
                               a.stride,
                               b.stride,
                               c.stride,
                               alignment_of(a.data),
                               alignment_of(b.data),
                               alignment_of(c.data)};
  const index_t workspace_bytes = execution.matmul_workspace_bytes();
  const matmul_plan& plan = execution.plans().find(execution.cublas(), problem, workspace_bytes);
  const float beta = mode == gradient_mode::accumulate ? 1.0F : 0.0F;
  check(cublasLtMatmul(execution.cublas(), plan.operation.get(), &alpha, b.data, plan.a.get(), a.data,
                       plan.b.get(), &beta, c.data, plan.c.get(), c.data, plan.c.get(), &plan.algorithm,
                       execution.workspace(workspace_bytes), static_cast<std::size_t>(workspace_bytes),
                       execution.stream()));
}

}  // namespace detail

/// c (+)= alpha op(a) op(b); fp32 accumulation. c may not overlap a or b. Throws contract_error where shapes
/// do not agree, device_error where the library fails.
template <element A, element B, element C>
void matmul(execution& execution, transpose transpose_a, matrix_view<const A> a, transpose transpose_b,
            matrix_view<const B> b, matrix_view<C> c, gradient_mode mode = gradient_mode::overwrite,
            float alpha = 1.0F) {
  static_assert(std::same_as<A, B>, "cuda::matmul: the library's operands have one element type");
  const bool ta = transpose_a == transpose::yes;
  const bool tb = transpose_b == transpose::yes;
  require((ta ? a.cols : a.rows) == c.rows && (tb ? b.rows : b.cols) == c.cols &&
              (tb ? b.cols : b.rows) == (ta ? a.rows : a.cols),
          "cuda::matmul: the shapes do not agree");
  if (c.rows == 0 || c.cols == 0) return;
  if constexpr (std::same_as<A, float> && std::same_as<C, float>) {
    if (const auto division = preferred_split(execution, transpose_a, a, transpose_b, b, c))
      return split_matmul(execution, transpose_a, a, transpose_b, b, c, mode, alpha, *division);
  }
  detail::library_matmul<A, B, C>(execution, transpose_a, a, transpose_b, b, c, mode, alpha);
}

/// The same, to a gradient of an element type known at run time.
template <element A, element B>
void matmul(execution& execution, transpose transpose_a, matrix_view<const A> a, transpose transpose_b,
            matrix_view<const B> b, const gradient_view& c) {
  if (c.type == dtype::f32) {
    matmul<A, B, float>(execution, transpose_a, a, transpose_b, b, c.as<float>(), c.mode);
  } else {
    matmul<A, B, A>(execution, transpose_a, a, transpose_b, b, c.as<A>(), c.mode);
  }
}

}  // namespace t5zero::cuda
