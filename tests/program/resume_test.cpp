// Checkpoints from outside: runs that are killed, stopped, resumed; what is refused on the way.
#include <sys/wait.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <filesystem>
#include <random>
#include <string>
#include <system_error>
#include <thread>
#include <vector>

#include <nlohmann/json.hpp>

#include "catch.hpp"
#include "program/training_sandbox.hpp"

using t5zero_test::content_of;
using t5zero_test::outcome;
using t5zero_test::training_sandbox;
using t5zero_test::words;

namespace {

namespace fs = std::filesystem;

/// How many runs whose words are in `log` went on from a checkpoint.
int resumed_runs(const std::string& log) {
  const std::string said = "Checkpoint detected";
  int count = 0;
  for (auto at = log.find(said); at != std::string::npos; at = log.find(said, at + 1)) ++count;
  return count;
}
/// The last checkpoint in a directory, 0 if there is none.
int last_checkpoint(const fs::path& directory) {
  int last = 0;
  std::error_code gone;
  for (const auto& entry : fs::directory_iterator(directory, gone)) {
    const std::string name = entry.path().filename().string();
    if (name.starts_with("checkpoint-")) last = std::max(last, std::stoi(name.substr(11)));
  }
  return last;
}

}  // namespace

TEST_CASE("killed at 20 random moments, a run ends as if it had not been", "[program]") {
  const training_sandbox place;
  const outcome whole = place.trains({"--output_dir", "whole"});
  INFO(whole.err);
  REQUIRE(whole.code == 0);

  const words command = place.command({"--output_dir", "killed", "--save_total_limit", "2"});
  std::mt19937 engine(20);
  int kills = 0;
  while (kills < 20) {
    // However slow the machine is: every other kill comes after a checkpoint that this run wrote. Saves are
    // frequent and slow beside updates of this size, so many kills hit one.
    const int before = last_checkpoint(place.work() / "killed");
    t5zero_test::running_program run = place.starts(command);
    if (kills % 2 == 0)
      (void)run.wait_until([&] { return last_checkpoint(place.work() / "killed") > before; });
    std::this_thread::sleep_for(std::chrono::milliseconds(engine() % (kills % 2 == 0 ? 40 : 150)));
    run.send(SIGKILL);
    const int status = run.status();
    INFO(place.log());
    const bool ended = WIFEXITED(status);
    REQUIRE((!ended || WEXITSTATUS(status) == 0));
    if (ended) fs::remove_all(place.work() / "killed");  // ended before its signal: from the beginning again
    ++kills;
  }
  CHECK(resumed_runs(place.log()) >= 5);
  const outcome last = place.run(command);
  INFO(last.err);
  REQUIRE(last.code == 0);
  CHECK(place.file("killed/model.safetensors") == place.file("whole/model.safetensors"));
  CHECK(place.losses("killed") == place.losses("whole"));
  CHECK(place.checkpoints("killed") == std::vector<std::string>{"checkpoint-144", "checkpoint-153"});
  CHECK(!fs::exists(place.work() / "killed/.t5zero_run"));
}

TEST_CASE("train k and resume is train N, across an epoch and with accumulation", "[program]") {
  const training_sandbox place;
  const words accumulates = {"--gradient_accumulation_steps", "3", "--save_steps", "10"};
  const auto with = [&](words more) {
    more.insert(more.end(), accumulates.begin(), accumulates.end());
    return more;
  };
  REQUIRE(place.trains(with({"--output_dir", "whole"})).code == 0);
  // 17 updates an epoch: checkpoint 10 lies within the first, 30 within the second.
  for (const char* step : {"10", "30"}) {
    const std::string out = std::string("from") + step;
    const outcome resumed = place.trains(
        with({"--output_dir", out, "--resume_from_checkpoint", std::string("whole/checkpoint-") + step}));
    INFO(resumed.err);
    REQUIRE(resumed.code == 0);
    CHECK(place.file(out + "/model.safetensors") == place.file("whole/model.safetensors"));
    CHECK(place.losses(out) == place.losses("whole"));
  }
}

TEST_CASE("Adafactor with recomputed activations resumes bit for bit", "[program]") {
  const training_sandbox place;
  const words how = {"--optim",
                     "adafactor",
                     "--gradient_checkpointing",
                     "--lr_scheduler_type",
                     "polynomial",
                     "--lr_scheduler_kwargs",
                     R"({"power": 2})"};
  const auto with = [&](words more) {
    more.insert(more.end(), how.begin(), how.end());
    return more;
  };
  REQUIRE(place.trains(with({"--output_dir", "whole"})).code == 0);
  const outcome resumed =
      place.trains(with({"--output_dir", "out", "--resume_from_checkpoint", "whole/checkpoint-63"}));
  INFO(resumed.err);
  REQUIRE(resumed.code == 0);
  CHECK(place.file("out/model.safetensors") == place.file("whole/model.safetensors"));
  CHECK(place.losses("out") == place.losses("whole"));
  CHECK(place.file("out/README.md").find("Adafactor") != std::string::npos);
}

