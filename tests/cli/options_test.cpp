#include <t5zero/cli/parse_options.hpp>
#include <t5zero/cli/run_constraints.hpp>

#include <unistd.h>
#include <filesystem>
#include <fstream>
#include <functional>
#include <set>
#include <string>
#include <vector>

#include "catch.hpp"

namespace {

t5zero::options parse(std::vector<std::string> tokens) {
  tokens.insert(tokens.begin(), "run_translation");
  std::vector<const char*> argv;
  for (const std::string& token : tokens) argv.push_back(token.c_str());
  return t5zero::parse_options(static_cast<int>(argv.size()), argv.data());
}
/// The least that is complete, and more.
t5zero::options parse_with(const std::vector<std::string>& more) {
  std::vector<std::string> tokens = {"--model_name_or_path", "t5-small", "--source_lang",  "en",
                                     "--target_lang",        "ro",       "--dataset_name", "wmt16"};
  tokens.insert(tokens.end(), more.begin(), more.end());
  return parse(tokens);
}
std::string message_of(const std::function<void()>& action) {
  try {
    action();
  } catch (const t5zero::input_error& failure) {
    CHECK(failure.exit_code() == 2);
    return failure.what();
  }
  return "nothing thrown";
}
std::string refusal(const std::vector<std::string>& more) {
  return message_of([&] { (void)parse_with(more); });
}
bool has(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

}  // namespace

TEST_CASE("the documented commands parse") {
  const auto first = parse({"--num_gpus=1",
                            "--deepspeed",
                            "config/ds_config_zero2.json",
                            "--model_name_or_path",
                            "t5-small",
                            "--per_device_train_batch_size",
                            "1",
                            "--output_dir",
                            "output_dir",
                            "--overwrite_output_dir",
                            "--fp16",
                            "--do_train",
                            "--max_train_samples",
                            "500",
                            "--num_train_epochs",
                            "1",
                            "--dataset_name",
                            "wmt16",
                            "--dataset_config",
                            "ro-en",
                            "--source_lang",
                            "en",
                            "--target_lang",
                            "ro"});
  CHECK(first.dataset_config_name == "ro-en");
  CHECK(first.deepspeed == "config/ds_config_zero2.json");
  CHECK(first.fp16);
  CHECK(first.do_train);
  CHECK_FALSE(first.do_eval);
  CHECK(first.max_train_samples == 500);
  CHECK(first.num_train_epochs == 1.0);
  CHECK(first.per_device_train_batch_size == 1);
  CHECK(first.notice.empty());

  const auto fourth = parse({"--model_name_or_path",
                             "t5-small",
                             "--do_train",
                             "--do_eval",
                             "--source_lang",
                             "en",
                             "--target_lang",
                             "ro",
                             "--source_prefix",
                             "translate English to Romanian: ",
                             "--dataset_name",
                             "wmt16",
                             "--dataset_config_name",
                             "ro-en",
                             "--output_dir",
                             "tmp/tst-translation",
                             "--per_device_train_batch_size=4",
                             "--per_device_eval_batch_size=4",
                             "--overwrite_output_dir",
                             "--predict_with_generate"});
  CHECK(fourth.source_prefix == "translate English to Romanian: ");
  CHECK(fourth.per_device_eval_batch_size == 4);
  CHECK(fourth.predict_with_generate);
  CHECK(fourth.notice.empty());
}

TEST_CASE("defaults are Hugging Face's") {
  const auto chosen = parse_with({});
  CHECK(chosen.learning_rate == 5e-5);
  CHECK(chosen.per_device_train_batch_size == 8);
  CHECK(chosen.num_train_epochs == 3.0);
  CHECK(chosen.max_steps == -1);
  CHECK(chosen.seed == 42);
  CHECK(chosen.logging_steps.value == 500);
  CHECK(chosen.max_source_length == 1024);
  CHECK(chosen.evaluation_target_length() == 128);
  CHECK(chosen.output_dir == "trainer_output");
  CHECK_FALSE(chosen.tf32.has_value());
}

TEST_CASE("spelling follows argparse") {
  CHECK(parse_with({"--learning-rate", "1e-3"}).learning_rate == 1e-3);
  CHECK(parse_with({"--learning_r=1e-3"}).learning_rate == 1e-3);
  CHECK(parse_with({"--num_train", "2"}).num_train_epochs == 2.0);
  CHECK(parse_with({"--predict_w"}).predict_with_generate);
  CHECK(parse_with({"--max_steps", "3", "--max-steps", "7"}).max_steps == 7);
  CHECK(parse_with({"--max_steps", "-1"}).max_steps == -1);
  CHECK(has(refusal({"--dataset", "x"}),
            "ambiguous option: --dataset could match --dataset_name, --dataset_config_name"));
  CHECK(has(refusal({"--learning", "1"}),
            "ambiguous option: --learning could match --learning_rate, --learning-rate"));
  CHECK(
      has(refusal({"--lerning_rate", "1"}), "unknown option --lerning_rate; did you mean --learning_rate?"));
  CHECK(has(refusal({"--foo"}), "unknown option --foo; --help-all lists every option"));
  CHECK(has(refusal({"--output"}), "ambiguous option: --output could match --output_dir"));
  CHECK(has(refusal({"--no-do_train"}), "unknown option --no_do_train"));
  CHECK(parse_with({"--no-use_fast_tokenizer"}).notice.find("--use_fast_tokenizer") != std::string::npos);
  CHECK(has(refusal({"--max_steps"}), "--max_steps: a value is needed"));
  CHECK(has(refusal({"stray"}), "'stray' belongs to no option"));
  CHECK(has(refusal({"--"}), "'--' belongs to no option"));
  CHECK(has(refusal({"-x"}), "'-x'"));
  CHECK(has(refusal({"--=3"}), "unknown option"));
}

TEST_CASE("booleans: bare, with a value, negated, optional") {
  CHECK(parse_with({"--do_train"}).do_train);
  CHECK(parse_with({"--do_train", "YES"}).do_train);
  CHECK_FALSE(parse_with({"--do_train", "f"}).do_train);
  CHECK_FALSE(parse_with({"--do_train=0"}).do_train);
  CHECK_FALSE(parse_with({"--no_ignore_pad_token_for_loss"}).ignore_pad_token_for_loss);
  CHECK_FALSE(parse_with({"--no-ignore-pad-token-for-loss"}).ignore_pad_token_for_loss);
  CHECK(parse_with({"--no_ignore_pad_token_for_loss", "--ignore_pad_token_for_loss"})
            .ignore_pad_token_for_loss);
  CHECK(parse_with({"--tf32", "True"}).tf32 == true);
  CHECK(parse_with({"--disable_tqdm=n"}).disable_tqdm == false);
  CHECK(has(refusal({"--tf32"}), "--tf32: a value is needed"));
  CHECK(has(refusal({"--do_train", "maybe"}), "--do_train maybe: a truth value is needed"));
  CHECK(has(refusal({"--no_ignore_pad_token_for_loss=1"}), "takes no value"));
  CHECK(has(refusal({"--no_do_train"}), "unknown option --no_do_train"));
}

TEST_CASE("values arrive as they are") {
  for (const std::string prefix :
       {"translate: ", "a=b", "[x]", "{}", "--x y", "'q'", "\"q\"", "%%", "%", "a\nb", "ș", "-"}) {
    CAPTURE(prefix);
    CHECK(parse_with({"--source_prefix=" + prefix}).source_prefix == prefix);
  }
  CHECK(parse_with({"--source_prefix", ""}).source_prefix == "");
  CHECK(parse_with({"--source_prefix="}).source_prefix == "");
  CHECK(parse_with({"--source_prefix", "-to ro: "}).source_prefix == "-to ro: ");
}

TEST_CASE("bad values name flag, value and repair") {
  CHECK(has(refusal({"--per_device_train_batch_size", "0"}),
            "--per_device_train_batch_size 0: a batch of at least 1 sentence is needed"));
  CHECK(has(refusal({"--per_device_train_batch_size", "1.5"}), "--per_device_train_batch_size 1.5"));
  CHECK(has(refusal({"--per_device_train_batch_size", "99999999999999999999"}),
            "99999999999999999999: too large; at most 65536 is allowed"));
  CHECK(has(refusal({"--learning_rate", "-1e-4"}), "--learning_rate -1e-4: a rate of at least 0 is needed"));
  CHECK(has(refusal({"--learning_rate", "nan"}), "--learning_rate nan"));
  CHECK(has(refusal({"--learning_rate", "fast"}), "--learning_rate fast"));
  CHECK(has(refusal({"--learning_rate="}), "--learning_rate ''"));
  CHECK(has(refusal({"--adam_beta2", "1"}), "in [0,1)"));
  CHECK(has(refusal({"--lr_scheduler_type", "reduce_lr_on_plateau"}), "one of linear, cosine"));
  CHECK(has(refusal({"--optim", "sgd"}), "one of adamw_torch, adamw_torch_fused, adafactor"));
  CHECK(has(refusal({"--optim", "adamw_hf"}), "one of adamw_torch, adamw_torch_fused, adafactor"));
  CHECK(has(refusal({"--report_to", "foo"}), "--report_to foo: no such tracker; known are azure_ml"));
  CHECK(has(refusal({"--logging_steps", "1.5"}), "--logging_steps 1.5"));
  CHECK(has(refusal({"--logging_steps", "0"}), "--logging_steps 0"));
  CHECK(has(refusal({"--fp16", "--bf16"}), "At most one of fp16 and bf16 can be True, but not both"));
  CHECK(has(refusal({"--train_file", "a.txt"}), "--train_file a.txt"));
  CHECK(has(refusal({"--num_gpus=2"}), "--num_gpus 2"));
  CHECK(refusal({"--train_file", "a.tsv", "--validation_file", "b.csv"}) == "nothing thrown");
}

TEST_CASE("words of a file beside the program stand before the command line") {
  const auto directory =
      std::filesystem::temp_directory_path() / ("t5zero_args." + std::to_string(::getpid()));
  std::filesystem::create_directory(directory);
  std::ofstream(directory / "run.args") << "--learning_rate 1e-3\n--seed 7 --model_name_or_path m";
  const std::string program = (directory / "run").string();
  const char* const argv[] = {program.c_str(), "--seed", "8", "--dataset_name", "d", "--source_lang", "en",
                              "--target_lang", "ro"};
  const t5zero::options chosen = t5zero::parse_options(9, argv);
  CHECK(chosen.args_file == (directory / "run.args").string());
  std::string wrong = "nothing thrown";
  std::ofstream(directory / "run.args") << "--no_such_flag 1";
  try {
    (void)t5zero::parse_options(9, argv);
  } catch (const t5zero::input_error& failure) {
    wrong = failure.what();
  }
  std::filesystem::remove_all(directory);
  CHECK(has(wrong, "--no_such_flag"));
  CHECK(has(wrong, "(arguments of " + (directory / "run.args").string() + " were read too)"));
  CHECK(chosen.learning_rate == 1e-3);
  CHECK(chosen.seed == 8);
  CHECK(chosen.model_name_or_path == "m");
}

TEST_CASE("numbers that stand for none") {
  CHECK(parse_with({"--max_steps", "-5"}).max_steps == -1);
  CHECK(parse_with({"--max_steps", "0"}).max_steps == -1);
  CHECK(!parse_with({"--save_total_limit", "0"}).save_total_limit);
  CHECK(parse_with({"--save_total_limit", "1"}).save_total_limit == 1);
}

TEST_CASE("values of a schedule") {
  const auto kwargs = [](const std::string& type, const std::string& json) {
    return refusal({"--lr_scheduler_type", type, "--lr_scheduler_kwargs", json});
  };
  CHECK(kwargs("cosine_with_restarts", R"({"num_cycles": 2})") == "nothing thrown");
  CHECK(kwargs("cosine_with_min_lr", R"({"min_lr": 1e-6})") == "nothing thrown");
  CHECK(has(kwargs("cosine_with_min_lr", "{}"), "one of min_lr and min_lr_rate is needed"));
  CHECK(has(refusal({"--lr_scheduler_type", "cosine_with_min_lr"}),
            "--lr_scheduler_type cosine_with_min_lr without --lr_scheduler_kwargs: one of min_lr"));
  CHECK(has(kwargs("cosine_with_min_lr", R"({"min_lr": 1, "min_lr_rate": 1})"), "one of min_lr"));
  CHECK(has(kwargs("linear", R"({"num_cycles": 2})"), "linear has no num_cycles; it takes no keys"));
  CHECK(has(kwargs("polynomial", R"({"lr_end": 1})"), "must be smaller than initial lr"));
  CHECK(has(kwargs("polynomial", R"({"powr": 1})"), "polynomial has no powr; it takes lr_end, power"));
  CHECK(has(kwargs("polynomial", "power=2"), "not valid JSON"));
  CHECK(has(kwargs("polynomial", "[2]"), "a JSON object"));
  CHECK(has(kwargs("warmup_stable_decay", "{}"), "needs num_decay_steps"));
  CHECK(has(kwargs("warmup_stable_decay", R"({"num_decay_steps": 2.5})"), "a whole number of updates"));
  CHECK(has(kwargs("warmup_stable_decay", R"({"num_decay_steps": 2, "decay_type": "step"})"),
            "linear, cosine or 1-sqrt"));
  const t5zero::options chosen = parse_with({"--lr_scheduler_type", "warmup_stable_decay", "--warmup_steps",
                                             "2", "--lr_scheduler_kwargs", R"({"num_decay_steps": 4})"});
  const t5zero::lr_schedule schedule = t5zero::make_lr_schedule(chosen, 1.0, 9);
  CHECK(schedule.shape.stable_steps == 3);
  CHECK(schedule(5) == 1.0);
  CHECK(schedule(9) == 0.0);
}

TEST_CASE("what must be given") {
  CHECK(has(message_of([] { (void)parse({}); }), "required: --model_name_or_path"));
  CHECK(has(message_of([] {
              (void)parse({"--model_name_or_path", "m", "--test_file", "a.json"});
            }),
            "Need either a dataset name or a training/validation file."));
  CHECK(has(message_of([] {
              (void)parse({"--model_name_or_path", "m", "--do_predict"});
            }),
            "--do_predict requires a test dataset: give --test_file"));
  CHECK(has(message_of([] {
              (void)parse({"--model_name_or_path", "m", "--dataset_name", "d", "--source_lang", "en"});
            }),
            "Need to specify the source language and the target language."));
  CHECK(parse({"--config_name", "t5-small", "--from_scratch", "--dataset_name", "d", "--source_lang", "en",
               "--target_lang", "ro"})
            .from_scratch);
}

TEST_CASE("steps in (0,1) are shares, rounded up") {
  CHECK(parse_with({"--logging_steps", "0.3"}).logging_steps.steps(11) == 4);
  CHECK(parse_with({"--logging_steps", "1e1"}).logging_steps.steps(11) == 10);
  CHECK(parse_with({"--warmup_steps", "0.5"}).warmup_updates(7) == 4);
  CHECK(parse_with({"--warmup_ratio", "0.1"}).warmup_updates(11) == 2);
  CHECK(parse_with({"--warmup_ratio", "0.1", "--warmup_steps", "5"}).warmup_updates(11) == 5);
}

TEST_CASE("accepted arguments share one notice, refused ones are errors unless they say the default") {
  const auto chosen =
      parse_with({"--report_to", "wandb", "tensorboard", "--run_name", "x", "--fsdp", "", "--push_to_hub",
                  "False", "--save_steps", "500", "--group_by_length", "--evaluation_strategy", "epoch"});
  CHECK(has(chosen.notice, "--report_to wandb (tensorboard is"));
  CHECK(chosen.reports_to_tensorboard());
  CHECK(has(chosen.notice, "--run_name"));
  CHECK(chosen.group_by_length);
  CHECK_FALSE(has(chosen.notice, "save_steps"));
  CHECK(chosen.do_eval);
  CHECK(parse_with({"--report_to", "none"}).notice.empty());
  CHECK(has(refusal({"--push_to_hub"}), "--push_to_hub True: refused"));
  CHECK(has(refusal({"--fsdp", "full_shard"}), "use --deepspeed"));
  CHECK(parse_with({"--adafactor"}).uses_adafactor());
}

TEST_CASE("include_num_input_tokens_seen is a truth value in some releases, a word in others") {
  const auto notice = [](const std::vector<std::string>& more) {
    std::vector<std::string> all = {"--include_num_input_tokens_seen"};
    all.insert(all.end(), more.begin(), more.end());
    return parse_with(all).notice;
  };
  for (const std::vector<std::string>& asked :
       std::vector<std::vector<std::string>>{{}, {"True"}, {"all"}, {"non_padding"}, {"--do_train"}})
    CHECK(has(notice(asked), "--include_num_input_tokens_seen (not logged yet)"));
  CHECK(notice({"no"}).empty());
  CHECK(notice({"False"}).empty());
}

TEST_CASE("an evaluation of the loss alone generates nothing") {
  const auto chosen = parse_with({"--do_eval", "--predict_with_generate", "--prediction_loss_only"});
  CHECK_FALSE(chosen.predict_with_generate);
  CHECK(chosen.notice.empty());
  CHECK(parse_with({"--predict_with_generate", "--prediction_loss_only", "False"}).predict_with_generate);
  CHECK(has(refusal({"--do_predict", "--predict_with_generate", "--prediction_loss_only"}),
            "--do_predict would write no texts"));
  CHECK(has(refusal({"--do_train", "--eval_strategy", "epoch", "--save_strategy", "epoch",
                     "--predict_with_generate", "--prediction_loss_only", "--load_best_model_at_end",
                     "--metric_for_best_model", "bleu"}),
            "leave --prediction_loss_only out"));
}

TEST_CASE("evaluations between updates need an interval") {
  CHECK(has(refusal({"--eval_strategy", "steps", "--logging_strategy", "no", "--logging_steps", "0"}),
            "give --eval_steps"));
  CHECK(parse_with({"--eval_strategy", "steps", "--logging_strategy", "no", "--logging_steps", "0",
                    "--eval_steps", "7"})
            .eval_steps->value == 7);
}

TEST_CASE("help") {
  CHECK(has(parse({"--help"}).help_text, "--learning_rate"));
  CHECK(has(parse({"-h"}).help_text, "--max_source_length"));
  const std::string all = parse({"--help-all"}).help_text;
  CHECK(has(all, "--push_to_hub"));
  CHECK(has(all, "refused"));
}

TEST_CASE("the table has each name once, and every honoured argument has a field") {
  std::set<std::string_view> names;
  t5zero::options chosen;
  t5zero::option_binder bind;
  t5zero::detail::bind_model_and_data(bind, chosen);
  t5zero::detail::bind_training(bind, chosen);
  t5zero::detail::bind_running(bind, chosen);
  for (const auto& row : t5zero::argument_table()) {
    CAPTURE(row.name);
    CHECK(names.insert(row.name).second);
    const bool is_help = row.name == "help" || row.name == "help_all";
    if (row.outcome == t5zero::verdict::honoured && !is_help)
      CHECK(bind.find(std::string(row.name)) != nullptr);
  }
}

TEST_CASE("one argument ending in .json is a file of all arguments") {
  const auto path = std::filesystem::temp_directory_path() / "t5zero_options_test.json";
  const auto write = [&path](const std::string& text) { std::ofstream(path) << text; };
  write(
      R"({"model_name_or_path": "t5-small", "source_lang": "en", "target_lang": "ro", "dataset_name": "wmt16",
            "fp16": true, "learning_rate": 1e-4, "max_train_samples": 5, "data_seed": null, "report_to": ["none"]})");
  const auto chosen = parse({path.string()});
  CHECK(chosen.fp16);
  CHECK(chosen.learning_rate == 1e-4);
  CHECK(chosen.max_train_samples == 5);
  write(R"({"learning_rat": 1})");
  CHECK(has(message_of([&] { (void)parse({path.string()}); }), "did you mean \"learning_rate\"?"));
  std::filesystem::remove(path);
  CHECK(has(message_of([&] { (void)parse({path.string()}); }), "cannot be opened"));
}

