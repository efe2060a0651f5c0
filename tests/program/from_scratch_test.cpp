// Models that begin anew: which tokenizer they have, and that their vocabulary fits it.
#include <filesystem>
#include <string>

#include <nlohmann/json.hpp>

#include "catch.hpp"
#include "program/training_sandbox.hpp"

using t5zero_test::outcome;
using t5zero_test::training_sandbox;
using t5zero_test::words;

namespace {

/// The vocab_size of a saved model.
int vocabulary(const training_sandbox& place, const std::string& directory) {
  return nlohmann::json::parse(place.file(directory + "/config.json"))["vocab_size"].get<int>();
}

}  // namespace

TEST_CASE("tokenizer and vocabulary of a model from scratch", "[program]") {
  const training_sandbox place;
  const outcome first =
      place.trains({"--output_dir", "first", "--max_steps", "1", "--max_train_samples", "9"});
  INFO(first.err);
  REQUIRE(first.code == 0);
  CHECK(first.err.find("pieces, trained on the source and target sentences of 9 pairs") != std::string::npos);
  const int fitted = vocabulary(place, "first");

  // A named tokenizer: fitted as well.
  const outcome named =
      place.trains({"--output_dir", "named", "--max_steps", "1", "--tokenizer_name", "first"});
  INFO(named.err);
  REQUIRE(named.code == 0);
  CHECK(vocabulary(place, "named") == fitted);
  CHECK(place.file("named/spiece.model") == place.file("first/spiece.model"));

  // An output directory of the published model's name is no model until one is saved there.
  const outcome same_name =
      place.trains({"--output_dir", "t5-tiny", "--max_steps", "1", "--max_train_samples", "9"});
  INFO(same_name.err);
  REQUIRE(same_name.code == 0);
  CHECK(vocabulary(place, "t5-tiny") == fitted);
  std::filesystem::remove_all(place.work() / "t5-tiny");

  // --model_name_or_path beside --config_name: its tokenizer.
  const outcome of_model =
      place.trains({"--output_dir", "of_model", "--max_steps", "1", "--model_name_or_path", "first"});
  INFO(of_model.err);
  REQUIRE(of_model.code == 0);
  CHECK(
      of_model.err.find("--model_name_or_path first: with --from_scratch and --config_name its tokenizer") !=
      std::string::npos);
  CHECK(place.file("of_model/spiece.model") == place.file("first/spiece.model"));

  // A directory's tokenizer and vocabulary are its own; rows that are too few are added.
  nlohmann::json config = nlohmann::json::parse(place.file("first/config.json"));
  for (const int size : {fitted + 640, 64}) {
    config["vocab_size"] = size;
    place.write("first/config.json", config.dump());
    const outcome again = place.trains(
        {"--output_dir", "again", "--overwrite_output_dir", "--max_steps", "1", "--config_name", "first"});
    INFO(again.err);
    REQUIRE(again.code == 0);
    CHECK(again.err.find("pieces, trained") == std::string::npos);
    CHECK(vocabulary(place, "again") == (size > fitted ? size : fitted));
    CHECK(place.file("again/spiece.model") == place.file("first/spiece.model"));
  }

  // A token that somebody added.
  place.write("first/added_tokens.json", R"({"<city>": 32100})");
  const outcome added = place.trains({"--output_dir", "added", "--tokenizer_name", "first"});
  CHECK(added.code == 2);
  CHECK(added.err.find("first/added_tokens.json: it has \"<city>\", a token that was added") !=
        std::string::npos);
  std::filesystem::remove(place.work() / "first/added_tokens.json");

  // The weights of another model.
  words trains = training_sandbox::one_update_from("first");
  trains.insert(trains.end(), {"--output_dir", "other"});
  config["vocab_size"] = 10;
  place.write("first/config.json", config.dump());
  outcome refused = place.run(trains);
  CHECK(refused.code == 2);
  CHECK(refused.err.find("first/config.json: \"vocab_size\" is 10, and the weights have") !=
        std::string::npos);
  // A tokenizer of another model.
  const outcome large = place.trains({"--output_dir", "large", "--max_steps", "1"});
  REQUIRE(large.code == 0);
  config["vocab_size"] = fitted;
  place.write("first/config.json", config.dump());
  words with_other = trains;
  with_other.insert(with_other.end(), {"--tokenizer_name", "large"});
  refused = place.run(with_other);
  INFO(refused.err);
  CHECK(refused.code == 2);
  CHECK(refused.err.find("--tokenizer_name large: ") != std::string::npos);
  CHECK(refused.err.find("found without the flag") != std::string::npos);
}

TEST_CASE("texts that a tokenizer cannot be trained on, or that it does not know", "[program]") {
  const training_sandbox place;
  for (const char* text : {"", "  "}) {
    place.write("blank.jsonl",
                R"({"translation": {"en": ")" + std::string(text) + R"(", "ro": ")" + text + "\"}}\n");
    const outcome refused = place.trains({"--train_file", "blank.jsonl", "--output_dir", "blank"});
    INFO(refused.err);
    CHECK(refused.code == 2);
    CHECK(refused.err.find("--train_file blank.jsonl: no SentencePiece model can be trained") !=
          std::string::npos);
    CHECK(!std::filesystem::exists(place.work() / "blank"));
  }
  // Long lines are learnt from like short ones.
  std::string words_of_it;
  while (words_of_it.size() < 9000) words_of_it += "the quick brown fox jumps over 13 lazy dogs; ";
  std::string rows;
  for (int i = 0; i < 4; ++i)
    rows += nlohmann::json{{"translation", {{"en", words_of_it}, {"ro", words_of_it}}}}.dump() + "\n";
  rows += R"({"translation": {"en": "a b", "ro": "c"}})"
          "\n";
  place.write("long.jsonl", rows);
  const outcome learnt =
      place.trains({"--train_file", "long.jsonl", "--output_dir", "long", "--max_steps", "1"});
  INFO(learnt.err);
  REQUIRE(learnt.code == 0);
  CHECK(learnt.err.find("unknown tokens: 0\n") != std::string::npos);
  CHECK(learnt.err.find("unknown to the tokenizer") == std::string::npos);
  // Another alphabet.
  place.write("other.jsonl", R"({"translation": {"en": "a \u65e5\u672c \u8a9e a", "ro": "\u65e5 b"}})"
                             "\n");
  const outcome other = place.trains({"--train_file", "other.jsonl", "--tokenizer_name", "long",
                                      "--output_dir", "other", "--max_steps", "1"});
  INFO(other.err);
  REQUIRE(other.code == 0);
  CHECK(other.err.find("of the tokens of train are unknown to the tokenizer") != std::string::npos);
}
