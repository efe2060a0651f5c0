// The best evaluation: which one counts, whose checkpoint is kept and loaded at the end.
#include <filesystem>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "catch.hpp"
#include "program/training_sandbox.hpp"

using t5zero_test::outcome;
using t5zero_test::training_sandbox;
using t5zero_test::words;

namespace {

namespace fs = std::filesystem;

/// Evaluates after every update of a few. The losses fall, so with --greater_is_better the first evaluation
/// is the best unless a test says otherwise.
words evaluating(const std::string& output, const words& more) {
  words all = {"--output_dir",
               output,
               "--validation_file",
               "validation.jsonl",
               "--eval_strategy",
               "steps",
               "--eval_steps",
               "1",
               "--max_steps",
               "4",
               "--greater_is_better",
               "True",
               "--save_steps",
               "2",
               "--metric_for_best_model",
               "loss"};
  all.insert(all.end(), more.begin(), more.end());
  return all;
}

nlohmann::json state_of(const training_sandbox& place, const std::string& directory) {
  return nlohmann::json::parse(place.file(directory + "/trainer_state.json"));
}

/// The losses of the evaluations between updates and before them.
std::vector<double> evaluated(const nlohmann::json& state) {
  std::vector<double> losses;
  for (const auto& entry : state["log_history"])
    if (entry.contains("eval_loss")) losses.push_back(entry["eval_loss"].get<double>());
  return losses;
}

}  // namespace

TEST_CASE("the best evaluation that has a checkpoint is kept and loaded", "[program]") {
  const training_sandbox place;
  // This rate lets the loss rise until update 3, which is not saved.
  const outcome ended =
      place.trains(evaluating("out", {"--learning_rate", "0.5", "--max_steps", "8", "--save_total_limit", "1",
                                      "--load_best_model_at_end"}));
  INFO(ended.err);
  REQUIRE(ended.code == 0);
  const nlohmann::json state = state_of(place, "out");
  const std::vector<double> losses = evaluated(state);
  REQUIRE(losses.size() == 8);
  REQUIRE(losses[2] > losses[1]);
  REQUIRE(losses[1] > losses[3]);
  CHECK(state["best_global_step"] == 3);
  CHECK(state["best_metric"].get<double>() == losses[2]);
  CHECK(state["best_model_checkpoint"] == "out/checkpoint-2");
  CHECK(place.checkpoints("out") == words{"checkpoint-2", "checkpoint-8"});
  CHECK(place.file("out/model.safetensors") == place.file("out/checkpoint-2/model.safetensors"));
  CHECK(ended.err.find("Loading best model from out/checkpoint-2 (score: ") != std::string::npos);
}

TEST_CASE("a best evaluation without any checkpoint is named, not invented", "[program]") {
  const training_sandbox place;
  const outcome ended = place.trains(evaluating("out", {"--load_best_model_at_end"}));
  INFO(ended.err);
  REQUIRE(ended.code == 0);
  const nlohmann::json state = state_of(place, "out");
  CHECK(state["best_global_step"] == 1);
  CHECK(state["best_model_checkpoint"].is_null());
  CHECK(ended.err.find("--load_best_model_at_end: no evaluation that was the best so far has a checkpoint") !=
        std::string::npos);
  CHECK(place.file("out/model.safetensors") == place.file("out/checkpoint-4/model.safetensors"));
}

TEST_CASE("after a resume into another directory the best model is that of the first", "[program]") {
  const training_sandbox place;
  const words saves = {"--save_steps", "1", "--load_best_model_at_end"};
  const auto with = [&](words more) {
    more.insert(more.begin(), saves.begin(), saves.end());
    return more;
  };
  REQUIRE(place.trains(evaluating("first", with({}))).code == 0);
  REQUIRE(state_of(place, "first")["best_model_checkpoint"] == "first/checkpoint-1");
  // Another run's checkpoint of the same step lies where this one goes on.
  REQUIRE(place.trains(evaluating("second", with({"--seed", "7"}))).code == 0);
  const outcome ended = place.trains(
      evaluating("second", with({"--max_steps", "6", "--resume_from_checkpoint", "first/checkpoint-4/"})));
  INFO(ended.err);
  REQUIRE(ended.code == 0);
  const nlohmann::json state = state_of(place, "second");
  CHECK(state["best_global_step"] == 1);
  CHECK(state["best_model_checkpoint"] == "first/checkpoint-1");
  CHECK(place.file("second/model.safetensors") == place.file("first/checkpoint-1/model.safetensors"));
  CHECK(place.file("second/model.safetensors") != place.file("second/checkpoint-1/model.safetensors"));

  // A run's directory may move: its checkpoints name each other by their names alone.
  fs::rename(place.work() / "first", place.work() / "moved");
  const outcome moved = place.trains(evaluating("moved", with({"--max_steps", "5"})));
  INFO(moved.err);
  REQUIRE(moved.code == 0);
  CHECK(state_of(place, "moved")["best_model_checkpoint"] == "moved/checkpoint-1");
  CHECK(place.file("moved/model.safetensors") == place.file("moved/checkpoint-1/model.safetensors"));

  // The second run's last checkpoint still knows where its best lay, and says that it is gone.
  const outcome gone = place.trains(evaluating("second", with({"--max_steps", "7"})));
  INFO(gone.err);
  REQUIRE(gone.code == 0);
  CHECK(gone.err.find("first/checkpoint-1, is not there: the last weights are saved") != std::string::npos);
  CHECK(place.file("second/model.safetensors") == place.file("second/checkpoint-7/model.safetensors"));
}

