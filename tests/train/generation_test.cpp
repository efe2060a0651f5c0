// Generation against transformers 5.17: tokens and scores of greedy and beam search.
#include <t5zero/cpu.hpp>

#include "catch.hpp"
#include "golden_generation.hpp"
#include "skip.hpp"

TEST_CASE("generation equals transformers' token for token", "[train][golden]") {
  if (!golden::available()) return skip_test("no golden values");
  using backend = t5zero::cpu::backend;
  golden::check_generation<golden::tiny_relu, backend>();
  golden::check_generation<golden::tiny_gated, backend>();
  golden::check_generation<golden::tiny_gated_tied, backend>();
}
