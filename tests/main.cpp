// The one main of all test programs; under Catch2 2.13 it also holds the library's implementation.
#if __has_include(<catch2/catch_session.hpp>)
#include <catch2/catch_session.hpp>
#else
#define CATCH_CONFIG_RUNNER
#include <catch2/catch.hpp>
#endif

#include <iostream>

#include "skip.hpp"

namespace {
bool skipped = false;
}

void skip_test(const char* why) {
  skipped = true;
  std::cerr << "skipped: " << why << "\n";
}

int main(int argc, char** argv) {
  const int failures = Catch::Session().run(argc, argv);
  return failures == 0 && skipped ? 4 : failures;
}
