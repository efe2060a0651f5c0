// Prediction and the programs that translate, from text files to text files.
#include <algorithm>
#include <filesystem>
#include <iterator>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "catch.hpp"
#include "program/child.hpp"

using t5zero_test::content_of;
using t5zero_test::outcome;
using t5zero_test::sandbox;

namespace {

namespace fs = std::filesystem;
using words = std::vector<std::string>;

const std::string bin = T5ZERO_BIN_DIR;
const std::string data = std::string(T5ZERO_SOURCE_DIR) + "/examples/data/en-ro/";

/// Leaves a tiny model, one update old, in "model".
void train_model(const sandbox& place) {
  REQUIRE(place
              .run({bin + "/t5_tiny_plain", "--from_scratch", "--config_name", "t5-tiny", "--train_file",
                    data + "train.jsonl", "--do_train", "--max_steps", "1", "--output_dir", "model",
                    "--source_lang", "en", "--target_lang", "ro"})
              .code == 0);
}

}  // namespace

TEST_CASE("every file of a training, evaluation and prediction, with its keys", "[program]") {
  const sandbox place;
  const outcome ended = place.run({bin + "/t5_tiny_plain",
                                   "--from_scratch",
                                   "--config_name",
                                   "t5-tiny",
                                   "--source_lang",
                                   "en",
                                   "--target_lang",
                                   "ro",
                                   "--train_file",
                                   data + "train.jsonl",
                                   "--validation_file",
                                   data + "validation.jsonl",
                                   "--test_file",
                                   data + "test.jsonl",
                                   "--do_train",
                                   "--do_eval",
                                   "--do_predict",
                                   "--predict_with_generate",
                                   "--max_steps",
                                   "6",
                                   "--save_steps",
                                   "4",
                                   "--logging_steps",
                                   "2",
                                   "--output_dir",
                                   "out",
                                   "--generation_max_length",
                                   "12",
                                   "--num_beams",
                                   "2",
                                   "--report_to",
                                   "tensorboard",
                                   "--logging_dir",
                                   "runs"});
  INFO(ended.err);
  REQUIRE(ended.code == 0);
  const fs::path out = place.work() / "out";
  for (const char* name :
       {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json",
        "tokenizer_config.json", "special_tokens_map.json", "spiece.model", "trainer_state.json",
        "generated_predictions.txt", "README.md", "training_report.html", "checkpoint-4/model.safetensors",
        "checkpoint-4/trainer_state.json", "checkpoint-6/config.json"}) {
    CAPTURE(name);
    CHECK(fs::exists(out / name));
  }
  CHECK(std::distance(fs::directory_iterator(place.work() / "runs"), {}) == 1);
  const auto keys = [&](const char* name) {
    const nlohmann::json json = nlohmann::json::parse(content_of(out / name));
    words found;
    for (const auto& [key, value] : json.items()) found.push_back(key);
    return found;
  };
  const words train = {"epoch",
                       "total_flos",
                       "train_loss",
                       "train_runtime",
                       "train_samples",
                       "train_samples_per_second",
                       "train_steps_per_second"};
  const words eval = {"epoch",
                      "eval_bleu",
                      "eval_gen_len",
                      "eval_loss",
                      "eval_runtime",
                      "eval_samples",
                      "eval_samples_per_second",
                      "eval_steps_per_second"};
  const words predict = {"predict_bleu",
                         "predict_gen_len",
                         "predict_loss",
                         "predict_runtime",
                         "predict_samples",
                         "predict_samples_per_second",
                         "predict_steps_per_second"};
  CHECK(keys("train_results.json") == train);
  CHECK(keys("eval_results.json") == eval);
  CHECK(keys("predict_results.json") == predict);
  words all = eval;
  all.insert(all.end(), predict.begin(), predict.end());
  all.insert(all.end(), train.begin() + 1, train.end());
  CHECK(keys("all_results.json") == all);
  const words state = {"best_global_step",
                       "best_metric",
                       "best_model_checkpoint",
                       "epoch",
                       "eval_steps",
                       "global_step",
                       "is_hyper_param_search",
                       "is_local_process_zero",
                       "is_world_process_zero",
                       "log_history",
                       "logging_steps",
                       "max_steps",
                       "num_input_tokens_seen",
                       "num_train_epochs",
                       "save_steps",
                       "stateful_callbacks",
                       "total_flos",
                       "train_batch_size",
                       "trial_name",
                       "trial_params"};
  CHECK(keys("trainer_state.json") == state);
  const std::string lines = content_of(out / "generated_predictions.txt");
  CHECK(std::count(lines.begin(), lines.end(), '\n') == 19);  // 20 lines, no final line break
}