TEST_CASE("at the end of an epoch there is nothing to skip", "[program]") {
  const training_sandbox place;
  REQUIRE(place.trains({"--output_dir", "run", "--num_train_epochs", "2", "--save_strategy", "epoch"}).code ==
          0);
  REQUIRE(place.checkpoints("run") == words{"checkpoint-102", "checkpoint-51"});
  const auto loop = nlohmann::json::parse(place.file("run/checkpoint-51/t5zero_checkpoint.json"))["loop"];
  CHECK(loop["epoch"] == 1);
  CHECK(loop["batch"] == 0);
  REQUIRE(place
              .trains({"--output_dir", "on", "--num_train_epochs", "2", "--save_strategy", "no",
                       "--resume_from_checkpoint", "run/checkpoint-51", "--ignore_data_skip"})
              .code == 0);
  CHECK(place.losses("on") == place.losses("run"));
}

TEST_CASE("a finished run that is started again keeps its figures", "[program]") {
  const training_sandbox place;
  REQUIRE(place.trains({"--output_dir", "run", "--max_steps", "9"}).code == 0);
  const std::string model = place.file("run/model.safetensors");
  const std::string figures = place.file("run/train_results.json");
  const std::string log = place.file("run/trainer_state.json");
  const outcome again = place.trains({"--output_dir", "run", "--max_steps", "9"});
  INFO(again.err);
  REQUIRE(again.code == 0);
  CHECK(again.err.find("Nothing is left to train: the checkpoint stands after update 9") !=
        std::string::npos);
  CHECK(place.file("run/model.safetensors") == model);
  CHECK(place.file("run/train_results.json") == figures);
  CHECK(place.file("run/trainer_state.json") == log);
  CHECK(place.losses("run").size() == 1);
  CHECK(place.file("run/training_report.html").find("training time") != std::string::npos);
  // The summary of another training is not this one's.
  nlohmann::json other = nlohmann::json::parse(log);
  for (auto& entry : other["log_history"])
    if (entry.contains("train_loss")) entry["train_loss"] = 1.5;
  place.write("run/trainer_state.json", other.dump());
  REQUIRE(place.trains({"--output_dir", "run", "--max_steps", "9"}).code == 0);
  CHECK(place.file("run/trainer_state.json").find("train_runtime") == std::string::npos);
  // In another directory there is no earlier log.
  REQUIRE(place
              .trains({"--output_dir", "other", "--max_steps", "9", "--resume_from_checkpoint",
                       "run/checkpoint-9"})
              .code == 0);
  CHECK(place.losses("other") == place.losses("run"));
}

TEST_CASE("an output directory whose name is not UTF-8", "[program]") {
  const training_sandbox place;
  const std::string name = "caf\xe9";
  const words more = {"--output_dir",
                      name,
                      "--validation_file",
                      "validation.jsonl",
                      "--eval_strategy",
                      "steps",
                      "--eval_steps",
                      "2",
                      "--save_steps",
                      "2",
                      "--load_best_model_at_end"};
  words first = more;
  first.insert(first.end(), {"--max_steps", "4"});
  const outcome ended = place.trains(first);
  INFO(ended.err);
  REQUIRE(ended.code == 0);
  const nlohmann::json state = nlohmann::json::parse(place.file(name + "/trainer_state.json"));
  CHECK(state["best_model_checkpoint"] == "caf\xef\xbf\xbd/checkpoint-4");
  words on = more;
  on.insert(on.end(), {"--max_steps", "6"});
  const outcome resumed = place.trains(on);
  INFO(resumed.err);
  REQUIRE(resumed.code == 0);
  CHECK(resumed.err.find("Loading best model from " + name + "/checkpoint-6") != std::string::npos);
}

