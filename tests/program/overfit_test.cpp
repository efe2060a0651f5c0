// The whole chain at once: text files, tokenizer, training, generation, BLEU, generated_predictions.txt. A
// small model learns 200 pairs by heart and gives them back.
#include <sstream>
#include <string>

#include <nlohmann/json.hpp>

#include "catch.hpp"
#include "program/child.hpp"

using t5zero_test::content_of;
using t5zero_test::outcome;
using t5zero_test::sandbox;

TEST_CASE("200 pairs are learnt by heart", "[program]") {
  const sandbox place;
  std::istringstream all(content_of(std::string(T5ZERO_SOURCE_DIR) + "/examples/data/en-ro/train.jsonl"));
  std::string pairs;
  std::string references;
  std::string line;
  for (int i = 0; i < 200 && std::getline(all, line); ++i) {
    pairs.append(line).append("\n");
    references.append(i == 0 ? "" : "\n");
    references.append(nlohmann::json::parse(line)["translation"]["ro"].get<std::string>());
  }
  place.write("pairs.jsonl", pairs);
  place.write("config/config.json",
              R"({"model_type": "t5", "d_model": 64, "d_kv": 16, "d_ff": 128, "num_heads": 4, "num_layers": 2,
                  "vocab_size": 8192, "dropout_rate": 0.0})");
  const outcome ended = place.run({std::string(T5ZERO_BIN_DIR) + "/t5_tiny_plain",
                                   "--from_scratch",
                                   "--config_name",
                                   "config",
                                   "--source_lang",
                                   "en",
                                   "--target_lang",
                                   "ro",
                                   "--train_file",
                                   "pairs.jsonl",
                                   "--validation_file",
                                   "pairs.jsonl",
                                   "--test_file",
                                   "pairs.jsonl",
                                   "--do_train",
                                   "--do_eval",
                                   "--do_predict",
                                   "--predict_with_generate",
                                   "--num_train_epochs",
                                   "100",
                                   "--per_device_train_batch_size",
                                   "8",
                                   "--per_device_eval_batch_size",
                                   "32",
                                   "--learning_rate",
                                   "5e-3",
                                   "--warmup_steps",
                                   "50",
                                   "--save_strategy",
                                   "no",
                                   "--output_dir",
                                   "out"});
  INFO(ended.err);
  REQUIRE(ended.code == 0);
  const auto results = nlohmann::json::parse(content_of(place.work() / "out/all_results.json"));
  CHECK(results["eval_bleu"].get<double>() > 90.0);
  CHECK(results["predict_bleu"].get<double>() > 90.0);
  // Most lines of the file are the reference to the letter.
  std::istringstream expected(references);
  std::istringstream found(content_of(place.work() / "out/generated_predictions.txt"));
  int same = 0;
  for (std::string a, b; std::getline(expected, a) && std::getline(found, b);) same += a == b ? 1 : 0;
  CHECK(same > 180);
}
