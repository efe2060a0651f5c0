// Where a run begins.
#include <t5zero/cli/resume.hpp>

#include <cstdlib>
#include <filesystem>
#include <functional>
#include <vector>

#include "catch.hpp"

TEST_CASE("commands that train other numbers are other runs", "[cli]") {
  using t5zero::options;
  const auto fingerprint = [](const options& chosen) { return t5zero::cli::run_fingerprint(chosen, "run"); };
  const std::string first = fingerprint({});
  const std::vector<std::function<void(options&)>> changes = {
      [](options& o) { o.learning_rate = 5.0000001e-5; },  // the same in six places
      [](options& o) { o.weight_decay = 0.01; },
      [](options& o) { o.adam_beta1 = 0.8; },
      [](options& o) { o.adam_beta2 = 0.99; },
      [](options& o) { o.adam_epsilon = 1e-9; },
      [](options& o) { o.max_grad_norm = 2.0; },
      [](options& o) { o.lr_scheduler_type = t5zero::lr_schedule_kind::cosine; },
      [](options& o) { o.lr_scheduler_kwargs = "{}"; },
      [](options& o) { o.warmup_ratio = 0.1; },
      [](options& o) { o.warmup_steps.value = 3; },
      [](options& o) { o.max_source_length = 7; },
      [](options& o) { o.max_target_length = 7; },
      [](options& o) { o.label_smoothing_factor = 0.1; },
      [](options& o) { o.optim = "adafactor"; },
      [](options& o) { o.data_seed = 1; },
      [](options& o) { o.group_by_length = true; },
      [](options& o) { o.dataloader_drop_last = true; },
      [](options& o) { o.source_prefix = "x: "; },
      [](options& o) { o.max_steps = 4; }};
  for (std::size_t i = 0; i < changes.size(); ++i) {
    CAPTURE(i);
    options other;
    changes[i](other);
    CHECK(fingerprint(other) != first);
  }
  options same;
  same.logging_steps.value = 1;
  same.do_eval = same.overwrite_output_dir = true;
  same.optim = "adamw_torch_fused";
  CHECK(fingerprint(same) == first);
  CHECK(t5zero::cli::run_fingerprint(same, "other") != first);
}

TEST_CASE("the checkpoint before a damaged one", "[cli]") {
  std::string pattern = (std::filesystem::temp_directory_path() / "t5zero_resume_XXXXXX").string();
  const std::filesystem::path place = ::mkdtemp(pattern.data());
  for (const char* name : {"checkpoint-9", "checkpoint-18", "checkpoint-27"})
    std::filesystem::create_directories(place / name);
  const std::string before =
      ". The one before: --resume_from_checkpoint " + (place / "checkpoint-18").string();
  CHECK(t5zero::cli::other_checkpoint_hint(place / "checkpoint-27") == before);
  CHECK(t5zero::cli::other_checkpoint_hint(place / "checkpoint-27/") == before);
  CHECK(t5zero::cli::other_checkpoint_hint(place / "checkpoint-9/").empty());
  std::filesystem::remove_all(place);
}
