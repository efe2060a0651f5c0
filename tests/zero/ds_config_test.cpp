#include <t5zero/zero/read_ds_config.hpp>
#include <t5zero/zero/resolve_ds_config.hpp>

#include <filesystem>
#include <fstream>
#include <functional>
#include <string>
#include <vector>

#include "catch.hpp"

namespace {

t5zero::ds_config parse(const std::string& text) {
  return t5zero::parse_ds_config(t5zero::parse_strict_json(text, "ds.json"), "ds.json");
}
std::string message_of(const std::function<void()>& action) {
  try {
    action();
  } catch (const t5zero::input_error& failure) {
    return failure.what();
  }
  return "nothing thrown";
}
bool has(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

t5zero::ds_arguments example_arguments() {
  t5zero::ds_arguments arguments;
  arguments.per_device_train_batch_size = 1;
  arguments.fp16 = true;
  arguments.total_steps = 500;
  arguments.d_model = 1024;
  return arguments;
}

}  // namespace

TEST_CASE("the bundled stage 2 file is read and filled") {
  auto config = t5zero::read_ds_config(T5ZERO_SOURCE_DIR "/examples/config/ds_config_zero2.json");
  CHECK(config.zero.stage == 2);
  CHECK(config.zero.reduce_bucket_size->value() == 200'000'000);
  CHECK(config.fp16.initial_scale_power == 16);
  CHECK(config.fp16.enabled->is_auto());
  CHECK(config.optimizer->type == "AdamW");
  CHECK(config.scheduler->warmup_num_steps->is_auto());
  t5zero::fill_auto(config, example_arguments());
  CHECK(config.fp16.enabled->value());
  CHECK(config.optimizer->lr->value() == 5e-5);
  CHECK(config.optimizer->betas->value()[1] == 0.999);
  CHECK(config.scheduler->warmup_max_lr->value() == 5e-5);
  CHECK(config.scheduler->warmup_num_steps->value() == 0);
  CHECK(config.train_batch_size->value() == 1);
  CHECK(config.gradient_clipping->value() == 1.0);
  CHECK(t5zero::resolve_batch_sizes(config, 1) == t5zero::batch_sizes{1, 1, 1});
  const std::string notice = t5zero::ds_config_notice(config);
  CHECK(has(notice, "zero_optimization.overlap_comm"));
  CHECK(has(notice, "steps_per_print"));
  CHECK_FALSE(has(notice, "hysteresis"));
}

TEST_CASE("the bundled stage 3 file gets Hugging Face's bucket sizes") {
  auto config = t5zero::read_ds_config(T5ZERO_SOURCE_DIR "/examples/config/ds_config_zero3.json");
  CHECK(config.zero.stage == 3);
  t5zero::fill_auto(config, example_arguments());
  CHECK(config.zero.reduce_bucket_size->value() == 1048576);
  CHECK(config.zero.stage3_prefetch_bucket_size->value() == 943718);
  CHECK(config.zero.stage3_param_persistence_threshold->value() == 10240);
}

TEST_CASE("below stage 3 an auto of a stage 3 size becomes absent") {
  auto config = parse(R"({"zero_optimization": {"stage": 2, "reduce_bucket_size": "auto",
                          "stage3_prefetch_bucket_size": "auto"}})");
  auto arguments = example_arguments();
  arguments.d_model = 512;
  t5zero::fill_auto(config, arguments);
  CHECK(config.zero.reduce_bucket_size->value() == 262144);
  CHECK_FALSE(config.zero.stage3_prefetch_bucket_size.has_value());
  CHECK_FALSE(config.train_batch_size.has_value());
}

TEST_CASE("every contradiction is listed in one error") {
  auto config = parse(R"({"train_micro_batch_size_per_gpu": 4, "gradient_clipping": 0.5,
                          "optimizer": {"type": "AdamW", "params": {"lr": 1e-3, "betas": [0.8, 0.999]}},
                          "fp16": {"enabled": false}})");
  const std::string text = message_of([&] { t5zero::fill_auto(config, example_arguments()); });
  CHECK(has(text, "- ds train_micro_batch_size_per_gpu=4 vs hf per_device_train_batch_size=1\n"));
  CHECK(has(text, "- ds gradient_clipping=0.5 vs hf max_grad_norm=1\n"));
  CHECK(has(text, "- ds optimizer.params.lr=0.001 vs hf learning_rate=5e-05\n"));
  CHECK(has(text, "- ds optimizer.params.betas=[0.8, 0.999] vs hf adam_beta1+adam_beta2=[0.9, 0.999]\n"));
  CHECK(has(text, "- ds fp16.enabled=False vs hf fp16=True\n"));
}