TEST_CASE("test data without references is translated, BLEU is skipped", "[program]") {
  const sandbox place;
  const words common = {"--source_lang",           "en", "--target_lang", "ro", "--predict_with_generate",
                        "--generation_max_length", "8"};
  const auto with = [&](words first) {
    first.insert(first.end(), common.begin(), common.end());
    return first;
  };
  train_model(place);
  place.write("test.jsonl",
              "{\"translation\": {\"en\": \"One.\"}}\n{\"translation\": {\"en\": \"Two, three.\"}}\n");
  place.write("test.csv", "en\nOne.\n\"Two, three.\"\n");
  for (const char* file : {"test.jsonl", "test.csv"}) {
    const outcome ended = place.run(with({bin + "/t5_tiny_plain", "--model_name_or_path", "model",
                                          "--test_file", file, "--do_predict", "--output_dir", "out"}));
    INFO(ended.err);
    REQUIRE(ended.code == 0);
    const auto results = nlohmann::json::parse(content_of(place.work() / "out/predict_results.json"));
    CHECK(!results.contains("predict_bleu"));
    CHECK(!results.contains("predict_loss"));
    CHECK(results["predict_samples"] == 2);
    const std::string lines = content_of(place.work() / "out/generated_predictions.txt");
    CHECK(std::count(lines.begin(), lines.end(), '\n') == 1);
  }
}

TEST_CASE("a model's generation_config.json, and one named on the command line", "[program]") {
  const sandbox place;
  train_model(place);
  const auto predict = [&](const words& more) {
    words all = {bin + "/t5_tiny_plain",
                 "--model_name_or_path",
                 "model",
                 "--source_lang",
                 "en",
                 "--target_lang",
                 "ro",
                 "--test_file",
                 data + "test.jsonl",
                 "--do_predict",
                 "--output_dir",
                 "out",
                 "--max_predict_samples",
                 "3",
                 "--predict_with_generate"};
    all.insert(all.end(), more.begin(), more.end());
    return place.run(all);
  };
  const auto longest = [&] {
    return nlohmann::json::parse(content_of(place.work() / "out/predict_results.json"))["predict_gen_len"]
        .get<double>();
  };
  // The end is forbidden before and no token, the start's pad included, comes twice: exactly this many count.
  place.write("model/generation_config.json",
              R"({"max_new_tokens": 5, "min_new_tokens": 5, "no_repeat_ngram_size": 1})");
  outcome ended = predict({});
  INFO(ended.err);
  REQUIRE(ended.code == 0);
  CHECK(longest() == 5.0);
  const std::string other =
      place.write("other.json", R"({"max_new_tokens": 3, "min_new_tokens": 3, "no_repeat_ngram_size": 1})");
  REQUIRE(predict({"--generation_config", other}).code == 0);
  CHECK(longest() == 3.0);
  const std::string wrong = place.write("wrong.json", R"({"num_beam_groups": 3})");
  ended = predict({"--generation_config", wrong});
  CHECK(ended.code == 2);
  CHECK(ended.err.find("wrong.json: \"num_beam_groups\" is 3") != std::string::npos);
  ended = predict({"--generation_config", "nosuch.json"});
  CHECK(ended.code == 2);
  CHECK(ended.err.find("--generation_config nosuch.json: no such file") != std::string::npos);
  // Its keys survive a training.
  REQUIRE(place
              .run({bin + "/t5_tiny_plain", "--model_name_or_path", "model", "--train_file",
                    data + "train.jsonl", "--do_train", "--max_steps", "1", "--output_dir", "again",
                    "--source_lang", "en", "--target_lang", "ro"})
              .code == 0);
  const auto saved = nlohmann::json::parse(content_of(place.work() / "again/generation_config.json"));
  CHECK(saved["max_new_tokens"] == 5);
  CHECK(saved["eos_token_id"] == 1);
}

