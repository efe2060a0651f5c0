// Matrix products on the GPU: through cuBLASLt, or for fp32 operands split_matmul where it is faster. To
// cuBLASLt row-major operands are its column-major ones transposed: c = op(a) op(b) is computed as
// c^T = op(b)^T op(a)^T.
#pragma once

#include <cublasLt.h>
#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstdint>
#include <map>
#include <mutex>
#include <tuple>

#include <t5zero/backend/backend.hpp>
#include <t5zero/backend/cuda/check.hpp>
#include <t5zero/backend/cuda/execution.hpp>
#include <t5zero/backend/cuda/split_matmul.hpp>

namespace t5zero::cuda {

/// Scratch that a matmul may use: what cuBLAS advises for Hopper.
inline constexpr index_t most_matmul_workspace_bytes = index_t{32} << 20;
/// The same for models whose layers' weights have `elements`: the product in fp32 four times over.
[[nodiscard]] constexpr index_t matmul_workspace_bytes(index_t elements) {
  return std::min(most_matmul_workspace_bytes, elements * 16);
}

namespace detail {

template <element T>
inline constexpr cudaDataType_t cuda_type = std::same_as<T, float>     ? CUDA_R_32F
                                            : std::same_as<T, float16> ? CUDA_R_16F
                                                                       : CUDA_R_16BF;

/// All that the choice of an algorithm depends on.
struct matmul_problem {
  cudaDataType_t type_a, type_b, type_c;
  bool transpose_a, transpose_b, accumulates, tf32;
  index_t rows, cols, depth, stride_a, stride_b, stride_c;
  std::uint32_t alignment_a, alignment_b, alignment_c;

  [[nodiscard]] auto key() const {
    return std::tie(type_a, type_b, type_c, transpose_a, transpose_b, accumulates, tf32, rows, cols, depth,
                    stride_a, stride_b, stride_c, alignment_a, alignment_b, alignment_c);
  }
  friend bool operator<(const matmul_problem& a, const matmul_problem& b) { return a.key() < b.key(); }
};

/// A problem's descriptors and algorithm, made once and kept for the life of the process.
struct matmul_plan {
  cublasLtMatmulDesc_t operation = nullptr;
  cublasLtMatrixLayout_t a = nullptr;
  cublasLtMatrixLayout_t b = nullptr;
  cublasLtMatrixLayout_t c = nullptr;
  cublasLtMatmulAlgo_t algorithm{};
};

[[nodiscard]] inline std::uint32_t alignment_of(const void* data) {
  const auto address = reinterpret_cast<std::uintptr_t>(data);
  return static_cast<std::uint32_t>(std::min<std::uintptr_t>(256, address & (~address + 1)));
}

/// Throws device_error if cuBLASLt offers no algorithm.
[[nodiscard]] inline matmul_plan make_plan(cublasLtHandle_t handle, const matmul_problem& p,
                                           index_t workspace_bytes) {
  matmul_plan plan;
  const cublasComputeType_t compute = p.tf32 ? CUBLAS_COMPUTE_32F_FAST_TF32 : CUBLAS_COMPUTE_32F;
  check(cublasLtMatmulDescCreate(&plan.operation, compute, CUDA_R_32F));
  // The column-major a of the library is our b.
  const cublasOperation_t operation_a = p.transpose_b ? CUBLAS_OP_T : CUBLAS_OP_N;
  const cublasOperation_t operation_b = p.transpose_a ? CUBLAS_OP_T : CUBLAS_OP_N;
  check(cublasLtMatmulDescSetAttribute(plan.operation, CUBLASLT_MATMUL_DESC_TRANSA, &operation_a,
                                       sizeof(operation_a)));
  check(cublasLtMatmulDescSetAttribute(plan.operation, CUBLASLT_MATMUL_DESC_TRANSB, &operation_b,
                                       sizeof(operation_b)));
  const auto layout = [](cublasLtMatrixLayout_t& to, cudaDataType_t type, index_t rows, index_t cols,
                         index_t stride) {
    check(cublasLtMatrixLayoutCreate(&to, type, static_cast<std::uint64_t>(rows),
                                     static_cast<std::uint64_t>(cols), stride));
  };
  // A row-major [r, c] matrix is a column-major [c, r] one.
  layout(plan.a, p.type_b, p.transpose_b ? p.depth : p.cols, p.transpose_b ? p.cols : p.depth, p.stride_b);
  layout(plan.b, p.type_a, p.transpose_a ? p.rows : p.depth, p.transpose_a ? p.depth : p.rows, p.stride_a);
  layout(plan.c, p.type_c, p.cols, p.rows, p.stride_c);

  cublasLtMatmulPreference_t preference = nullptr;
  check(cublasLtMatmulPreferenceCreate(&preference));
  const auto prefer = [&](cublasLtMatmulPreferenceAttributes_t attribute, const auto& value) {
    check(cublasLtMatmulPreferenceSetAttribute(preference, attribute, &value, sizeof(value)));
  };
  prefer(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, static_cast<std::uint64_t>(workspace_bytes));
  prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, p.alignment_b);
  prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, p.alignment_a);
  prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, p.alignment_c);
  prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, p.alignment_c);
  cublasLtMatmulHeuristicResult_t found{};
  int count = 0;
  const cublasStatus_t status = cublasLtMatmulAlgoGetHeuristic(handle, plan.operation, plan.a, plan.b, plan.c,
                                                               plan.c, preference, 1, &found, &count);
  cublasLtMatmulPreferenceDestroy(preference);
  check(status);
  if (count == 0) check(CUBLAS_STATUS_NOT_SUPPORTED);
  plan.algorithm = found.algo;
  return plan;
}

/// The plan of a problem; looked up by address-free facts, so a captured step and a plain one use the same.
[[nodiscard]] inline const matmul_plan& find_plan(cublasLtHandle_t handle, const matmul_problem& problem,
                                                  index_t workspace_bytes) {
  static std::mutex mutex;
  static std::map<std::pair<matmul_problem, index_t>, matmul_plan> plans;
  const std::scoped_lock lock(mutex);
  const auto key = std::pair(problem, workspace_bytes);
  const auto at = plans.find(key);
  if (at != plans.end()) return at->second;
  return plans.emplace(key, make_plan(handle, problem, workspace_bytes)).first->second;
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
  const index_t workspace_bytes = std::min(execution.workspace_bytes(), most_matmul_workspace_bytes);
  const matmul_plan& plan = find_plan(execution.cublas(), problem, workspace_bytes);
  const float beta = mode == gradient_mode::accumulate ? 1.0F : 0.0F;
  check(cublasLtMatmul(execution.cublas(), plan.operation, &alpha, b.data, plan.a, a.data, plan.b, &beta,
                       c.data, plan.c, c.data, plan.c, &plan.algorithm, execution.workspace(workspace_bytes),
                       static_cast<std::size_t>(workspace_bytes), execution.stream()));
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
    if (!execution.allows_tf32() && prefers_split_matmul(transpose_a, a, transpose_b, b, c)) {
      split_matmul(execution, transpose_a, a, transpose_b, b, c, mode, alpha);
      return;
    }
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
