// Counts the C++ allocations of a test program: a program that uses `allocation_count` gets counting
// operators new.
#pragma once

namespace t5zero_test {

/// Calls of operator new since the start of the program.
[[nodiscard]] long allocation_count();

}  // namespace t5zero_test
