// Submitted work as a CUDA graph.
#pragma once

#include <cuda_runtime_api.h>

#include <t5zero/backend/cuda/check.hpp>
#include <t5zero/backend/cuda/handles.hpp>

namespace t5zero::cuda {

/// What submit() submits to `stream`, and to streams that wait for it and that it waits for in the end. If
/// submit throws, the stream is left as it was.
template <class Submit>
[[nodiscard]] unique_graph capture_graph(cudaStream_t stream, const Submit& submit) {
  cudaGraph_t graph = nullptr;
  check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
  try {
    submit();
  } catch (...) {
    cudaStreamEndCapture(stream, &graph);
    if (graph != nullptr) cudaGraphDestroy(graph);
    (void)cudaGetLastError();
    throw;
  }
  const cudaError_t status = cudaStreamEndCapture(stream, &graph);
  unique_graph result(graph);
  check(status);
  return result;
}

}  // namespace t5zero::cuda
