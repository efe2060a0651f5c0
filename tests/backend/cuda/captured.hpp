// Submitted work as a graph that can be launched.
#pragma once

#include <cuda_runtime_api.h>

#include <t5zero/backend/cuda/check.hpp>
#include <t5zero/backend/cuda/graph.hpp>
#include <t5zero/backend/cuda/handles.hpp>

#include "backend/cuda/device_machine.hpp"

namespace t5zero_test {

/// What `submit` submits to the main stream; nothing of it runs before the graph is launched.
template <class Submit>
[[nodiscard]] t5zero::cuda::unique_graph_exec captured(device_machine& gpu, const Submit& submit) {
  const auto graph = t5zero::cuda::capture_graph(gpu.main().stream(), submit);
  cudaGraphExec_t made = nullptr;
  t5zero::cuda::check(cudaGraphInstantiate(&made, graph.get(), 0));
  return t5zero::cuda::unique_graph_exec(made);
}

}  // namespace t5zero_test
