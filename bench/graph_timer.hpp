// Time of submitted work as a chain of nodes in a CUDA graph.
#pragma once

#include <cuda_runtime_api.h>

#include <algorithm>
#include <vector>

#include <t5zero/backend/cuda/check.hpp>

namespace t5zero_bench {

/// Milliseconds of submit(0), ..., submit(count - 1) in one graph: the median of `rounds` replays after the
/// first.
template <class Submit>
float time_in_graph(cudaStream_t stream, int count, int rounds, const Submit& submit) {
  using t5zero::cuda::check;
  cudaGraph_t graph = nullptr;
  check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
  for (int i = 0; i < count; ++i) submit(i);
  check(cudaStreamEndCapture(stream, &graph));
  cudaGraphExec_t replayed = nullptr;
  check(cudaGraphInstantiate(&replayed, graph, 0));
  cudaEvent_t begin = nullptr;
  cudaEvent_t end = nullptr;
  check(cudaEventCreate(&begin));
  check(cudaEventCreate(&end));
  std::vector<float> times;
  for (int round = 0; round <= rounds; ++round) {
    check(cudaEventRecord(begin, stream));
    check(cudaGraphLaunch(replayed, stream));
    check(cudaEventRecord(end, stream));
    check(cudaEventSynchronize(end));
    float milliseconds = 0.0F;
    check(cudaEventElapsedTime(&milliseconds, begin, end));
    if (round > 0) times.push_back(milliseconds);
  }
  cudaEventDestroy(begin);
  cudaEventDestroy(end);
  cudaGraphExecDestroy(replayed);
  cudaGraphDestroy(graph);
  std::sort(times.begin(), times.end());
  return times[times.size() / 2];
}

}  // namespace t5zero_bench
