// Owners of the CUDA libraries' handles.
#pragma once

#include <cublasLt.h>
#include <cuda_runtime_api.h>

#include <memory>
#include <type_traits>

#include <t5zero/backend/cuda/check.hpp>

namespace t5zero::cuda {

namespace detail {

template <auto Destroy>
struct handle_deleter {
  template <class Handle>
  void operator()(Handle handle) const noexcept {
    Destroy(handle);
  }
};
template <class Handle, auto Destroy>
using unique_handle = std::unique_ptr<std::remove_pointer_t<Handle>, handle_deleter<Destroy>>;

}  // namespace detail

using unique_stream = detail::unique_handle<cudaStream_t, cudaStreamDestroy>;
using unique_event = detail::unique_handle<cudaEvent_t, cudaEventDestroy>;
using unique_graph = detail::unique_handle<cudaGraph_t, cudaGraphDestroy>;
using unique_graph_exec = detail::unique_handle<cudaGraphExec_t, cudaGraphExecDestroy>;
using unique_cublas = detail::unique_handle<cublasLtHandle_t, cublasLtDestroy>;
using unique_matmul_operation = detail::unique_handle<cublasLtMatmulDesc_t, cublasLtMatmulDescDestroy>;
using unique_matrix_layout = detail::unique_handle<cublasLtMatrixLayout_t, cublasLtMatrixLayoutDestroy>;
using unique_matmul_preference =
    detail::unique_handle<cublasLtMatmulPreference_t, cublasLtMatmulPreferenceDestroy>;

/// For waiting, without the time.
[[nodiscard]] inline unique_event make_event() {
  cudaEvent_t event = nullptr;
  check(cudaEventCreateWithFlags(&event, cudaEventDisableTiming));
  return unique_event(event);
}

}  // namespace t5zero::cuda
