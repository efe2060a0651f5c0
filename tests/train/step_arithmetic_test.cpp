#include <t5zero/train/step_arithmetic.hpp>

#include "catch.hpp"

namespace {
struct counts {
  t5zero::index_t batches, updates, steps, epochs;
  bool operator==(const counts&) const = default;
};
counts of(t5zero::index_t examples, const t5zero::step_options& options) {
  const t5zero::step_arithmetic steps(examples, options);
  return {steps.batches_per_epoch, steps.updates_per_epoch, steps.max_steps, steps.epochs};
}
}  // namespace

TEST_CASE("updates of whole and of broken epochs") {
  CHECK(of(500, {.batch_size = 1, .epochs = 1}) == counts{500, 500, 500, 1});
  CHECK(of(10, {.batch_size = 4, .epochs = 3}) == counts{3, 3, 9, 3});
  CHECK(of(10, {.batch_size = 4, .drop_last = true, .epochs = 3}) == counts{2, 2, 6, 3});
  // The short last group of an epoch is an update of its own.
  CHECK(of(10, {.batch_size = 2, .gradient_accumulation_steps = 2, .epochs = 1}) == counts{5, 3, 3, 1});
  CHECK(of(3, {.batch_size = 1, .gradient_accumulation_steps = 8, .epochs = 2}) == counts{3, 1, 2, 2});
  CHECK(of(10, {.batch_size = 4, .epochs = 0.5}) == counts{3, 3, 2, 1});
  CHECK(of(10, {.batch_size = 4, .max_steps = 7, .epochs = 1}) == counts{3, 3, 7, 3});
  CHECK_THROWS_AS(of(3, {.batch_size = 4, .drop_last = true}), t5zero::input_error);
}
