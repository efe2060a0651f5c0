// Where the CPU backend's work is submitted: threads and the scratch memory that operations borrow.
#pragma once

#include <cstddef>

#include <t5zero/backend/backend.hpp>
#include <t5zero/backend/cpu/thread_pool.hpp>
#include <t5zero/core/error.hpp>
#include <t5zero/core/integers.hpp>

namespace t5zero::cpu {

/// A stream of work on the CPU: every call runs at once, on all threads of the pool. `fork` and `join` exist
/// because a stream of a GPU has them; here a branch is the stream itself.
class execution {
 public:
  /// `workspace`: memory for packing and partial sums, aligned to 64 bytes, from the arena; the plan asked
  /// each operation how much it needs. Both outlive the execution.
  execution(thread_pool& threads, std::byte* workspace, index_t workspace_bytes)
      : threads_(&threads), workspace_(workspace), workspace_bytes_(workspace_bytes) {}

  [[nodiscard]] thread_pool& threads() const { return *threads_; }

  /// The workspace, for the length of one operation. Throws contract_error if it is smaller than `bytes`.
  [[nodiscard]] std::byte* workspace(index_t bytes) const {
    require(bytes <= workspace_bytes_, "execution: the operation needs more workspace than was planned");
    return workspace_;
  }

  [[nodiscard]] execution& fork(branch_of /*branch*/) { return *this; }
  [[nodiscard]] execution& fork_behind_branches(branch_of /*branch*/) { return *this; }
  [[nodiscard]] execution& resume(branch_of /*branch*/) { return *this; }
  void join(branch_of /*branch*/) {}
  void join_branches() {}

 private:
  thread_pool* threads_;
  std::byte* workspace_;
  index_t workspace_bytes_;
};

}  // namespace t5zero::cpu
