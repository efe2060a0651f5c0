// A step of one kind and shape is captured into a CUDA graph once and replayed from then on.
#pragma once

#include <cuda_runtime_api.h>

#include <map>
#include <tuple>

#include <t5zero/backend/backend.hpp>
#include <t5zero/backend/cuda/check.hpp>
#include <t5zero/backend/cuda/execution.hpp>
#include <t5zero/core/integers.hpp>
#include <t5zero/tensor/batch_view.hpp>

namespace t5zero::cuda {

/// Owns the graphs of a run.
class step_graphs {
 public:
  step_graphs() = default;
  step_graphs(const step_graphs&) = delete;
  step_graphs& operator=(const step_graphs&) = delete;
  ~step_graphs() {
    for (const auto& [key, graph] : graphs_) cudaGraphExecDestroy(graph);
  }

  /// Submits what `submit` submits to `e` and its branches, which depends on the kind and the padded shape
  /// alone. If it throws, nothing was submitted.
  template <class Submit>
  void replay(execution& e, step_kind kind, const batch_view& batch, const Submit& submit) {
    const step_key key{kind,
                       batch.source.batch,
                       batch.source.tokens,
                       batch.target.tokens,
                       batch.source.max_length,
                       batch.target.max_length};
    const auto found = graphs_.find(key);
    cudaGraphExec_t graph =
        found != graphs_.end() ? found->second : graphs_.emplace(key, capture(e, submit)).first->second;
    check(cudaGraphLaunch(graph, e.stream()));
  }

 private:
  using step_key = std::tuple<step_kind, index_t, index_t, index_t, index_t, index_t>;

  template <class Submit>
  static cudaGraphExec_t capture(execution& e, const Submit& submit) {
    cudaGraph_t graph = nullptr;
    check(cudaStreamBeginCapture(e.stream(), cudaStreamCaptureModeThreadLocal));
    try {
      submit();
    } catch (...) {
      cudaStreamEndCapture(e.stream(), &graph);
      if (graph != nullptr) cudaGraphDestroy(graph);
      throw;
    }
    check(cudaStreamEndCapture(e.stream(), &graph));
    cudaGraphExec_t result = nullptr;
    const cudaError_t status = cudaGraphInstantiate(&result, graph, cudaGraphInstantiateFlagUseNodePriority);
    cudaGraphDestroy(graph);
    check(status);
    return result;
  }

  std::map<step_key, cudaGraphExec_t> graphs_;
};

}  // namespace t5zero::cuda
