// Where the CUDA backend's work is submitted: a stream with the scratch memory that its operations borrow,
// and side streams for work that nothing waits for soon.
#pragma once

#include <cublasLt.h>
#include <cuda_runtime_api.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <unordered_map>
#include <utility>

#include <t5zero/backend/backend.hpp>
#include <t5zero/backend/cuda/check.hpp>
#include <t5zero/backend/cuda/handles.hpp>
#include <t5zero/core/error.hpp>
#include <t5zero/core/integers.hpp>

namespace t5zero::cuda {

class matmul_plans;

/// Streams of one step: the main one and its branches.
inline constexpr int stream_count = 1 + branch_count;

/// Scratch of all executions where the main one has `main` bytes, a multiple of 1024: a quarter of it for
/// each branch that computes gradients (matmuls), but no more than 8 MiB; none for the optimizer's.
struct workspace_division {
  index_t main = 0;
  index_t branch = 0;

  [[nodiscard]] static constexpr workspace_division of_main(index_t main) {
    return {main, std::min(main / 4, most_of_branch)};
  }
  /// total: total_bytes() of a division.
  [[nodiscard]] static constexpr workspace_division of_total(index_t total) {
    const index_t branch = std::min(total / (4 + gradient_branches), most_of_branch);
    return {total - gradient_branches * branch, branch};
  }
  [[nodiscard]] constexpr index_t bytes_of(branch_of side) const {
    return side == branch_of::optimizer ? 0 : branch;
  }
  [[nodiscard]] constexpr index_t total_bytes() const { return main + gradient_branches * branch; }

 private:
  static constexpr index_t gradient_branches = branch_count - 1;
  static constexpr index_t most_of_branch = index_t{8} << 20;
};
static_assert(workspace_division::of_total(workspace_division::of_main(1 << 24).total_bytes()).main ==
              1 << 24);
static_assert(workspace_division::of_total(workspace_division::of_main(1 << 26).total_bytes()).main ==
              1 << 26);

/// A stream of a GPU. Work submitted to one execution runs in order; a branch runs beside it until it is
/// joined. All of it may be captured into a graph.
class execution {
 public:
  execution(const execution&) = delete;
  execution& operator=(const execution&) = delete;

  [[nodiscard]] cudaStream_t stream() const { return stream_.get(); }
  [[nodiscard]] cublasLtHandle_t cublas() const { return cublas_; }
  /// The device's, as the handle is.
  [[nodiscard]] matmul_plans& plans() const { return *plans_; }
  /// prepare(), which makes a kernel ready for the device: called once for each kernel, its result is kept.
  template <class Prepare>
  [[nodiscard]] bool prepared(const void* kernel, const Prepare& prepare) const {
    const auto at = kernels_->find(kernel);
    return at != kernels_->end() ? at->second : kernels_->emplace(kernel, prepare()).first->second;
  }
  /// May matmuls round fp32 operands to TF32?
  [[nodiscard]] bool allows_tf32() const { return allows_tf32_; }

  /// Scratch in device memory for the length of one operation. Throws contract_error if less was planned.
  [[nodiscard]] std::byte* workspace(index_t bytes) const {
    require(bytes <= workspace_bytes_,
            "cuda::execution: the operation needs more workspace than was planned");
    return workspace_;
  }
  [[nodiscard]] index_t workspace_bytes() const { return workspace_bytes_; }
  /// What a matmul may use of it: the same however large batches are.
  [[nodiscard]] index_t matmul_workspace_bytes() const { return matmul_workspace_bytes_; }

  /// The side stream, which from now on sees all work submitted here so far.
  [[nodiscard]] execution& fork(branch_of branch) {
    execution& side = *branches_[static_cast<std::size_t>(branch)];
    side.wait_for(*this);
    side.is_ahead_ = true;
    return side;
  }
  /// The same, and all work submitted to the other branches, which go on.
  [[nodiscard]] execution& fork_behind_branches(branch_of branch) {
    execution& side = fork(branch);
    for (execution* other : branches_)
      if (other != &side && other->is_ahead_) side.wait_for(*other);
    return side;
  }
  /// The side stream as it stands: it sees what its last fork and its own work saw, and nothing later.
  [[nodiscard]] execution& resume(branch_of branch) {
    execution& side = *branches_[static_cast<std::size_t>(branch)];
    side.is_ahead_ = true;
    return side;
  }
  /// Work submitted here from now on sees all that the branch was given so far.
  void join(branch_of branch) {
    execution& side = *branches_[static_cast<std::size_t>(branch)];
    if (std::exchange(side.is_ahead_, false)) wait_for(side);
  }
  /// Since the last call, was anything submitted here that a kernel cannot overlap: a wait for another
  /// stream, a copy?
  [[nodiscard]] bool take_barrier() { return std::exchange(has_barrier_, false); }
  void note_barrier() { has_barrier_ = true; }
  /// May kernels overlap at all? Asked where one is launched.
  [[nodiscard]] bool overlaps_launches() const { return overlaps_launches_; }
  void join_branches() {
    for (int branch = 0; branch < branch_count; ++branch) join(static_cast<branch_of>(branch));
  }

 private:
  friend class device;
  execution() = default;

  void wait_for(execution& other) {
    check(cudaEventRecord(other.event_.get(), other.stream()));
    check(cudaStreamWaitEvent(stream(), other.event_.get(), 0));
    has_barrier_ = true;
  }

  unique_stream stream_;
  unique_event event_;
  cublasLtHandle_t cublas_ = nullptr;
  matmul_plans* plans_ = nullptr;
  std::unordered_map<const void*, bool>* kernels_ = nullptr;
  std::byte* workspace_ = nullptr;
  index_t workspace_bytes_ = 0;
  index_t matmul_workspace_bytes_ = 0;
  bool allows_tf32_ = false;
  bool overlaps_launches_ = true;
  bool has_barrier_ = true;
  bool is_ahead_ = false;                                ///< a branch that has work which was not joined
  std::array<execution*, stream_count - 1> branches_{};  ///< of the main stream; a branch has none
};

/// May a kernel start while the one before it on its stream still runs? It then fetches what was there long
/// before (weights, the batch's arrays, an encoder's keys and values), and waits for the other's end before
/// it reads or writes anything else. Two conditions: what is before it is a kernel, not a copy or another
/// stream's event; and the last kernel that wrote what it fetches lies further back, with a kernel after it
/// that was launched without overlap, or that lets the next one start only when it has waited itself
/// (early_keys). No effect below compute capability 9.0.
enum class launch_overlap : std::uint8_t { none, previous };

/// May the next kernel of `e` overlap the one before it? Not behind a copy or another stream's event.
[[nodiscard]] inline launch_overlap overlap_of(execution& e) {
  return e.take_barrier() ? launch_overlap::none : launch_overlap::previous;
}

}  // namespace t5zero::cuda
