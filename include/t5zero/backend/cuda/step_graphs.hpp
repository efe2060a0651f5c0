// A step of one kind and shape that comes again is captured into a CUDA graph and replayed from then on.
#pragma once

#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstddef>
#include <map>
#include <tuple>

#include <t5zero/backend/backend.hpp>
#include <t5zero/backend/cuda/check.hpp>
#include <t5zero/backend/cuda/execution.hpp>
#include <t5zero/backend/cuda/graph.hpp>
#include <t5zero/backend/cuda/handles.hpp>
#include <t5zero/core/integers.hpp>
#include <t5zero/plan/parameter_table.hpp>
#include <t5zero/policy/model_size.hpp>
#include <t5zero/tensor/batch_view.hpp>

namespace t5zero::cuda {

/// Device memory that the driver takes for a graph of so many nodes: measured 7 MB for 300, 8 to 9 for 470,
/// 33 for 1740, 26 to 39 for 2000 (bench/NOTES.md).
[[nodiscard]] constexpr index_t step_graph_bytes(index_t nodes) {
  return (index_t{7} << 18) + nodes * (index_t{35} << 9);
}

/// Room for the graphs of a model's steps: 8 graphs, in training a byte for each parameter, if that is more,
/// but no more than 16. Batches of real sentences have 20 to 30 shapes on the ladder of batch_staging.hpp; 8
/// of them are 83 to 90 of a hundred batches, 16 are 96 and more.
[[nodiscard]] constexpr index_t step_graphs_bytes(const model_shape& shape, bool trains) {
  if (!trains) return 8 * step_graph_bytes(30 + 10 * shape.n_encoder_layers + 16 * shape.n_decoder_layers);
  // Measured: 465 nodes for t5-small, 1740 to 2140 for t5-large and t5-3b, each layer's piece of the
  // optimizer with them; products in pieces came later, and add up to 150 to t5-large in fp32.
  const index_t one = step_graph_bytes(50 + 32 * shape.n_encoder_layers + 48 * shape.n_decoder_layers);
  return std::clamp(parameter_count(shape), 8 * one, 16 * one);
}

/// Owns the graphs of a run: those of the shapes that occur most often, as far as the planned memory goes. A
/// shape is submitted launch by launch the first time, and always where there is no room for it; the bits are
/// the same.
class step_graphs {
 public:
  /// Device memory that the graphs may take.
  void set_room(index_t bytes) { room_ = bytes; }

  /// Graphs made so far, and those of them that are kept.
  [[nodiscard]] index_t made() const { return made_; }
  [[nodiscard]] index_t kept() const {
    return std::count_if(shapes_.begin(), shapes_.end(),
                         [](const auto& at) { return at.second.graph != nullptr; });
  }

  /// Submits what `submit` submits to `e` and its branches, which depends on the kind and the padded shape
  /// alone. If it throws while it is captured, nothing was submitted.
  template <class Submit>
  void replay(execution& e, step_kind kind, const batch_view& batch, const Submit& submit) {
    if (room_ == 0) return submit();
    step_shape& shape = shapes_[{kind, batch.source.batch, batch.source.tokens, batch.target.tokens,
                                 batch.source.max_length, batch.target.max_length}];
    ++shape.uses;
    if (shape.graph == nullptr && !(shape.uses > 1 && may_fit(shape) && capture(e, submit, shape))) {
      e.note_barrier();  // a capture took it, and came to nothing
      return submit();
    }
    check(cudaGraphLaunch(shape.graph.get(), e.stream()));
    e.note_barrier();
  }

 private:
  using step_key = std::tuple<step_kind, index_t, index_t, index_t, index_t, index_t>;
  struct step_shape {
    index_t uses = 0;
    index_t bytes = 0;  ///< of its graph; 0: not known yet
    unique_graph_exec graph;
  };

  /// Would there be room for its graph if all gave way that are used half as often?
  [[nodiscard]] bool may_fit(const step_shape& wanted) const {
    index_t bytes = wanted.bytes;
    for (const auto& [key, shape] : shapes_)
      if (shape.graph != nullptr && 2 * shape.uses > wanted.uses) bytes += shape.bytes;
    return bytes <= room_;
  }
  /// Destroys graphs, the rarest first, until there is room. may_fit(wanted) holds.
  void make_room(execution& e, const step_shape& wanted) {
    while (taken_ + wanted.bytes > room_) {
      step_shape* rarest = nullptr;
      for (auto& [key, shape] : shapes_)
        if (shape.graph != nullptr && (rarest == nullptr || shape.uses < rarest->uses)) rarest = &shape;
      check(cudaStreamSynchronize(e.stream()));  // it may be on its way
      rarest->graph.reset();
      taken_ -= rarest->bytes;
    }
  }

  /// Makes the graph of a shape. False if there is no room for it.
  template <class Submit>
  bool capture(execution& e, const Submit& submit, step_shape& shape) {
    e.note_barrier();
    const unique_graph captured = capture_graph(e.stream(), submit);
    std::size_t nodes = 0;
    check(cudaGraphGetNodes(captured.get(), nullptr, &nodes));
    shape.bytes = step_graph_bytes(static_cast<index_t>(nodes));
    if (!may_fit(shape)) return false;
    make_room(e, shape);
    cudaGraphExec_t made = nullptr;
    const cudaError_t status =
        cudaGraphInstantiate(&made, captured.get(), cudaGraphInstantiateFlagUseNodePriority);
    if (status == cudaErrorMemoryAllocation) {  // less is free than was planned: no more graphs
      (void)cudaGetLastError();
      room_ = taken_;
      return false;
    }
    check(status);
    shape.graph.reset(made);
    ++made_;
    taken_ += shape.bytes;
    return true;
  }

  std::map<step_key, step_shape> shapes_;
  index_t room_ = 0;
  index_t taken_ = 0;  ///< by the graphs that are kept
  index_t made_ = 0;
};

}  // namespace t5zero::cuda
