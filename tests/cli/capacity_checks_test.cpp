// How much of the disk a run's checkpoints take.
#include <t5zero/cli/capacity_checks.hpp>
#include <t5zero/cpu.hpp>

#include <filesystem>

#include "catch.hpp"

TEST_CASE("checkpoints that lie on the disk at once", "[cli]") {
  using t5zero::interval_strategy;
  const t5zero::step_arithmetic steps(
      100, {.batch_size = 10, .gradient_accumulation_steps = 1, .max_steps = 45, .epochs = 1.0});
  t5zero::options chosen;
  const auto count = [&] { return t5zero::cli::checkpoints_at_once(chosen, steps); };
  chosen.save_steps.value = 10;
  CHECK(count() == 5);  // the last update too
  chosen.save_total_limit = 2;
  CHECK(count() == 3);
  chosen.save_total_limit.reset();
  chosen.save_strategy = interval_strategy::epoch;
  CHECK(count() == 5);
  chosen.save_strategy = interval_strategy::best;
  chosen.eval_strategy = interval_strategy::epoch;
  CHECK(count() == 5);
  chosen.eval_strategy = interval_strategy::steps;
  chosen.eval_steps = t5zero::step_count{15};
  CHECK(count() == 3);
  chosen.eval_steps.reset();
  chosen.logging_steps.value = 0.1;  // 4.5 updates, rounded up
  CHECK(count() == 9);
  chosen.save_strategy = interval_strategy::no;
  CHECK(count() == 0);
}

TEST_CASE("more checkpoints than 64 bits count bytes of are still too many", "[cli]") {
  t5zero::options chosen;
  chosen.output_dir = std::filesystem::temp_directory_path().string();
  const t5zero::cli::save_sizes sizes{.model = 1024, .state = 0};
  for (const t5zero::index_t checkpoints : {t5zero::index_t{1} << 45, t5zero::index_t{1} << 54}) {
    CAPTURE(checkpoints);
    const std::string warning = t5zero::cli::check_disk_space(chosen, sizes, checkpoints);
    CHECK(warning.find("the checkpoints of this run will need") != std::string::npos);
  }
  CHECK(t5zero::cli::check_disk_space(chosen, {.model = 1, .state = 1}, 1).empty());
  CHECK(t5zero::cli::check_disk_space(chosen, {}, t5zero::index_t{1} << 54).empty());
}
