// Learning rates and loss scales against traces of DeepSpeed itself.
#include <t5zero/optim/loss_scaler.hpp>
#include <t5zero/optim/lr_schedule.hpp>

#include <cmath>
#include <fstream>
#include <iterator>
#include <regex>
#include <string>

#include "catch.hpp"
#include "golden.hpp"
#include "skip.hpp"

namespace {

nlohmann::json traces() {
  std::ifstream file(std::filesystem::path(T5ZERO_GOLDEN_DIR) / "deepspeed_traces.json");
  const std::string text{std::istreambuf_iterator<char>(file), {}};
  // Python's JSON has literals that JSON has not; none stands where this test looks.
  return nlohmann::json::parse(std::regex_replace(text, std::regex("Infinity|NaN"), "0"))["cases"];
}

t5zero::warmup_lr_schedule schedule_of(const nlohmann::json& file) {
  const nlohmann::json& params = file["scheduler"]["params"];
  const std::string type = file["scheduler"]["type"];
  t5zero::warmup_lr_schedule schedule;
  schedule.maximum = params.value("warmup_max_lr", file["optimizer"]["params"]["lr"].get<double>());
  schedule.minimum = params.value("warmup_min_lr", 0.0);
  schedule.warmup_steps = params.value("warmup_num_steps", 1000);
  schedule.total_steps = params.value("total_num_steps", 0);
  schedule.logarithmic = params.value("warmup_type", "log") == "log";
  if (type == "WarmupDecayLR") schedule.kind = t5zero::warmup_lr_kind::decay;
  if (type == "WarmupCosineLR") {
    schedule.kind = t5zero::warmup_lr_kind::cosine;
    schedule.maximum = file["optimizer"]["params"]["lr"];
    schedule.minimum = params.value("warmup_min_ratio", 0.0) * schedule.maximum;
    schedule.final_ratio = params.value("cos_min_ratio", 1e-4);
  }
  return schedule;
}

}  // namespace

TEST_CASE("learning rates are those of DeepSpeed's schedulers") {
  if (!golden::available()) return skip_test("no reference values");
  int compared = 0;
  for (const nlohmann::json& one : traces()) {
    const nlohmann::json& file = one["resolved"];
    if (!file.contains("scheduler")) continue;
    const t5zero::warmup_lr_schedule schedule = schedule_of(file);
    t5zero::index_t applied = 0;
    for (const nlohmann::json& step : one["trace"]) {
      applied += step["overflow"].get<bool>() ? 0 : 1;
      const double expected = step["lr_after"][0];
      INFO(one["case"] << " step " << step["step"]);
      CHECK(std::abs(schedule(applied) - expected) <= 1e-12 * std::max(1.0, std::abs(expected)));
      ++compared;
    }
  }
  CHECK(compared > 200);
}

TEST_CASE("loss scales are those of DeepSpeed's scalers") {
  if (!golden::available()) return skip_test("no reference values");
  int overflows = 0;
  for (const nlohmann::json& one : traces()) {
    const nlohmann::json& fp16 = one["resolved"]["fp16"];
    if (!fp16["enabled"].get<bool>()) continue;
    t5zero::loss_scaler_options options;
    const double fixed = fp16.value("loss_scale", 0.0);
    options.dynamic = fixed == 0;
    options.initial_scale = fixed > 0 ? fixed : std::ldexp(1.0, fp16.value("initial_scale_power", 16));
    options.window = fp16.value("loss_scale_window", 1000);
    options.hysteresis = fp16.value("hysteresis", 2);
    options.minimum_scale = fp16.value("min_loss_scale", 1.0);
    t5zero::loss_scaler_state scaler = t5zero::initial_state(options);
    for (const nlohmann::json& step : one["trace"]) {
      const bool overflow = step["overflow"];
      overflows += overflow ? 1 : 0;
      CHECK(t5zero::advance(options, scaler, overflow));
      INFO(one["case"] << " step " << step["step"]);
      CHECK(scaler.scale == step["cur_scale"].get<double>());
      if (step.contains("cur_hysteresis")) CHECK(scaler.hysteresis == step["cur_hysteresis"].get<int>());
    }
  }
  CHECK(overflows > 5);
}
