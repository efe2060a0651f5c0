// Catch2 under both of its layouts: 2.13 (Debian 12) and 3.x (Ubuntu 24.04).
#pragma once

#include <string>

#if __has_include(<catch2/catch_all.hpp>)
#include <catch2/catch_all.hpp>
using Catch::Approx;  // 2.13 has it in the global namespace
#else
#include <catch2/catch.hpp>
#endif

namespace t5zero_test {

/// A matcher for texts that hold `part`; Catch2 3 renamed its own.
inline auto contains_text(const std::string& part) {
#if __has_include(<catch2/catch_all.hpp>)
  return Catch::Matchers::ContainsSubstring(part);
#else
  return Catch::Matchers::Contains(part);
#endif
}

}  // namespace t5zero_test