TEST_CASE("an executable of one run refuses flags against its type") {
  const auto& small_fp16 = t5zero::documented_runs[0];
  const auto& plain = t5zero::documented_runs[3];
  t5zero::ds_config stage_2;
  stage_2.source = "ds.json";
  stage_2.zero.stage = 2;
  CHECK(t5zero::requested_precision(parse_with({"--bf16"})) == "bf16");
  CHECK(t5zero::requested_precision(parse_with({"--tf32", "1"})) == "tf32");
  CHECK(t5zero::requested_stage(nullptr) == 0);
  CHECK_NOTHROW(t5zero::check_run_constraints(parse_with({}), nullptr, plain));
  CHECK_NOTHROW(t5zero::check_run_constraints(parse_with({"--fp16"}), &stage_2, small_fp16));
  const std::string wrong =
      message_of([&] { t5zero::check_run_constraints(parse_with({"--fp16"}), &stage_2, plain); });
  CHECK(has(wrong, "--fp16 asks for fp16, this run is fp32"));
  CHECK(has(wrong, "use t5_small_zero2_fp16"));
  CHECK(has(message_of([&] {
              t5zero::check_run_constraints(parse_with({"--model_name_or_path", "google-t5/t5-large"}),
                                            nullptr, plain);
            }),
            "the model is t5-large"));
}

TEST_CASE("beams have a bound", "[cli]") {
  for (const std::string flag : {"--num_beams", "--generation_num_beams"}) {
    CHECK_NOTHROW(parse_with({flag, "1024"}));
    CHECK(has(refusal({flag, "1025"}), flag + " 1025: too large; at most 1024 is allowed"));
  }
}
