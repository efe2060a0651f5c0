// Results beside those of earlier runs.
#include <t5zero/cli/result_files.hpp>

#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "catch.hpp"

TEST_CASE("earlier results are read, or the failure is told", "[cli]") {
  std::string pattern = (std::filesystem::temp_directory_path() / "t5zero_results_XXXXXX").string();
  const std::filesystem::path place = ::mkdtemp(pattern.data());
  const auto file = place / "all_results.json";
  std::ofstream(file) << R"({"a": 1, "b": NaN, "c": "NaN, no"})";
  const auto values = t5zero::cli::read_results(file);
  REQUIRE(values.has_value());
  CHECK(values->at("a") == "1");
  CHECK(values->at("b") == "NaN");
  CHECK(values->at("c") == R"("NaN, no")");
  std::ofstream(file) << "[1]";
  CHECK_FALSE(t5zero::cli::read_results(file).has_value());
  std::ofstream(file).flush();
  CHECK_FALSE(t5zero::cli::read_results(file).has_value());
  CHECK_THROWS_AS(t5zero::cli::read_results(place / "none.json"), t5zero::io_error);
  CHECK_THROWS_AS(t5zero::cli::read_results(place), t5zero::io_error);  // a directory: opened, not read
  std::filesystem::remove_all(place);
}
