// Flags of a training that are seen only in what it does.
#include <cmath>
#include <filesystem>
#include <string>
#include <utility>
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

/// The bytes of all TensorBoard files of an output directory.
std::string events(const training_sandbox& place, const std::string& directory) {
  std::string all;
  const fs::path runs = place.work() / directory / "runs";
  if (!fs::exists(runs)) return all;
  for (const auto& entry : fs::recursive_directory_iterator(runs))
    if (entry.is_regular_file()) all += content_of(entry.path());
  return all;
}

/// The steps of the entries of the log that have `key`.
std::vector<int> steps_of(const training_sandbox& place, const std::string& directory,
                          const std::string& key) {
  std::vector<int> steps;
  const nlohmann::json state = nlohmann::json::parse(place.file(directory + "/trainer_state.json"));
  for (const auto& entry : state["log_history"])
    if (entry.contains(key)) steps.push_back(entry["step"].get<int>());
  return steps;
}

}  // namespace

TEST_CASE("the final evaluation reaches TensorBoard", "[program]") {
  const training_sandbox place;
  const words evaluates = {"--do_eval", "--validation_file", "validation.jsonl", "--report_to",
                           "tensorboard"};
  words trains = {"--output_dir", "trained", "--max_steps", "3", "--save_strategy", "no"};
  trains.insert(trains.end(), evaluates.begin(), evaluates.end());
  const outcome trained = place.trains(trains);
  INFO(trained.err);
  REQUIRE(trained.code == 0);
  const std::string of_training = events(place, "trained");
  CHECK(of_training.find("train/train_loss") != std::string::npos);
  CHECK(of_training.find("eval/loss") != std::string::npos);
  words alone = {std::string(T5ZERO_BIN_DIR) + "/t5_tiny_plain",
                 "--model_name_or_path",
                 "trained",
                 "--source_lang",
                 "en",
                 "--target_lang",
                 "ro",
                 "--output_dir",
                 "evaluated"};
  alone.insert(alone.end(), evaluates.begin(), evaluates.end());
  const outcome evaluated = place.run(alone);
  INFO(evaluated.err);
  REQUIRE(evaluated.code == 0);
  const std::string of_evaluation = events(place, "evaluated");
  CHECK(of_evaluation.find("eval/loss") != std::string::npos);
  CHECK(of_evaluation.find("train/epoch") == std::string::npos);
  // Nothing is logged of a prediction.
  alone.insert(alone.end(), {"--do_eval", "False", "--do_predict", "--test_file", "validation.jsonl",
                             "--output_dir", "predicted"});
  REQUIRE(place.run(alone).code == 0);
  CHECK(!fs::exists(place.work() / "predicted/runs"));
}

TEST_CASE("eval_delay leaves out the evaluations before it, by updates or by epochs", "[program]") {
  const training_sandbox place;
  const auto trains = [&](const words& more) {
    words all = {"--output_dir",    "out", "--overwrite_output_dir", "--validation_file", "validation.jsonl",
                 "--save_strategy", "no"};
    all.insert(all.end(), more.begin(), more.end());
    const outcome ended = place.trains(all);
    INFO(ended.err);
    REQUIRE(ended.code == 0);
    return steps_of(place, "out", "eval_loss");
  };
  CHECK(trains({"--eval_strategy", "steps", "--eval_steps", "2", "--max_steps", "8", "--eval_delay", "4"}) ==
        std::vector<int>{4, 6, 8});
  CHECK(trains({"--eval_strategy", "steps", "--eval_steps", "2", "--max_steps", "8", "--eval_delay", "5"}) ==
        std::vector<int>{6, 8});
  CHECK(trains({"--eval_strategy", "epoch", "--max_train_samples", "8", "--eval_delay", "2"}) ==
        std::vector<int>{4, 6});
}

TEST_CASE("logging_nan_inf_filter decides whether the log shows a loss that is not finite", "[program]") {
  const training_sandbox place;
  for (const bool filters : {true, false}) {
    CAPTURE(filters);
    const outcome ended = place.trains({"--output_dir", "out", "--overwrite_output_dir", "--max_steps", "6",
                                        "--logging_steps", "2", "--save_strategy", "no", "--learning_rate",
                                        "1e30", "--logging_nan_inf_filter", filters ? "True" : "False"});
    INFO(ended.out);
    REQUIRE(ended.code == 0);
    const std::string state = place.file("out/trainer_state.json");
    CHECK((state.find("\"loss\": NaN") == std::string::npos) == filters);
    CHECK((state.find("\"train_loss\": NaN") == std::string::npos) == filters);
  }
}