TEST_CASE("translations take the place of nothing but an earlier output", "[program]") {
  const sandbox place;
  train_model(place);
  const auto translate = [&](const words& more) {
    words all = {bin + "/t5_tiny_translate", "model", "--max_length", "6"};
    all.insert(all.end(), more.begin(), more.end());
    return place.run(all);
  };
  const fs::path out = place.work() / "out.txt";
  place.write("in.txt", "One.\n\nTwo.\n");
  place.write("wrong.txt", "One.\n\xff\n");
  place.write("out.txt", "before\n");
  SECTION("the input is refused as output") {
    for (const char* same : {"in.txt", "./in.txt"}) {
      const outcome ended = translate({"--input", "in.txt", "--output", same});
      CHECK(ended.code == 2);
      CHECK(ended.err.find(std::string("--output ") + same + ": is the file of --input") !=
            std::string::npos);
    }
    CHECK(content_of(place.work() / "in.txt") == "One.\n\nTwo.\n");
  }
  SECTION("an error leaves the earlier output") {
    const auto before = place.contents();
    CHECK(translate({"--input", "wrong.txt", "--output", "out.txt", "--batch_size", "1"}).code == 2);
    CHECK(place.contents() == before);
  }
  SECTION("the lines before one that is wrong are translated") {
    const outcome right = translate({"--input", "in.txt"});
    place.write("half.txt", "One.\n\nTwo.\nT\xff\nThree.\n");
    const outcome half = translate({"--input", "half.txt", "--batch_size", "16"});
    CHECK(half.code == 2);
    CHECK(half.err.find("half.txt:4: not UTF-8") != std::string::npos);
    CHECK(half.out == right.out);
  }
  SECTION("what a generation would refuse names the file") {
    place.write("model/generation_config.json", R"({"forced_eos_token_id": 1000000})");
    const outcome forced = translate({"--input", "in.txt"});
    CHECK(forced.code == 2);
    CHECK(forced.err.find("model/generation_config.json: \"forced_eos_token_id\" is 1000000; an id below") !=
          std::string::npos);
    CHECK(forced.err.find(".hpp") == std::string::npos);
  }
  SECTION("a generation_config of one's own stands over the model's, and its unknown keys are named") {
    place.write("model/generation_config.json", R"({"do_sample": true, "max_time": 3})");
    const outcome refused = translate({"--input", "in.txt"});
    CHECK(refused.code == 2);
    CHECK(refused.err.find("model/generation_config.json: \"max_time\" is 3") != std::string::npos);
    place.write("own.json", R"({"num_beam": 4, "no_repeat_ngram": 2})");
    const outcome own = translate({"--input", "in.txt", "--generation_config", "own.json"});
    INFO(own.err);
    CHECK(own.code == 0);
    CHECK(own.err.find("own.json: \"num_beam\" is no key of generation and has no effect; did you mean "
                       "\"num_beams\"?") != std::string::npos);
    CHECK(own.err.find("did you mean \"no_repeat_ngram_size\"?") != std::string::npos);
    place.write("model/generation_config.json", R"({"do_sample": true})");
    CHECK(translate({"--input", "in.txt", "--do_sample=false", "--num_beams", "2"}).code == 0);
  }
  SECTION("a bare name, and what the shell opened") {
    const outcome streamed = translate({"--input", "in.txt"});
    REQUIRE(streamed.code == 0);
    REQUIRE(translate({"--input", "in.txt", "--output", "fresh.txt"}).code == 0);
    CHECK(content_of(place.work() / "fresh.txt") == streamed.out);
    CHECK(translate({"--input", "in.txt", "--output", "/dev/stdout"}).out == streamed.out);
  }
  SECTION("else it is replaced") {
    const outcome streamed = translate({"--input", "in.txt"});
    REQUIRE(streamed.code == 0);
    REQUIRE(translate({"--input", "in.txt", "--output", "out.txt"}).code == 0);
    CHECK(content_of(out) == streamed.out);
    CHECK(std::count(streamed.out.begin(), streamed.out.end(), '\n') == 3);
  }
  SECTION("what is sampled for a line depends on its number, not on the lines beside it") {
    place.write("in.txt", "One.\n\nOne.\nOne.\n\n\nOne.\nTwo.\n");
    const words sampled = {"--input", "in.txt", "--do_sample", "--batch_size"};
    const auto in_batches_of = [&](const std::string& size) {
      words all = sampled;
      all.push_back(size);
      const outcome ended = translate(all);
      REQUIRE(ended.code == 0);
      return ended.out;
    };
    const std::string one = in_batches_of("1");
    CHECK(in_batches_of("3") == one);
    CHECK(in_batches_of("8") == one);
  }
  SECTION("a reader that leaves ends the program quietly") {
    std::string lines;
    for (int i = 0; i < 2000; ++i) lines += "One.\n";
    place.write("in.txt", lines);
    const outcome ended = place.run(
        {"/bin/sh", "-c", bin + "/t5_tiny_translate model --max_length 3 --input in.txt | head -n 1"});
    CHECK(ended.code == 0);
    CHECK(ended.err.empty());
  }
}

TEST_CASE("a tokenizer that does not belong to the model is refused before the first line", "[program]") {
  const sandbox place;
  train_model(place);
  // Of more pairs a larger tokenizer is made.
  std::string many;
  for (int i = 0; i < 400; ++i) {
    many += R"({"translation": {"en": "word)" + std::to_string(i * 7919) + R"( house", "ro": "cuv)" +
            std::to_string(i * 104729) + " casa\"}}\n";
  }
  place.write("many.jsonl", many);
  REQUIRE(place
              .run({bin + "/t5_tiny_plain", "--from_scratch", "--config_name", "t5-tiny", "--train_file",
                    "many.jsonl", "--do_train", "--max_steps", "1", "--output_dir", "other", "--source_lang",
                    "en", "--target_lang", "ro"})
              .code == 0);
  const fs::path small = place.work() / "model/spiece.model";
  const fs::path large = place.work() / "other/spiece.model";
  REQUIRE(fs::file_size(large) > fs::file_size(small));
  fs::copy_file(large, small, fs::copy_options::overwrite_existing);
  place.write("in.txt", "The house.\n");
  const outcome ended = place.run({bin + "/t5_tiny_translate", "--model_name_or_path", "model", "--input",
                                   "in.txt", "--output", "out.txt"});
  INFO(ended.err);
  CHECK(ended.code == 2);
  CHECK(ended.err.find("model/spiece.model has ") != std::string::npos);
  CHECK(ended.err.find("they do not belong together; give the model's own tokenizer") != std::string::npos);
  CHECK(!fs::exists(place.work() / "out.txt"));
}
