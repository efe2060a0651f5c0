// Signals from outside: what a training saves before it ends, and how it says so.
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <filesystem>
#include <string>
#include <thread>
#include <vector>

#include <fcntl.h>

#include "catch.hpp"
#include "program/training_sandbox.hpp"

using t5zero_test::outcome;
using t5zero_test::running_program;
using t5zero_test::training_sandbox;
using t5zero_test::words;

namespace {

namespace fs = std::filesystem;

/// A training that would take minutes.
words endless(const std::string& out, words more = {}) {
  more.insert(more.begin(), {"--output_dir", out, "--save_strategy", "no", "--num_train_epochs", "20000"});
  return training_sandbox::command(more);
}

/// A pipe without room: who writes to it stands still until it is drained.
class full_pipe {
 public:
  full_pipe() {
    REQUIRE(::pipe2(ends_, O_CLOEXEC) == 0);
    REQUIRE(::fcntl(ends_[1], F_SETFL, O_NONBLOCK) == 0);
    while (::write(ends_[1], "\n", 1) == 1) {
    }
    REQUIRE(::fcntl(ends_[1], F_SETFL, 0) == 0);
  }
  full_pipe(const full_pipe&) = delete;
  full_pipe& operator=(const full_pipe&) = delete;
  ~full_pipe() {
    for (const int end : ends_) ::close(end);
  }
  [[nodiscard]] int writes() const { return ends_[1]; }
  /// Takes what is in it and what comes within half a second.
  void drain() const {
    REQUIRE(::fcntl(ends_[0], F_SETFL, O_NONBLOCK) == 0);
    std::string bytes(1 << 16, '\0');
    for (int i = 0; i < 50; ++i) {
      while (::read(ends_[0], bytes.data(), bytes.size()) > 0) {
      }
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
  }

 private:
  int ends_[2] = {-1, -1};
};

}  // namespace

TEST_CASE("SIGTERM, SIGINT and SIGHUP save a checkpoint after the update", "[program]") {
  const training_sandbox place;
  for (const int number : {SIGTERM, SIGINT, SIGHUP}) {
    const std::string out = "stopped" + std::to_string(number);
    running_program run = place.starts(endless(out));
    REQUIRE(run.wait_until([&] { return place.log().find("'loss'") != std::string::npos; }));
    run.send(number);
    const int status = run.status();
    INFO(place.log());
    REQUIRE(WIFEXITED(status));
    CHECK(WEXITSTATUS(status) == 128 + number);
    const auto saved = place.checkpoints(out);
    REQUIRE(saved.size() == 1);
    CHECK(place.log().find("--resume_from_checkpoint " + out) != std::string::npos);
    CHECK(fs::exists(place.work() / out / saved[0] / "model.safetensors"));
    fs::remove(place.log_file());
  }
}

TEST_CASE("the signal that timeout sends twice is one wish", "[program]") {
  const training_sandbox place;
  words command = endless("stopped");
  command.insert(command.begin(), {"/usr/bin/timeout", "2"});
  running_program run = place.starts(command);
  const int status = run.status();
  INFO(place.log());
  REQUIRE(WIFEXITED(status));
  CHECK(WEXITSTATUS(status) == 124);
  CHECK(place.checkpoints("stopped").size() == 1);
}

TEST_CASE("a second signal ends the program at once, unless it comes with the first", "[program]") {
  const training_sandbox place;
  for (const bool together : {true, false}) {
    CAPTURE(together);
    const std::string out = together ? "together" : "apart";
    // Blocked, it cannot reach the end of the update.
    const full_pipe pipe;
    running_program run = place.starts(endless(out), pipe.writes());
    REQUIRE(run.wait_until([&] { return fs::exists(place.work() / out / ".t5zero_run"); }));
    std::this_thread::sleep_for(std::chrono::milliseconds(500));
    run.send(SIGTERM);
    std::this_thread::sleep_for(std::chrono::milliseconds(together ? 100 : 1300));
    CHECK(!run.ended());
    run.send(SIGTERM);
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
    CHECK(run.ended() == !together);
    pipe.drain();
    const int status = run.status();
    INFO(place.log());
    REQUIRE(WIFEXITED(status));
    CHECK(WEXITSTATUS(status) == 143);
    CHECK(place.checkpoints(out).size() == (together ? 1 : 0));
  }
}

TEST_CASE("a signal breaks off an evaluation between updates, and the resumed run begins with it",
          "[program]") {
  const training_sandbox place;
  const std::string line = place.file("validation.jsonl");
  std::string many;
  for (int i = 0; i < 400; ++i) many += line;  // minutes of generation
  place.write("many.jsonl", many);
  const words evaluates = {
      "--eval_strategy", "steps", "--eval_steps", "5",          "--predict_with_generate",
      "--max_steps",     "7",     "--output_dir", "evaluating", "--validation_file"};
  words command = training_sandbox::command(evaluates);
  command.emplace_back("many.jsonl");
  running_program run = place.starts(command);
  REQUIRE(run.wait_until([&] { return place.log().find("'loss'") != std::string::npos; }));
  std::this_thread::sleep_for(std::chrono::milliseconds(500));
  run.send(SIGINT);
  const int status = run.status();
  INFO(place.log());
  REQUIRE(WIFEXITED(status));
  CHECK(WEXITSTATUS(status) == 128 + SIGINT);
  CHECK(place.log().find("again, a second or more from now: at once") != std::string::npos);
  CHECK(place.log().find("The evaluation after update 5 is left out") != std::string::npos);
  CHECK(place.checkpoints("evaluating") == words{"checkpoint-5"});
  words more = evaluates;
  more.emplace_back("validation.jsonl");
  const outcome resumed = place.trains(more);
  INFO(resumed.err);
  REQUIRE(resumed.code == 0);
  const nlohmann::json state = nlohmann::json::parse(place.file("evaluating/trainer_state.json"));
  const auto evaluated_at_5 = [](const nlohmann::json& entry) {
    return entry.contains("eval_loss") && entry["step"] == 5;
  };
  CHECK(std::count_if(state["log_history"].begin(), state["log_history"].end(), evaluated_at_5) == 1);
}

TEST_CASE("a signal in the evaluation after the last update costs no figures", "[program]") {
  const training_sandbox place;
  const std::string line = place.file("validation.jsonl");
  std::string many;
  for (int i = 0; i < 400; ++i) many += line;  // minutes of generation
  place.write("many.jsonl", many);
  const words evaluates = {"--eval_strategy", "steps", "--eval_steps", "5",   "--predict_with_generate",
                           "--max_steps",     "5",     "--output_dir", "out", "--validation_file"};
  words command = training_sandbox::command(evaluates);
  command.emplace_back("many.jsonl");
  running_program run = place.starts(command);
  REQUIRE(run.wait_until([&] { return place.log().find("'loss'") != std::string::npos; }));
  std::this_thread::sleep_for(std::chrono::milliseconds(500));
  run.send(SIGTERM);
  const int status = run.status();
  INFO(place.log());
  REQUIRE(WIFEXITED(status));
  CHECK(WEXITSTATUS(status) == 128 + SIGTERM);
  const auto summaries = [&] {
    const nlohmann::json state = nlohmann::json::parse(place.file("out/trainer_state.json"));
    nlohmann::json found = nlohmann::json::array();
    for (const auto& entry : state["log_history"])
      if (entry.contains("train_runtime")) found.push_back(entry);
    return found;
  };
  const nlohmann::json before = summaries();
  REQUIRE(before.size() == 1);
  words more = evaluates;
  more.emplace_back("validation.jsonl");
  const outcome resumed = place.trains(more);
  INFO(resumed.err);
  REQUIRE(resumed.code == 0);
  CHECK(summaries() == before);
  const nlohmann::json history = nlohmann::json::parse(place.file("out/trainer_state.json"))["log_history"];
  REQUIRE(history.size() == 3);
  CHECK(history[1].contains("eval_loss"));
  CHECK(history[2].contains("train_runtime"));
  CHECK(place.file("out/training_report.html").find("training time") != std::string::npos);
}

TEST_CASE("a training of very many updates takes memory for those that it makes", "[program]") {
  const training_sandbox place;
  running_program run = place.starts(endless("out", {"--max_steps", "1000000000"}));
  REQUIRE(run.wait_until([&] { return place.log().find("'loss'") != std::string::npos; }));
  run.send(SIGTERM);
  const int status = run.status();
  INFO(place.log());
  REQUIRE(WIFEXITED(status));
  CHECK(WEXITSTATUS(status) == 128 + SIGTERM);
}

TEST_CASE("a stopped run of --save_only_model can go on", "[program]") {
  const training_sandbox place;
  running_program run = place.starts(endless("stopped", {"--save_only_model"}));
  REQUIRE(run.wait_until([&] { return place.log().find("'loss'") != std::string::npos; }));
  run.send(SIGTERM);
  (void)run.status();
  INFO(place.log());
  const auto saved = place.checkpoints("stopped");
  REQUIRE(saved.size() == 1);
  const std::string step = saved[0].substr(saved[0].find('-') + 1);
  const outcome resumed =
      place.trains({"--output_dir", "on", "--max_steps", std::to_string(std::stoi(step) + 1),
                    "--resume_from_checkpoint", "stopped/" + saved[0]});
  INFO(resumed.err);
  CHECK(resumed.code == 0);
}

TEST_CASE("a signal while the final model is saved leaves evaluation out", "[program]") {
  const training_sandbox place;
  const full_pipe pipe;
  // The summary is the first line on standard output.
  running_program run =
      place.starts(training_sandbox::command({"--output_dir", "out", "--max_steps", "9", "--logging_strategy",
                                              "no", "--do_eval", "--validation_file", "validation.jsonl"}),
                   pipe.writes());
  REQUIRE(run.wait_until([&] { return fs::exists(place.work() / "out/checkpoint-9"); }));
  std::this_thread::sleep_for(std::chrono::milliseconds(500));
  run.send(SIGTERM);
  pipe.drain();
  const int status = run.status();
  INFO(place.log());
  REQUIRE(WIFEXITED(status));
  CHECK(WEXITSTATUS(status) == 143);
  CHECK(fs::exists(place.work() / "out/model.safetensors"));
  CHECK(fs::exists(place.work() / "out/train_results.json"));
  CHECK(!fs::exists(place.work() / "out/eval_results.json"));
  CHECK(place.log().find("left out") != std::string::npos);
}

TEST_CASE("a second run in a directory is refused while the first one lives", "[program]") {
  const training_sandbox place;
  running_program run = place.starts(endless("shared"));
  REQUIRE(run.wait_until([&] { return place.log().find("'loss'") != std::string::npos; }));
  const words evaluation = {std::string(T5ZERO_BIN_DIR) + "/t5_tiny_plain",
                            "--from_scratch",
                            "--config_name",
                            "t5-tiny",
                            "--source_lang",
                            "en",
                            "--target_lang",
                            "ro",
                            "--validation_file",
                            "validation.jsonl",
                            "--do_eval",
                            "--output_dir",
                            "shared"};
  for (const outcome& second : {place.trains({"--output_dir", "shared", "--overwrite_output_dir"}),
                                place.trains({"--output_dir", "shared"}), place.run(evaluation)}) {
    INFO(second.err);
    CHECK(second.code == 2);
    CHECK(second.err.find("--output_dir shared: another run (process " + std::to_string(run.id())) !=
          std::string::npos);
  }
  CHECK(!run.ended());
  run.send(SIGKILL);
  (void)run.status();
  // A kill leaves the file, not the lock.
  CHECK(fs::exists(place.work() / "shared/.t5zero_lock"));
  const outcome next = place.trains({"--output_dir", "shared", "--max_steps", "3", "--overwrite_output_dir"});
  INFO(next.err);
  CHECK(next.code == 0);
  CHECK(!fs::exists(place.work() / "shared/.t5zero_lock"));
}

TEST_CASE("a run that diverges says so and keeps what it can go on from", "[program]") {
  const training_sandbox place;
  REQUIRE(place.trains({"--output_dir", "out", "--max_steps", "9"}).code == 0);
  const outcome diverged = place.trains(
      {"--output_dir", "out", "--max_steps", "36", "--learning_rate", "1e30", "--save_total_limit", "1"});
  INFO(diverged.err);
  REQUIRE(diverged.code == 0);
  CHECK(place.checkpoints("out") == words{"checkpoint-36", "checkpoint-9"});
  const std::string first = "warning: the gradients of update ";
  const std::size_t at = diverged.err.find(first);
  REQUIRE(at != std::string::npos);
  const std::size_t last = diverged.err.rfind(first);
  CHECK(diverged.err.find(first, at + 1) == last);  // once when it happens, once at the end
  CHECK(diverged.err.find("is of no use. The last checkpoint before: out/checkpoint-9", last) !=
        std::string::npos);
}

TEST_CASE("nobody needs to read what a training prints", "[program]") {
  const training_sandbox place;
  std::string line;
  for (const std::string& word : training_sandbox::command({"--output_dir", "out", "--max_steps", "40"}))
    line += "'" + word + "' ";
  running_program run = place.starts({"/bin/sh", "-c", line + "| head -n 1"});
  const int status = run.status();
  INFO(place.log());
  REQUIRE(WIFEXITED(status));
  CHECK(fs::exists(place.work() / "out/train_results.json"));
}
