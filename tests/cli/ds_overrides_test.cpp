#include <t5zero/cli/ds_overrides.hpp>

#include <string>

#include <t5zero/zero/read_ds_config.hpp>

#include "catch.hpp"

namespace {
t5zero::ds_config config_of(const std::string& text) {
  nlohmann::json json = t5zero::parse_strict_json(text, "ds.json");
  json["train_micro_batch_size_per_gpu"] = "auto";
  return t5zero::parse_ds_config(json, "ds.json");
}
}  // namespace

TEST_CASE("what a file leaves out has DeepSpeed's defaults, and is told") {
  t5zero::options chosen;
  chosen.learning_rate = 3e-4;
  chosen.weight_decay = 0.5;
  chosen.max_grad_norm = 2.0;
  auto config = config_of(R"({"zero_optimization": {"stage": 2}, "optimizer": {"type": "AdamW", "params": {}},
                              "scheduler": {"type": "WarmupDecayLR", "params": {"total_num_steps": 100}}})");
  const auto decided = t5zero::cli::apply_ds_config(config, chosen, 512, 100);
  CHECK(decided.learning_rate == 1e-3);
  CHECK(decided.max_grad_norm == 1.0);
  REQUIRE(decided.optimizer);
  CHECK(decided.optimizer->weight_decay == 0.0);
  CHECK(decided.optimizer->decay_scope == t5zero::weight_decay_scope::everything);
  REQUIRE(decided.schedule);
  CHECK(decided.schedule->maximum == 1e-3);
  CHECK(t5zero::cli::overrides_notice(config, chosen, decided) ==
        "ds.json: --learning_rate is 0.001, not 0.0003, --weight_decay is 0.0, not 0.5, --max_grad_norm is "
        "1.0, "
        "not 2.0, the learning rate follows WarmupDecayLR, not --lr_scheduler_type");
}

TEST_CASE("without sections the command line stands") {
  t5zero::options chosen;
  chosen.learning_rate = 3e-4;
  auto config = config_of(R"({"zero_optimization": {"stage": 2}, "gradient_clipping": "auto",
                              "fp16": {"enabled": "auto", "hysteresis": 3}})");
  const auto decided = t5zero::cli::apply_ds_config(config, chosen, 512, 100);
  CHECK(decided.learning_rate == 3e-4);
  CHECK_FALSE(decided.optimizer);
  CHECK_FALSE(decided.schedule);
  CHECK(decided.scaler.hysteresis == 3);
  CHECK(t5zero::cli::overrides_notice(config, chosen, decided).empty());
  auto plain =
      config_of(R"({"zero_optimization": {"stage": 0}, "fp16": {"enabled": "auto", "hysteresis": 3}})");
  CHECK(t5zero::cli::apply_ds_config(plain, chosen, 512, 100).scaler.hysteresis == 1);
}

TEST_CASE("a file's optimizer and --optim adafactor exclude each other") {
  t5zero::options chosen;
  chosen.optim = "adafactor";
  auto config =
      config_of(R"({"zero_optimization": {"stage": 2}, "optimizer": {"type": "AdamW", "params": {}}})");
  CHECK_THROWS_WITH(t5zero::cli::apply_ds_config(config, chosen, 512, 100),
                    t5zero_test::contains_text("Only one optimizer can be configured"));
}

TEST_CASE("WarmupLR without a rate of its own takes the optimizer's") {
  t5zero::options chosen;
  chosen.learning_rate = 3e-4;
  chosen.warmup_steps = {4};
  auto config = config_of(R"({"zero_optimization": {"stage": 2},
                              "scheduler": {"type": "WarmupLR", "params": {"warmup_num_steps": 4}}})");
  const auto decided = t5zero::cli::apply_ds_config(config, chosen, 512, 100);
  REQUIRE(decided.schedule);
  CHECK(decided.schedule->maximum == 3e-4);
}