TEST_CASE("checkpoints that cannot be gone on from", "[program]") {
  const training_sandbox place;
  REQUIRE(place.trains({"--output_dir", "run", "--max_steps", "27"}).code == 0);
  const auto refused = [&](const words& more, const words& named) {
    const auto before = place.contents();
    const outcome ended = place.trains(more);
    INFO(ended.err);
    CHECK(ended.code == 2);
    for (const std::string& word : named) {
      INFO("must name: " << word);
      CHECK(ended.err.find(word) != std::string::npos);
    }
    CHECK(place.contents() == before);
  };
  const std::string last = "run/checkpoint-27";
  // An earlier checkpoint of the same run does not mend what differs in the command.
  const outcome other = place.trains({"--output_dir", "o", "--resume_from_checkpoint", last, "--seed", "7"});
  CHECK(other.err.find("run/checkpoint-18") == std::string::npos);
  refused({"--output_dir", "o", "--resume_from_checkpoint", "True"},
          {"--resume_from_checkpoint True: No valid checkpoint found in output directory (o)"});
  refused({"--output_dir", "o", "--resume_from_checkpoint", "gone"},
          {"--resume_from_checkpoint: Can't find a valid checkpoint at gone, which does not exist"});
  refused({"--output_dir", "run", "--resume_from_checkpoint", "train.jsonl"},
          {"at train.jsonl, which is a file", "the last one in --output_dir is run/checkpoint-27"});
  refused({"--output_dir", "o", "--resume_from_checkpoint", "run"},
          {"Can't find a valid checkpoint at run", "--resume_from_checkpoint run/checkpoint-27"});
  refused({"--output_dir", "o", "--resume_from_checkpoint", last, "--max_train_samples", "100"},
          {"was 203", "is 100", "--max_train_samples"});
  refused({"--output_dir", "o", "--resume_from_checkpoint", last, "--per_device_train_batch_size", "2"},
          {"--per_device_train_batch_size was 4", "is 2"});
  refused({"--output_dir", "o", "--resume_from_checkpoint", last, "--seed", "7"},
          {"--seed", "was 42", "is 7"});
  refused({"--output_dir", "o", "--resume_from_checkpoint", last, "--dataloader_drop_last"},
          {"--dataloader_drop_last was false", "is true"});
  refused({"--output_dir", "o", "--resume_from_checkpoint", last, "--group_by_length"},
          {"--group_by_length was false", "is true"});
  refused({"--output_dir", "o", "--resume_from_checkpoint", last, "--optim", "adafactor"},
          {"--optim was adamw", "is adafactor"});
  // Another tokenizer; the checkpoint's own is the same.
  REQUIRE(place.trains({"--output_dir", "few", "--max_steps", "1", "--max_train_samples", "9"}).code == 0);
  const words with_tokenizer = {"--output_dir", "o", "--resume_from_checkpoint", last, "--max_steps", "27"};
  const auto of = [&](const std::string& directory) {
    words all = with_tokenizer;
    all.insert(all.end(), {"--tokenizer_name", directory});
    return all;
  };
  refused(of("few"), {last + ": its spiece.model is not few/spiece.model (--tokenizer_name few)",
                      "start a new run from its weights"});
  CHECK(place.trains(of("run")).code == 0);
  fs::remove_all(place.work() / "o");
  // Without a flag the last one is taken, so it is the one that is damaged.
  const fs::path state = place.work() / last / "t5zero_state.safetensors";
  const std::string whole = content_of(state);
  fs::resize_file(state, whole.size() - 1000);
  refused({"--output_dir", "run"}, {last, "t5zero_state.safetensors", "run/checkpoint-18"});
  std::string flipped = whole;
  flipped[flipped.size() / 2] = static_cast<char>(flipped[flipped.size() / 2] ^ 4);
  place.write(last + "/t5zero_state.safetensors", flipped);
  refused({"--output_dir", "run"}, {last, "checksum", "run/checkpoint-18"});
  place.write(last + "/t5zero_state.safetensors", whole);
  const fs::path manifest = place.work() / last / "t5zero_checkpoint.json";
  const std::string text = content_of(manifest);
  place.write(last + "/t5zero_checkpoint.json", text.substr(0, text.size() / 2));
  refused({"--output_dir", "run"}, {"t5zero_checkpoint.json", "run/checkpoint-18"});
  std::string renamed = text;
  renamed.replace(renamed.find("\"d_ff\": 128"), 11, "\"d_ff\": 256");
  place.write(last + "/t5zero_checkpoint.json", renamed);
  refused({"--output_dir", "run"}, {"another model", "d_ff is 256", "128"});
  std::string later = text;
  later.replace(later.find("\"batch\": 27"), 11, "\"batch\": 51");
  place.write(last + "/t5zero_checkpoint.json", later);
  refused({"--output_dir", "run"}, {"\"batch\" is more than an epoch of this data has"});
  fs::remove(manifest);
  refused({"--output_dir", "run"}, {"t5zero_checkpoint.json", "run/checkpoint-18"});
}

