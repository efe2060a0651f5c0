// Every return value of CUDA and its libraries is checked here.
#pragma once

#include <cublasLt.h>
#include <cuda_runtime_api.h>

#include <source_location>
#include <string>

#include <t5zero/core/error.hpp>

namespace t5zero::cuda {

namespace detail {

[[noreturn]] inline void fail(const char* library, const std::string& reason,
                              const std::source_location& where) {
  throw device_error(std::string(library) + ": " + reason + " [" + where.file_name() + ":" +
                     std::to_string(where.line()) + "]");
}

}  // namespace detail

/// Throws device_error unless the call succeeded. A kernel's own failure may be reported by a later call.
inline void check(cudaError_t status, std::source_location where = std::source_location::current()) {
  if (status == cudaSuccess) return;
  std::string reason = std::string(cudaGetErrorName(status)) + ", " + cudaGetErrorString(status);
  if (status == cudaErrorNoKernelImageForDevice)
    reason += ": the kernels were compiled for other GPUs (T5ZERO_CUDA_ARCHITECTURES)";
  detail::fail("CUDA", reason, where);
}
inline void check(cublasStatus_t status, std::source_location where = std::source_location::current()) {
  if (status == CUBLAS_STATUS_SUCCESS) return;
  detail::fail("cuBLASLt", cublasLtGetStatusString(status), where);
}

}  // namespace t5zero::cuda
