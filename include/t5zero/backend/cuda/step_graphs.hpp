// A step of one kind and shape that comes again is captured into a CUDA graph and replayed from then on.
#pragma once

#include <cuda_runtime_api.h>

#include <map>
#include <tuple>
#include <utility>

#include <t5zero/backend/backend.hpp>
#include <t5zero/backend/cuda/check.hpp>
#include <t5zero/backend/cuda/execution.hpp>
#include <t5zero/core/integers.hpp>
#include <t5zero/tensor/batch_view.hpp>

namespace t5zero::cuda {

/// Graphs of one kind that are kept. Each takes some megabytes of the GPU's memory; real batches have more
/// shapes, most of them rare.
inline constexpr index_t most_step_graphs = 32;

/// Owns the graphs of a run: those of the shapes that occur most often. A shape is submitted launch by launch
/// the first time, and always where there is no room for it; the bits are the same.
class step_graphs {
 public:
  step_graphs() = default;
  step_graphs(const step_graphs&) = delete;
  step_graphs& operator=(const step_graphs&) = delete;
  ~step_graphs() {
    for (const auto& [key, shape] : shapes_)
      if (shape.graph != nullptr) cudaGraphExecDestroy(shape.graph);
  }

  /// Submits what `submit` submits to `e` and its branches, which depends on the kind and the padded shape
  /// alone. If it throws while it is captured, nothing was submitted.
  template <class Submit>
  void replay(execution& e, step_kind kind, const batch_view& batch, const Submit& submit) {
    const step_key key{kind,
                       batch.source.batch,
                       batch.source.tokens,
                       batch.target.tokens,
                       batch.source.max_length,
                       batch.target.max_length};
    step_shape& shape = shapes_[key];
    ++shape.uses;
    if (shape.graph == nullptr && (shape.uses == 1 || !make_room(e, kind, shape.uses))) return submit();
    if (shape.graph == nullptr) shape.graph = capture(e, submit);
    check(cudaGraphLaunch(shape.graph, e.stream()));
  }

 private:
  using step_key = std::tuple<step_kind, index_t, index_t, index_t, index_t, index_t>;
  struct step_shape {
    index_t uses = 0;
    cudaGraphExec_t graph = nullptr;
  };

  /// Is there room for the graph of a shape that was used so often? A rarer one gives way.
  [[nodiscard]] bool make_room(execution& e, step_kind kind, index_t uses) {
    index_t kept = 0;
    step_shape* rarest = nullptr;
    for (auto& [key, shape] : shapes_) {
      if (std::get<step_kind>(key) != kind || shape.graph == nullptr) continue;
      ++kept;
      if (rarest == nullptr || shape.uses < rarest->uses) rarest = &shape;
    }
    if (kept < most_step_graphs) return true;
    if (rarest->uses >= uses) return false;
    check(cudaStreamSynchronize(e.stream()));  // it may be on its way
    check(cudaGraphExecDestroy(std::exchange(rarest->graph, nullptr)));
    return true;
  }

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

  std::map<step_key, step_shape> shapes_;
};

}  // namespace t5zero::cuda