TEST_CASE("JSON is strict but for comments and float spellings of integers") {
  CHECK(
      parse("{ // the stage\n \"zero_optimization\": {\"stage\": 1, \"sub_group_size\": 1e14}}").zero.stage ==
      1);
  CHECK(parse(R"({"zero_optimization": true})").zero.stage == 1);
  CHECK(has(message_of([] { parse(R"({"zero_optimization": {"stage": 2, "stage": 3}})"); }),
            "\"stage\" occurs twice"));
  CHECK(parse(R"({"fp16": {"enabled": true}, "bf16": {"enabled": false}})").fp16.enabled->value());
  CHECK(has(message_of([] { parse("{\"fp16\": {},}"); }), "not valid JSON"));
  CHECK(has(message_of([] { parse("{\n\"fp16\": ]}"); }), "line 2"));
  CHECK(has(message_of([] { parse("[1]"); }), "an object"));
  CHECK(has(message_of([] { parse(R"({"train_batch_size": 1.5})"); }), "train_batch_size=1.5"));
}

TEST_CASE("unknown keys: an error inside a section, a notice at the top") {
  CHECK(has(message_of([] { parse(R"({"zero_optimization": {"stage": 2, "overlap_com": true}})"); }),
            "zero_optimization.overlap_com"));
  CHECK(has(message_of([] { parse(R"({"fp16": {"enable": true}})"); }), "fp16.enable"));
  const auto config = parse(R"({"my_field": 1, "zero_optimization": {"stage": 2,
                               "offload_optimizer": {"device": "cpu", "pin_memory": true}}})");
  CHECK(config.not_honoured == std::vector<std::string>{"my_field (unknown)",
                                                        "zero_optimization.offload_optimizer.device",
                                                        "zero_optimization.offload_optimizer.pin_memory"});
  CHECK(config.zero.offload_optimizer == t5zero::offload_device::cpu);
}

TEST_CASE("old spellings, and parallelism of one rank") {
  const auto refusal = [](const std::string& text) { return message_of([&] { parse(text); }); };
  CHECK(parse(R"({"zero_optimization": {"stage": 3, "cpu_offload_param": true}})").zero.offload_param ==
        t5zero::offload_device::cpu);
  CHECK(refusal(R"({"sequence_parallel_size": 1, "tensor_parallel": {"autotp_size": 0}})") ==
        "nothing thrown");
  CHECK(has(refusal(R"({"sequence_parallel_size": 2})"), "sequence_parallel_size=2"));
  CHECK(has(refusal(R"({"tensor_parallel": {"autotp_size": "x"}})"), "tensor_parallel="));
  CHECK(has(refusal(R"({"amp": 1})"), "amp=1"));
  CHECK(
      has(refusal(R"({"curriculum_learning": {"enabled": true, "autotp_size": 0}})"), "curriculum_learning"));
}