TEST_CASE("the best model, kept and loaded at the end", "[program]") {
  const training_sandbox place;
  const words evaluates = {"--validation_file",
                           "validation.jsonl",
                           "--eval_strategy",
                           "steps",
                           "--eval_steps",
                           "9",
                           "--save_total_limit",
                           "1",
                           "--load_best_model_at_end",
                           "--metric_for_best_model",
                           "eval_loss",
                           "--max_steps",
                           "45",
                           "--learning_rate",
                           "0.05"};
  words more = {"--output_dir", "best"};
  more.insert(more.end(), evaluates.begin(), evaluates.end());
  const outcome ended = place.trains(more);
  INFO(ended.err);
  REQUIRE(ended.code == 0);
  const nlohmann::json state = nlohmann::json::parse(place.file("best/trainer_state.json"));
  double best = 1e9;
  int step = 0;
  for (const auto& entry : state["log_history"]) {
    if (!entry.contains("eval_loss") || entry["eval_loss"].get<double>() >= best) continue;
    best = entry["eval_loss"].get<double>();
    step = entry["step"].get<int>();
  }
  CHECK(state["best_metric"].get<double>() == best);
  CHECK(state["best_global_step"].get<int>() == step);
  const std::string kept = "best/checkpoint-" + std::to_string(step);
  CHECK(state["best_model_checkpoint"] == kept);
  CHECK(place.file("best/model.safetensors") == place.file(kept + "/model.safetensors"));
  const nlohmann::json results = nlohmann::json::parse(place.file("best/eval_results.json"));
  CHECK(results["eval_loss"].get<double>() == best);
}

TEST_CASE("checkpoints of another run in the same directory go first", "[program]") {
  const training_sandbox place;
  const words limited = {"--output_dir", "out", "--overwrite_output_dir", "--save_total_limit", "1"};
  const auto with = [&](words more) {
    more.insert(more.end(), limited.begin(), limited.end());
    return place.trains(more);
  };
  REQUIRE(with({"--max_steps", "12", "--save_steps", "12"}).code == 0);
  REQUIRE(place.checkpoints("out") == words{"checkpoint-12"});
  REQUIRE(with({"--max_steps", "4", "--save_steps", "2"}).code == 0);
  CHECK(place.checkpoints("out") == words{"checkpoint-4"});
}

TEST_CASE("after a run that began anew in the directory of a longer one, its own checkpoints count",
          "[program]") {
  const training_sandbox place;
  const words longer = {"--output_dir", "out", "--max_steps", "30", "--save_steps", "10"};
  const auto with = [](words first, const words& more) {
    first.insert(first.end(), more.begin(), more.end());
    return first;
  };
  REQUIRE(place.trains(longer).code == 0);
  const std::string whole = place.file("out/model.safetensors");
  // It is killed after its first checkpoint, whose number is the lowest.
  const words anew = {"--learning_rate", "1e-3", "--overwrite_output_dir"};
  const auto kill_when = [&](const auto& holds) {
    t5zero_test::running_program run = place.starts(place.command(with(longer, anew)));
    REQUIRE(run.wait_until(holds));
    run.send(SIGKILL);
    (void)run.status();
  };
  const std::string first = "out/checkpoint-10/t5zero_checkpoint.json";
  const std::string of_longer = place.file(first);
  kill_when([&] { return place.file(first) != of_longer; });
  const auto number_of = [&](const std::string& checkpoint) {
    const std::string text = place.file("out/" + checkpoint + "/t5zero_checkpoint.json");
    return nlohmann::json::parse(text)["loop"]["run_number"].get<int>();
  };
  REQUIRE(number_of("checkpoint-30") == 1);
  const std::string newest = number_of("checkpoint-20") == 2 ? "checkpoint-20" : "checkpoint-10";
  const outcome resumed = place.trains(with(longer, {"--learning_rate", "1e-3"}));
  INFO(resumed.err);
  REQUIRE(resumed.code == 0);
  CHECK(resumed.err.find("Checkpoint detected, resuming training at out/" + newest + ".") !=
        std::string::npos);
  CHECK(resumed.err.find("out/checkpoint-30 is of an earlier one") != std::string::npos);
  CHECK(number_of("checkpoint-30") == 3);
  REQUIRE(place.trains({"--output_dir", "fresh", "--max_steps", "30", "--learning_rate", "1e-3"}).code == 0);
  CHECK(place.file("out/model.safetensors") == place.file("fresh/model.safetensors"));
  CHECK(place.file("out/model.safetensors") != whole);
}

