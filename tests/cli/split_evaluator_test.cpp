// What is said of a split's figures.
#include <t5zero/cli/split_evaluator.hpp>

#include <cmath>
#include <limits>

#include "catch.hpp"

TEST_CASE("a loss that is no number is told", "[cli]") {
  t5zero::evaluation_result result;
  CHECK(t5zero::cli::warning_of_loss("eval", result).empty());  // there are no references
  result.values = {{"loss", 1.5}};
  CHECK(t5zero::cli::warning_of_loss("eval", result).empty());
  result.values = {{"loss", std::nan("")}};
  CHECK(t5zero::cli::warning_of_loss("eval", result).rfind("warning: eval_loss is nan: ", 0) == 0);
  result.values = {{"loss", std::numeric_limits<double>::infinity()}};
  CHECK(t5zero::cli::warning_of_loss("predict", result).rfind("warning: predict_loss is inf: ", 0) == 0);
}
