// The records of updates in a checkpoint.
#include <t5zero/cpu.hpp>
#include <t5zero/train/training_checkpoint.hpp>

#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <limits>
#include <vector>

#include "catch.hpp"
#include "golden_models.hpp"

TEST_CASE("the records of the updates lie in the state file, not in the manifest", "[train]") {
  using run = t5zero::run<golden::tiny_relu, t5zero::zero_0, t5zero::fp32, t5zero::cpu::backend>;
  std::string pattern = (std::filesystem::temp_directory_path() / "t5zero_records_XXXXXX").string();
  const std::filesystem::path place = ::mkdtemp(pattern.data());
  t5zero::trainer_options settings;
  settings.threads = 1;
  t5zero::trainer<run> trainer(golden::tiny_relu::shape, t5zero::batch_shape::of_lengths(1, 4, 4), settings);
  trainer.initialize(1, 1.0);
  t5zero::loop_state state;
  constexpr double nan = std::numeric_limits<double>::quiet_NaN();
  for (t5zero::index_t step = 1; step <= 1000; ++step)
    state.history.updates.push_back(
        {step, step == 3 ? nan : 1.0 / 3.0, 2.0, 1e-5, 65536.0, 0.125, 77, step == 3});
  const auto save = [&] {
    t5zero::atomic_save files(place);
    t5zero::add_training_state(files, trainer, /*weights_are_in_model=*/false, state,
                               {.examples = 10, .batch_size = 1, .gradient_accumulation = 1});
    files.commit();
  };
  save();
  CHECK(std::filesystem::file_size(place / "t5zero_checkpoint.json") < 60'000);
  const auto read = t5zero::training_checkpoint(place).state().history.updates;
  REQUIRE(read.size() == 1000);
  CHECK(read[998].step == 999);
  CHECK(read[998].loss == static_cast<double>(1.0F / 3.0F));
  CHECK(read[998].learning_rate == static_cast<double>(1e-5F));
  CHECK(read[998].loss_scale == 65536.0);
  CHECK(read[998].seconds == 0.125);
  CHECK(read[998].tokens == 77);
  CHECK_FALSE(read[998].skipped);
  CHECK(std::isnan(read[2].loss));
  CHECK(read[2].skipped);
  state.history.updates.clear();
  save();
  CHECK(t5zero::training_checkpoint(place).state().history.updates.empty());
  std::filesystem::remove_all(place);
}