TEST_CASE("a run that began anew and was killed without a checkpoint begins again", "[program]") {
  const training_sandbox place;
  const words command = {"--output_dir", "out", "--max_steps", "20", "--save_steps", "20"};
  REQUIRE(place.trains(command).code == 0);
  words anew = command;
  anew.insert(anew.end(), {"--overwrite_output_dir", "--learning_rate", "1e-3"});
  {
    t5zero_test::running_program run = place.starts(place.command(anew));
    REQUIRE(run.wait_until([&] { return fs::exists(place.work() / "out/.t5zero_run"); }));
    run.send(SIGKILL);
    (void)run.status();
  }
  // Of this command, else what is there is gone on from, and it is said whose it is.
  const outcome other = place.trains(command);
  INFO(other.err);
  CHECK(other.err.find("warning: it is of an earlier run") != std::string::npos);
  place.write("out/.t5zero_run", "");
  anew.erase(std::find(anew.begin(), anew.end(), "--overwrite_output_dir"));
  CHECK(place.trains(anew).err.find("Checkpoint detected") != std::string::npos);
  anew.push_back("--overwrite_output_dir");
  {
    t5zero_test::running_program run = place.starts(place.command(anew));
    REQUIRE(run.wait_until([&] { return fs::exists(place.work() / "out/.t5zero_run"); }));
    run.send(SIGKILL);
    (void)run.status();
  }
  anew.pop_back();
  const outcome again = place.trains(anew);
  INFO(again.err);
  CHECK(again.code == 0);
  CHECK(again.err.find("without a checkpoint of its own: it begins again") != std::string::npos);
}

TEST_CASE("resume_from_checkpoint as a truth value, in a file of arguments too", "[program]") {
  const training_sandbox place;
  REQUIRE(place.trains({"--output_dir", "out", "--max_steps", "9"}).code == 0);
  nlohmann::json arguments = {{"from_scratch", true},
                              {"config_name", "t5-tiny"},
                              {"source_lang", "en"},
                              {"target_lang", "ro"},
                              {"train_file", "train.jsonl"},
                              {"do_train", true},
                              {"per_device_train_batch_size", 4},
                              {"learning_rate", 3e-3},
                              {"max_steps", 12},
                              {"output_dir", "out"},
                              {"debug", nlohmann::json::array()},
                              {"deepspeed", {{"train_micro_batch_size_per_gpu", "auto"}}},
                              {"resume_from_checkpoint", true}};
  const std::string program = std::string(T5ZERO_BIN_DIR) + "/t5_tiny_plain";
  place.write("all.json", arguments.dump());
  const outcome resumed = place.run({program, "all.json"});
  INFO(resumed.err);
  CHECK(resumed.code == 0);
  CHECK(resumed.err.find("Continuing training from out/checkpoint-9") != std::string::npos);
  arguments["resume_from_checkpoint"] = false;
  place.write("all.json", arguments.dump());
  const outcome anew = place.run({program, "all.json"});
  INFO(anew.err);
  CHECK(anew.code == 0);
  CHECK(anew.err.find("Continuing") == std::string::npos);
}

TEST_CASE("metrics and generation lengths that make no sense are refused at once", "[program]") {
  const training_sandbox place;
  const auto refused = [&](const words& more, const std::string& named) {
    words all = {"--output_dir", "o", "--validation_file", "validation.jsonl"};
    all.insert(all.end(), more.begin(), more.end());
    const outcome ended = place.trains(all);
    INFO(ended.err);
    CHECK(ended.code == 2);
    CHECK(ended.err.find(named) != std::string::npos);
    CHECK(!fs::exists(place.work() / "o"));
  };
  refused({"--metric_for_best_model", "rouge"}, "--metric_for_best_model rouge");
  refused({"--metric_for_best_model", "bleu", "--load_best_model_at_end"}, "--predict_with_generate");
  refused({"--load_best_model_at_end"}, "--eval_strategy");
  refused({"--load_best_model_at_end", "--eval_strategy", "epoch"}, "strategy to match");
  refused({"--load_best_model_at_end", "--eval_strategy", "steps", "--eval_steps", "4", "--save_steps", "6"},
          "multiple of --eval_steps");
  refused({"--num_beams", "0"}, "--num_beams 0");
  refused({"--generation_num_beams", "0"}, "--generation_num_beams 0");
  refused({"--generation_max_length", "0"}, "--generation_max_length 0");
  refused({"--generation_max_length", "1"}, "--generation_max_length 1");
}
