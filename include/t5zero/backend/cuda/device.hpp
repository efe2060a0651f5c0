// One GPU of a rank: its streams, events and library handles.
#pragma once

#include <cublasLt.h>
#include <cuda_runtime_api.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <unordered_map>

#include <t5zero/backend/backend.hpp>
#include <t5zero/backend/cuda/check.hpp>
#include <t5zero/backend/cuda/execution.hpp>
#include <t5zero/backend/cuda/handles.hpp>
#include <t5zero/backend/cuda/matmul_plans.hpp>
#include <t5zero/backend/cuda/step_graphs.hpp>
#include <t5zero/core/integers.hpp>

namespace t5zero::cuda {

/// Owns the executions that work is submitted to.
class device {
 public:
  /// Throws device_error.
  explicit device(const device_options& options)
      : matmul_division_(workspace_division::of_main(options.matmul_workspace_bytes)) {
    graphs_.set_room(options.graph_bytes);
    check(cudaSetDevice(options.ordinal));
    // The driver keeps a call stack for each thread that the GPU can hold, by default 1 KB: 264 MB on an
    // H200. It makes room when a kernel that needs one is launched; none of t5zero's does, some of cuBLASLt's
    // do. This is a setting of the process: other code in it finds its stacks in the same way.
    check(cudaDeviceSetLimit(cudaLimitStackSize, 0));
    cublasLtHandle_t cublas = nullptr;
    check(cublasLtCreate(&cublas));
    cublas_.reset(cublas);
    // What is on the critical path goes first: branches run where the main stream leaves room.
    int lowest = 0;
    int highest = 0;
    check(cudaDeviceGetStreamPriorityRange(&lowest, &highest));
    for (execution& e : executions_) {
      cudaStream_t stream = nullptr;
      check(
          cudaStreamCreateWithPriority(&stream, cudaStreamNonBlocking, &e == executions_ ? highest : lowest));
      e.stream_.reset(stream);
      e.event_ = make_event();
      e.cublas_ = cublas;
      e.plans_ = &plans_;
      e.kernels_ = &kernels_;
      e.allows_tf32_ = options.allows_tf32;
      e.overlaps_launches_ = options.overlaps_launches;
    }
    for (unique_event& mark : marks_) mark = make_event();
    for (std::size_t i = 1; i < stream_count; ++i) executions_[0].branches_[i - 1] = &executions_[i];
  }
  device(const device&) = delete;
  device& operator=(const device&) = delete;
  ~device() {
    for (execution& e : executions_) cudaStreamSynchronize(e.stream());
  }

  [[nodiscard]] execution& main() { return executions_[0]; }

  /// Device memory, aligned to 256 bytes, for the main stream and its branches. bytes: the total of a
  /// workspace_division.
  void set_workspace(std::byte* workspace, index_t bytes) {
    const auto division = workspace_division::of_total(bytes);
    for (int i = 0; i < stream_count; ++i) {
      const auto share = [&](const workspace_division& of) {
        return i == 0 ? of.main : of.bytes_of(static_cast<branch_of>(i - 1));
      };
      execution& e = executions_[i];
      e.workspace_ = workspace;
      e.workspace_bytes_ = share(division);
      e.matmul_workspace_bytes_ = std::min(share(division), share(matmul_division_));
      workspace += e.workspace_bytes_;
    }
  }

  /// Submits what a step of this kind and padded shape submits; captured when it comes again, replayed from
  /// then on.
  template <class Submit>
  void replay(step_kind kind, const batch_view& batch, const Submit& submit) {
    graphs_.replay(main(), kind, batch, submit);
  }

  /// wait_for(slot) waits for what was submitted before the last mark(slot).
  void mark(index_t slot) {
    check(cudaEventRecord(marks_[static_cast<std::size_t>(slot)].get(), main().stream()));
  }
  void wait_for(index_t slot) { check(cudaEventSynchronize(marks_[static_cast<std::size_t>(slot)].get())); }
  /// Waits for what was submitted to the main stream, with the branches that it joined.
  void wait() { check(cudaStreamSynchronize(main().stream())); }
  [[nodiscard]] const step_graphs& graphs() const { return graphs_; }

 private:
  unique_cublas cublas_;
  matmul_plans plans_;
  std::unordered_map<const void*, bool> kernels_;  ///< prepared
  std::array<unique_event, static_cast<std::size_t>(max_updates_in_flight)> marks_;
  step_graphs graphs_;
  execution executions_[stream_count];
  workspace_division matmul_division_;  ///< what matmuls may use of each stream's
};

}  // namespace t5zero::cuda
