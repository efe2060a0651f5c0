// How cuBLASLt computes the products of a run: descriptors and an algorithm for each shape, made once. To the
// library row-major operands are its column-major ones transposed: c = op(a) op(b) is computed as c^T =
// op(b)^T op(a)^T.
#pragma once

#include <cublasLt.h>
#include <cuda_runtime_api.h>

#include <cstdint>
#include <map>
#include <string>
#include <tuple>
#include <utility>

#include <t5zero/backend/cuda/check.hpp>
#include <t5zero/backend/cuda/handles.hpp>
#include <t5zero/core/error.hpp>
#include <t5zero/core/integers.hpp>

namespace t5zero::cuda {

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

/// A problem's descriptors and algorithm.
struct matmul_plan {
  unique_matmul_operation operation;
  unique_matrix_layout a, b, c;
  cublasLtMatmulAlgo_t algorithm{};
};

/// The plans of one device. A problem is looked up by facts without addresses, so a captured step and a plain
/// one use the same.
class matmul_plans {
 public:
  /// Throws device_error if cuBLASLt offers no algorithm.
  [[nodiscard]] const matmul_plan& find(cublasLtHandle_t handle, const matmul_problem& problem,
                                        index_t workspace_bytes) {
    const auto key = std::pair(problem, workspace_bytes);
    const auto at = plans_.find(key);
    if (at != plans_.end()) return at->second;
    return plans_.emplace(key, make(handle, problem, workspace_bytes)).first->second;
  }

 private:
  [[nodiscard]] static matmul_plan make(cublasLtHandle_t handle, const matmul_problem& p,
                                        index_t workspace_bytes) {
    matmul_plan plan;
    const cublasComputeType_t compute = p.tf32 ? CUBLAS_COMPUTE_32F_FAST_TF32 : CUBLAS_COMPUTE_32F;
    cublasLtMatmulDesc_t operation = nullptr;
    check(cublasLtMatmulDescCreate(&operation, compute, CUDA_R_32F));
    plan.operation.reset(operation);
    // The column-major a of the library is our b.
    const cublasOperation_t operation_a = p.transpose_b ? CUBLAS_OP_T : CUBLAS_OP_N;
    const cublasOperation_t operation_b = p.transpose_a ? CUBLAS_OP_T : CUBLAS_OP_N;
    check(cublasLtMatmulDescSetAttribute(operation, CUBLASLT_MATMUL_DESC_TRANSA, &operation_a,
                                         sizeof(operation_a)));
    check(cublasLtMatmulDescSetAttribute(operation, CUBLASLT_MATMUL_DESC_TRANSB, &operation_b,
                                         sizeof(operation_b)));
    const auto layout = [](cudaDataType_t type, index_t rows, index_t cols, index_t stride) {
      cublasLtMatrixLayout_t made = nullptr;
      check(cublasLtMatrixLayoutCreate(&made, type, static_cast<std::uint64_t>(rows),
                                       static_cast<std::uint64_t>(cols), stride));
      return unique_matrix_layout(made);
    };
    // A row-major [r, c] matrix is a column-major [c, r] one.
    plan.a = layout(p.type_b, p.transpose_b ? p.depth : p.cols, p.transpose_b ? p.cols : p.depth, p.stride_b);
    plan.b = layout(p.type_a, p.transpose_a ? p.rows : p.depth, p.transpose_a ? p.depth : p.rows, p.stride_a);
    plan.c = layout(p.type_c, p.cols, p.rows, p.stride_c);

    cublasLtMatmulPreference_t made = nullptr;
    check(cublasLtMatmulPreferenceCreate(&made));
    const unique_matmul_preference preference(made);
    const auto prefer = [&](cublasLtMatmulPreferenceAttributes_t attribute, const auto& value) {
      check(cublasLtMatmulPreferenceSetAttribute(preference.get(), attribute, &value, sizeof(value)));
    };
    prefer(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, static_cast<std::uint64_t>(workspace_bytes));
    prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, p.alignment_b);
    prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, p.alignment_a);
    prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, p.alignment_c);
    prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, p.alignment_c);
    cublasLtMatmulHeuristicResult_t found{};
    int count = 0;
    const cublasStatus_t status =
        cublasLtMatmulAlgoGetHeuristic(handle, operation, plan.a.get(), plan.b.get(), plan.c.get(),
                                       plan.c.get(), preference.get(), 1, &found, &count);
    if (status != CUBLAS_STATUS_NOT_SUPPORTED) check(status);
    if (status == CUBLAS_STATUS_NOT_SUPPORTED || count == 0)
      throw device_error(no_algorithm(p, workspace_bytes));
    plan.algorithm = found.algo;
    return plan;
  }

  [[nodiscard]] static std::string no_algorithm(const matmul_problem& p, index_t workspace_bytes) {
    const auto operand = [](const char* name, cudaDataType_t type, index_t stride, std::uint32_t alignment) {
      return std::string(name) + " of type " + std::to_string(type) + ", stride " + std::to_string(stride) +
             ", aligned to " + std::to_string(alignment) + " bytes";
    };
    return "cuBLASLt " + std::to_string(cublasLtGetVersion()) + " has no algorithm for a product of " +
           std::to_string(p.rows) + " x " + std::to_string(p.cols) + " over " + std::to_string(p.depth) +
           " (" + operand("a", p.type_a, p.stride_a, p.alignment_a) + "; " +
           operand("b", p.type_b, p.stride_b, p.alignment_b) + "; " +
           operand("c", p.type_c, p.stride_c, p.alignment_c) + "; types as in cudaDataType_t) with " +
           std::to_string(workspace_bytes) + " bytes of workspace: try another version of the CUDA toolkit";
  }

  std::map<std::pair<matmul_problem, index_t>, matmul_plan> plans_;
};

}  // namespace t5zero::cuda