TEST_CASE("the evaluation on start is logged and is no candidate for the best model", "[program]") {
  const training_sandbox place;
  const outcome ended = place.trains(
      evaluating("out", {"--eval_on_start", "--save_strategy", "best", "--load_best_model_at_end"}));
  INFO(ended.err);
  REQUIRE(ended.code == 0);
  const nlohmann::json state = state_of(place, "out");
  const std::vector<double> losses = evaluated(state);
  REQUIRE(losses.size() == 5);
  CHECK(state["log_history"][0]["step"] == 0);
  REQUIRE(losses[0] > losses[1]);
  CHECK(state["best_global_step"] == 1);
  CHECK(place.checkpoints("out") == words{"checkpoint-1"});
  CHECK(place.file("out/model.safetensors") == place.file("out/checkpoint-1/model.safetensors"));
}

TEST_CASE("eval_on_start alone evaluates once before training, and needs data to", "[program]") {
  const training_sandbox place;
  const words start = {"--output_dir",
                       "out",
                       "--validation_file",
                       "validation.jsonl",
                       "--eval_on_start",
                       "--max_steps",
                       "3",
                       "--save_strategy",
                       "no",
                       "--predict_with_generate"};
  const outcome refused = place.trains(start);
  INFO(refused.err);
  CHECK(refused.code == 2);
  CHECK(refused.err.find("--eval_on_start requires an evaluation dataset: give --do_eval") !=
        std::string::npos);
  words evaluates = start;
  evaluates.emplace_back("--do_eval");
  const outcome ended = place.trains(evaluates);
  INFO(ended.err);
  REQUIRE(ended.code == 0);
  const nlohmann::json state = state_of(place, "out");
  CHECK(evaluated(state).size() == 1);
  CHECK(state["log_history"][0]["step"] == 0);
  CHECK(state["log_history"][0].contains("eval_bleu"));
}

TEST_CASE("save_strategy best saves when an evaluation beats all before it", "[program]") {
  const training_sandbox place;
  const outcome falls = place.trains(
      evaluating("falls", {"--save_strategy", "best", "--greater_is_better", "False", "--max_steps", "3"}));
  INFO(falls.err);
  REQUIRE(falls.code == 0);
  CHECK(place.checkpoints("falls") == words{"checkpoint-1", "checkpoint-2", "checkpoint-3"});
  // Gone on from update 1 with the evaluation after it made up for: its checkpoint is the best.
  const auto manifest_at_1 = place.file("falls/checkpoint-1/t5zero_checkpoint.json");
  nlohmann::json owing = nlohmann::json::parse(manifest_at_1);
  owing["loop"]["owes_evaluation"] = true;
  owing["loop"]["best"] = nullptr;
  owing["loop"]["best_saved"] = nullptr;
  place.write("falls/checkpoint-1/t5zero_checkpoint.json", owing.dump());
  const outcome made_up =
      place.trains(evaluating("on", {"--save_steps", "5", "--max_steps", "3", "--load_best_model_at_end",
                                     "--resume_from_checkpoint", "falls/checkpoint-1"}));
  INFO(made_up.err);
  REQUIRE(made_up.code == 0);
  CHECK(state_of(place, "on")["best_model_checkpoint"] == "falls/checkpoint-1");
  CHECK(place.file("on/model.safetensors") == place.file("falls/checkpoint-1/model.safetensors"));
}

TEST_CASE("an evaluation that is not finite is never the best", "[program]") {
  const training_sandbox place;
  for (const char* greater : {"True", "False"}) {
    const outcome ended =
        place.trains(evaluating("out", {"--learning_rate", "1e30", "--eval_delay", "2", "--greater_is_better",
                                        greater, "--save_strategy", "best", "--overwrite_output_dir"}));
    INFO(ended.err);
    REQUIRE(ended.code == 0);
    // The evaluation after update 1, which is still finite, is left out by --eval_delay.
    const std::string state = place.file("out/trainer_state.json");
    CHECK(state.find("\"eval_loss\": NaN") != std::string::npos);
    CHECK(state.find("\"best_metric\": null") != std::string::npos);
    CHECK(state.find("\"best_global_step\": null") != std::string::npos);
    CHECK(place.checkpoints("out").empty());
  }
}

TEST_CASE("nobody asked for the best model: none is named", "[program]") {
  const training_sandbox place;
  REQUIRE(place
              .trains({"--output_dir", "out", "--validation_file", "validation.jsonl", "--eval_strategy",
                       "steps", "--eval_steps", "1", "--max_steps", "2"})
              .code == 0);
  const nlohmann::json state = state_of(place, "out");
  REQUIRE(evaluated(state).size() == 2);
  for (const char* key : {"best_metric", "best_global_step", "best_model_checkpoint"})
    CHECK(state[key].is_null());
  // A metric alone is asking, as in Hugging Face.
  REQUIRE(place.trains(evaluating("named", {"--max_steps", "2"})).code == 0);
  CHECK(state_of(place, "named")["best_global_step"] == 1);
}
