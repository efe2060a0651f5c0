// The CPU's execution, whose operations those of the GPU are tested against.
#pragma once

#include <cstddef>
#include <memory>
#include <vector>

#include <t5zero/backend/cpu/execution.hpp>
#include <t5zero/backend/cpu/thread_pool.hpp>
#include <t5zero/core/integers.hpp>

namespace t5zero_test {

class host_machine {
 public:
  explicit host_machine(int threads = 2)
      : pool_(threads), memory_(workspace_bytes + 64), execution_(pool_, aligned(), workspace_bytes) {}

  [[nodiscard]] t5zero::cpu::execution& main() { return execution_; }

 private:
  static constexpr std::size_t workspace_bytes = std::size_t{16} << 20;

  [[nodiscard]] std::byte* aligned() {
    void* at = memory_.data();
    std::size_t space = memory_.size();
    return static_cast<std::byte*>(std::align(64, workspace_bytes, at, space));
  }

  t5zero::cpu::thread_pool pool_;
  std::vector<std::byte> memory_;
  t5zero::cpu::execution execution_;
};

}  // namespace t5zero_test
