// Generation against transformers 5.17: tokens and scores of greedy and beam search.
#include <t5zero/cuda.hpp>

#include "backend/cuda/device_machine.hpp"
#include "catch.hpp"
#include "golden_generation.hpp"
#include "skip.hpp"

TEST_CASE("generation on a GPU equals transformers' token for token", "[train][golden]") {
  if (!t5zero_test::has_gpu()) return;
  if (!golden::available()) return skip_test("no golden values");
  using backend = t5zero::cuda::backend;
  golden::check_generation<golden::tiny_relu, backend>();
  golden::check_generation<golden::tiny_gated, backend>();
  golden::check_generation<golden::tiny_gated_tied, backend>();
}
