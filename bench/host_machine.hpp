// The CPU.
#pragma once

#include <sys/resource.h>

#include <string>

#include <t5zero/core/integers.hpp>

#include "machine.hpp"

namespace t5zero_bench {

struct host_machine {
  [[nodiscard]] std::string name() const { return "CPU"; }
  /// The most that this process held.
  [[nodiscard]] t5zero::index_t used_bytes() const {
    struct rusage usage {};
    ::getrusage(RUSAGE_SELF, &usage);
    return t5zero::index_t{usage.ru_maxrss} * 1024;
  }
};

}  // namespace t5zero_bench