TEST_CASE("bad values name the full key path") {
  const auto refusal = [](const std::string& text) { return message_of([&] { parse(text); }); };
  CHECK(has(refusal(R"({"zero_optimization": {"stage": 4}})"), "zero_optimization.stage=4"));
  CHECK(has(refusal(R"({"zero_optimization": {"stage": 3, "offload_param": {"device": "nvme"}}})"),
            "zero_optimization.offload_param.device"));
  CHECK(has(refusal(R"({"zero_optimization": {"stage": 2, "offload_param": {"device": "cpu"}}})"),
            "stage 3 only"));
  CHECK(has(refusal(R"({"zero_optimization": {"zero_quantized_weights": true}})"), "zero_quantized_weights"));
  CHECK(has(refusal(R"({"fp16": {"loss_scale": -1}})"), "fp16.loss_scale"));
  CHECK(has(refusal(R"({"fp16": {"loss_scale": true}})"), "fp16.loss_scale"));
  CHECK(has(refusal(R"({"fp16": {"min_loss_scale": 0}})"), "fp16.min_loss_scale"));
  CHECK(has(refusal(R"({"fp16": {"enabled": true}, "bf16": {"enabled": true}})"), "both true"));
  CHECK(has(refusal(R"({"optimizer": {"type": "Lamb"}})"), "optimizer.type=\"Lamb\""));
  CHECK(has(refusal(R"({"optimizer": {"type": "AdamW", "params": {"max_grad_norm": 1.0}}})"),
            "gradient_clipping"));
  CHECK(has(refusal(R"({"scheduler": {"type": "OneCycle"}})"), "WarmupLR"));
  CHECK(has(refusal(R"({"scheduler": {"type": "WarmupDecayLR", "params": {}}})"), "total_num_steps"));
  CHECK(has(refusal(R"({"amp": {"enabled": true}})"), "amp"));
  CHECK(refusal(R"({"amp": {"enabled": false}})") == "nothing thrown");
  CHECK(refusal(R"({"zero_optimization": {"stage": 3, "stage3_gather_fp16_weights_on_model_save": true}})") ==
        "nothing thrown");
}

TEST_CASE("optimizer options that are not implemented are refused, not dropped") {
  const auto refusal = [](const std::string& text) { return message_of([&] { parse(text); }); };
  CHECK(has(refusal(R"({"optimizer": {"type": "Adam", "params": {"adam_w_mode": false}}})"),
            "optimizer.params.adam_w_mode"));
  CHECK(has(refusal(R"({"optimizer": {"type": "AdamW", "params": {"bias_correction": false}}})"),
            "optimizer.params.bias_correction"));
  CHECK(refusal(R"({"optimizer": {"type": "adamw", "params": {"adam_w_mode": false}}})") == "nothing thrown");
}

TEST_CASE("features that are off or of one rank are no obstacle") {
  const auto refusal = [](const std::string& text) { return message_of([&] { parse(text); }); };
  CHECK(refusal(R"({"sequence_parallel_size": 1})") == "nothing thrown");
  CHECK(refusal(R"({"tensor_parallel": {"autotp_size": 0}})") == "nothing thrown");
  CHECK(has(refusal(R"({"sequence_parallel_size": 2})"), "sequence_parallel_size"));
  CHECK(has(refusal(R"({"fp16": {"hysteresis": 0}})"), "fp16.hysteresis"));
  CHECK(has(refusal(R"({"fp16": {"loss_scale": 1e39}})"), "fp16.loss_scale"));
}

TEST_CASE("batch sizes are derived as in DeepSpeed") {
  const auto sizes = [](const std::string& text, t5zero::index_t ranks) {
    return t5zero::resolve_batch_sizes(parse(text), ranks);
  };
  CHECK(sizes(R"({"train_batch_size": 16, "train_micro_batch_size_per_gpu": 2})", 4) ==
        t5zero::batch_sizes{16, 2, 2});
  CHECK(sizes(R"({"train_batch_size": 16, "gradient_accumulation_steps": 2})", 4) ==
        t5zero::batch_sizes{16, 2, 2});
  CHECK(sizes(R"({"train_batch_size": 16})", 4) == t5zero::batch_sizes{16, 4, 1});
  CHECK(sizes(R"({"train_micro_batch_size_per_gpu": 3})", 2) == t5zero::batch_sizes{6, 3, 1});
  CHECK(has(message_of([&] { (void)sizes(R"({"train_batch_size": 10})", 4); }), "10 != 2 * 1 * 4"));
  CHECK(has(message_of([&] { (void)sizes(R"({"gradient_accumulation_steps": 2})", 1); }), "is needed"));
}

TEST_CASE("a file is looked up by name among the installed ones") {
  const std::vector<std::filesystem::path> installed = {T5ZERO_SOURCE_DIR "/examples/config"};
  CHECK(t5zero::read_ds_config("elsewhere/ds_config_zero3.json", installed).zero.stage == 3);
  const std::string text =
      message_of([&] { (void)t5zero::read_ds_config("elsewhere/none.json", installed); });
  CHECK(has(text, "--deepspeed elsewhere/none.json"));
  CHECK(has(text, "examples/config/none.json"));
}
