// Counts the allocations of a test program: malloc and its relatives, and mmap.
#pragma once

namespace t5zero_test {

/// Calls since the start of the program; 0 where counts_allocations() is false.
[[nodiscard]] long allocation_count();
/// Whether this build can count: not under a sanitizer, nor without glibc.
[[nodiscard]] bool counts_allocations();

}  // namespace t5zero_test
