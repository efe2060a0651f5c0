// Checkpoints from outside: runs that are killed, stopped, resumed; what is refused on the way.
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <filesystem>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include <fcntl.h>

#include <nlohmann/json.hpp>

#include "catch.hpp"
#include "program/child.hpp"

using t5zero_test::content_of;
using t5zero_test::outcome;
using t5zero_test::sandbox;

namespace {

namespace fs = std::filesystem;
using words = std::vector<std::string>;

/// Trains a tiny model with dropout for three epochs of 51 updates; the last batch of an epoch is short.
class resume_sandbox : public sandbox {
 public:
  resume_sandbox() {
    const std::string data = std::string(T5ZERO_SOURCE_DIR) + "/examples/data/en-ro/";
    write("train.jsonl", content_of(data + "train.jsonl"));
    write("validation.jsonl", content_of(data + "validation.jsonl"));
  }
  static words command(const words& more) {
    words all = {std::string(T5ZERO_BIN_DIR) + "/t5_tiny_plain",
                 "--from_scratch",
                 "--config_name",
                 "t5-tiny",
                 "--source_lang",
                 "en",
                 "--target_lang",
                 "ro",
                 "--train_file",
                 "train.jsonl",
                 "--do_train",
                 "--num_train_epochs",
                 "3",
                 "--per_device_train_batch_size",
                 "4",
                 "--learning_rate",
                 "3e-3",
                 "--logging_steps",
                 "5",
                 "--save_steps",
                 "9",
                 "--threads",
                 "2"};
    all.insert(all.end(), more.begin(), more.end());
    return all;
  }
  [[nodiscard]] outcome trains(const words& more) const { return run(command(more)); }
  [[nodiscard]] std::string file(const std::string& name) const { return content_of(work() / name); }

  /// step, loss, grad_norm, learning_rate of each log line.
  [[nodiscard]] nlohmann::json losses(const std::string& directory) const {
    nlohmann::json rows = nlohmann::json::array();
    const nlohmann::json state = nlohmann::json::parse(file(directory + "/trainer_state.json"));
    for (const auto& entry : state["log_history"]) {
      if (entry.contains("loss"))
        rows.push_back({entry["step"], entry["loss"], entry["grad_norm"], entry["learning_rate"]});
    }
    return rows;
  }
  [[nodiscard]] std::vector<std::string> checkpoints(const std::string& directory) const {
    std::vector<std::string> names;
    for (const auto& entry : fs::directory_iterator(work() / directory)) {
      const std::string name = entry.path().filename().string();
      if (name.find("checkpoint") != std::string::npos) names.push_back(name);
    }
    std::sort(names.begin(), names.end());
    return names;
  }

  /// Starts the command; sends `number` after `delay`; gives the exit status as waitpid has it.
  [[nodiscard]] int interrupted(const words& arguments, int number, std::chrono::milliseconds delay) const {
    const pid_t child = ::fork();
    if (child == 0) {
      std::vector<char*> argv;
      for (const std::string& argument : arguments) argv.push_back(const_cast<char*>(argument.c_str()));
      argv.push_back(nullptr);
      const int out = ::open((work().parent_path() / "log").c_str(), O_WRONLY | O_CREAT | O_APPEND, 0600);
      if (::chdir(work().c_str()) == 0 && ::dup2(out, 1) == 1 && ::dup2(out, 2) == 2)
        ::execv(argv[0], argv.data());
      ::_exit(127);
    }
    std::this_thread::sleep_for(delay);
    ::kill(child, number);
    int status = 0;
    ::waitpid(child, &status, 0);
    return status;
  }
};

}  // namespace

TEST_CASE("killed at 20 random moments, a run ends as if it had not been", "[program]") {
  const resume_sandbox place;
  const outcome whole = place.trains({"--output_dir", "whole"});
  INFO(whole.err);
  REQUIRE(whole.code == 0);

  const words command = place.command({"--output_dir", "killed", "--save_total_limit", "2"});
  std::mt19937 engine(20);
  int kills = 0;
  while (kills < 20) {
    // Saves are frequent and slow beside updates of this size, so many kills hit one.
    const int status = place.interrupted(command, SIGKILL, std::chrono::milliseconds(30 + engine() % 120));
    INFO(content_of(place.work().parent_path() / "log"));
    const bool ended = WIFEXITED(status);
    REQUIRE((!ended || WEXITSTATUS(status) == 0));
    if (ended) fs::remove_all(place.work() / "killed");  // ended before its signal: from the beginning again
    ++kills;
  }
  const outcome last = place.run(command);
  INFO(last.err);
  REQUIRE(last.code == 0);
  CHECK(place.file("killed/model.safetensors") == place.file("whole/model.safetensors"));
  CHECK(place.losses("killed") == place.losses("whole"));
  CHECK(place.checkpoints("killed") == std::vector<std::string>{"checkpoint-144", "checkpoint-153"});
  CHECK(!fs::exists(place.work() / "killed/.t5zero_run"));
}

TEST_CASE("train k and resume is train N, across an epoch and with accumulation", "[program]") {
  const resume_sandbox place;
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
  const resume_sandbox place;
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

TEST_CASE("SIGTERM and SIGINT save a checkpoint after the update", "[program]") {
  const resume_sandbox place;
  for (const int number : {SIGTERM, SIGINT}) {
    const std::string out = "stopped" + std::to_string(number);
    const words command =
        place.command({"--output_dir", out, "--save_strategy", "no", "--num_train_epochs", "2000"});
    const int status = place.interrupted(command, number, std::chrono::milliseconds(900));
    INFO(content_of(place.work().parent_path() / "log"));
    REQUIRE(WIFEXITED(status));
    CHECK(WEXITSTATUS(status) == 128 + number);
    const auto saved = place.checkpoints(out);
    REQUIRE(saved.size() == 1);
    CHECK(content_of(place.work().parent_path() / "log").find("--resume_from_checkpoint " + out) !=
          std::string::npos);
    CHECK(fs::exists(place.work() / out / saved[0] / "model.safetensors"));
  }
}

TEST_CASE("checkpoints that cannot be gone on from", "[program]") {
  const resume_sandbox place;
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
          {"Can't find a valid checkpoint at True"});
  refused({"--output_dir", "o", "--resume_from_checkpoint", "run"},
          {"Can't find a valid checkpoint at run", "t5zero_checkpoint.json"});
  refused({"--output_dir", "o", "--resume_from_checkpoint", last, "--max_train_samples", "100"},
          {"was 203", "is 100", "--max_train_samples"});
  refused({"--output_dir", "o", "--resume_from_checkpoint", last, "--per_device_train_batch_size", "2"},
          {"--per_device_train_batch_size was 4", "is 2"});
  refused({"--output_dir", "o", "--resume_from_checkpoint", last, "--seed", "7"},
          {"--seed", "was 42", "is 7"});
  refused({"--output_dir", "o", "--resume_from_checkpoint", last, "--optim", "adafactor"},
          {"--optim was adamw", "is adafactor"});
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
  fs::remove(manifest);
  refused({"--output_dir", "run"}, {"t5zero_checkpoint.json", "run/checkpoint-18"});
}

TEST_CASE("the best model, kept and loaded at the end", "[program]") {
  const resume_sandbox place;
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

TEST_CASE("metrics and generation lengths that make no sense are refused at once", "[program]") {
  const resume_sandbox place;
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