TEST_CASE("padding changes what is counted, and the loss where padding counts in it", "[program]") {
  const training_sandbox place;
  const auto trains = [&](const std::string& output, const words& more) {
    words all = {"--output_dir",    output, "--max_steps",         "4",  "--save_strategy",     "no",
                 "--logging_steps", "1",    "--max_source_length", "48", "--max_target_length", "40"};
    all.insert(all.end(), more.begin(), more.end());
    const outcome ended = place.trains(all);
    INFO(ended.err);
    REQUIRE(ended.code == 0);
    return nlohmann::json::parse(place.file(output + "/trainer_state.json"));
  };
  const nlohmann::json plain = trains("plain", {});
  const nlohmann::json padded = trains("padded", {"--pad_to_max_length"});
  // Masked padding changes no loss, and is counted among the operations: sources are all 48 tokens long.
  CHECK(place.losses("padded") == place.losses("plain"));
  CHECK(place.file("padded/model.safetensors") == place.file("plain/model.safetensors"));
  const double flos = padded["total_flos"].get<double>();
  CHECK(flos > plain["total_flos"].get<double>());
  CHECK(std::abs(flos / (6.0 * 4 * 4 * 48) - std::round(flos / (6.0 * 4 * 4 * 48))) < 1e-6);

  // With its labels in the loss padding is learnt, the more the longer it is.
  (void)trains("counted", {"--ignore_pad_token_for_loss", "False"});
  (void)trains("all", {"--ignore_pad_token_for_loss", "False", "--pad_to_max_length"});
  CHECK(place.losses("counted")[0] != place.losses("plain")[0]);
  CHECK(place.losses("all")[0] != place.losses("counted")[0]);
  const auto last_loss = [&](const char* directory) { return place.losses(directory)[3][1].get<double>(); };
  CHECK(last_loss("all") < last_loss("counted"));
  CHECK(last_loss("counted") < last_loss("plain"));
}

TEST_CASE("generation settings of a config.json are used and saved", "[program]") {
  const training_sandbox place;
  REQUIRE(place.trains({"--output_dir", "old", "--max_steps", "1", "--save_strategy", "no"}).code == 0);
  fs::remove(place.work() / "old/generation_config.json");
  nlohmann::json config = nlohmann::json::parse(place.file("old/config.json"));
  config.update({{"num_beams", 4}, {"no_repeat_ngram_size", 2}});
  place.write("old/config.json", config.dump());
  // Once more from what was saved.
  for (const auto& [from, to] : {std::pair("old", "tuned"), std::pair("tuned", "again")}) {
    words command = training_sandbox::one_update_from(from);
    command.insert(command.end(), {"--save_strategy", "no", "--output_dir", to});
    const outcome ended = place.run(command);
    INFO(ended.err);
    REQUIRE(ended.code == 0);
    const auto saved = nlohmann::json::parse(place.file(std::string(to) + "/generation_config.json"));
    CHECK(saved.value("num_beams", 0) == 4);
    CHECK(saved.value("no_repeat_ngram_size", 0) == 2);
    CHECK(saved.value("_from_model_config", false));
    CHECK(saved.value("eos_token_id", 0) == 1);
    CHECK(!saved.contains("d_model"));
  }
}

TEST_CASE("arguments beside a program that was found on PATH, and none of the working directory",
          "[program]") {
  const training_sandbox place;
  fs::create_directories(place.work() / "programs");
  fs::copy_file(std::string(T5ZERO_BIN_DIR) + "/t5_tiny_plain", place.work() / "programs/tiny");
  place.write("tiny.args", "--no_such_flag");
  place.write("programs/tiny.args", "--max_steps 2 --output_dir of_file");
  words command = training_sandbox::command({"--save_strategy", "no"});
  command[0] = "tiny";
  command.insert(command.begin(), {"/usr/bin/env", "PATH=" + (place.work() / "programs").string()});
  const outcome ended = place.run(command);
  INFO(ended.err);
  REQUIRE(ended.code == 0);
  CHECK(ended.err.find("arguments of " + (place.work() / "programs/tiny.args").string() +
                       " stand before those of the command line") != std::string::npos);
  CHECK(nlohmann::json::parse(place.file("of_file/trainer_state.json"))["global_step"] == 2);
}

TEST_CASE("run_translation says once which DeepSpeed configuration it found", "[program]") {
  const training_sandbox place;
  fs::create_directories(place.work() / "bin");
  fs::copy_file(std::string(T5ZERO_BIN_DIR) + "/run_translation", place.work() / "bin/run_translation");
  place.write("share/t5zero/config/ds_config_zero2.json",
              content_of(std::string(T5ZERO_SOURCE_DIR) + "/examples/config/ds_config_zero2.json"));
  const outcome ended =
      place.run({(place.work() / "bin/run_translation").string(), "--deepspeed",
                 "config/ds_config_zero2.json", "--model_name_or_path", "t5-small", "--train_file",
                 "train.jsonl", "--source_lang", "en", "--target_lang", "ro", "--do_train", "--plan"});
  INFO(ended.err);
  REQUIRE(ended.code == 0);
  const std::string notice = "--deepspeed config/ds_config_zero2.json: no such file here; using ";
  const std::size_t at = ended.err.find(notice);
  REQUIRE(at != std::string::npos);
  CHECK(ended.err.find(notice, at + 1) == std::string::npos);
}
