// Time of submitted work as a chain of nodes in a CUDA graph.
#pragma once

#include <cuda_runtime_api.h>

#include <algorithm>
#include <vector>

#include <t5zero/backend/cuda/check.hpp>
#include <t5zero/backend/cuda/graph.hpp>
#include <t5zero/backend/cuda/handles.hpp>

namespace t5zero_bench {

/// Milliseconds of submit(0), ..., submit(count - 1) in one graph: the median of `rounds` replays after the
/// first.
template <class Submit>
float time_in_graph(cudaStream_t stream, int count, int rounds, const Submit& submit) {
  using t5zero::cuda::check;
  const t5zero::cuda::unique_graph graph = t5zero::cuda::capture_graph(stream, [&] {
    for (int i = 0; i < count; ++i) submit(i);
  });
  cudaGraphExec_t made = nullptr;
  check(cudaGraphInstantiate(&made, graph.get(), 0));
  const t5zero::cuda::unique_graph_exec replayed(made);
  cudaEvent_t begin = nullptr;
  cudaEvent_t end = nullptr;
  check(cudaEventCreate(&begin));
  check(cudaEventCreate(&end));
  std::vector<float> times;
  for (int round = 0; round <= rounds; ++round) {
    check(cudaEventRecord(begin, stream));
    check(cudaGraphLaunch(replayed.get(), stream));
    check(cudaEventRecord(end, stream));
    check(cudaEventSynchronize(end));
    float milliseconds = 0.0F;
    check(cudaEventElapsedTime(&milliseconds, begin, end));
    if (round > 0) times.push_back(milliseconds);
  }
  cudaEventDestroy(begin);
  cudaEventDestroy(end);
  std::sort(times.begin(), times.end());
  return times[times.size() / 2];
}

}  // namespace t5zero_bench
