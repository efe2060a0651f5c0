// Tokens that users added are found in every file that may hold them.
#include <t5zero/io/added_tokens.hpp>

#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <string>

#include <t5zero/io/tokenizer_json.hpp>

#include "catch.hpp"

TEST_CASE("a tokenizer with tokens beyond T5's is refused, naming file and token", "[io]") {
  namespace fs = std::filesystem;
  const fs::path directory = fs::temp_directory_path() / ("t5zero_added." + std::to_string(::getpid()));
  fs::create_directories(directory);
  const auto refusal = [&](const char* file, const std::string& text) {
    std::ofstream(directory / file) << text;
    std::string what = "nothing thrown";
    try {
      t5zero::check_added_tokens(directory);
    } catch (const t5zero::input_error& refused) {
      what = refused.what();
    }
    fs::remove(directory / file);
    return what;
  };
  const auto is_refused = [&](const char* file, const std::string& text) {
    const std::string what = refusal(file, text);
    CAPTURE(file, what);
    CHECK(what.find((directory / file).string() + ": ") == 0);
    CHECK(what.find("\"<city>\"") != std::string::npos);
  };
  is_refused("added_tokens.json", R"({"<extra_id_0>": 32099, "<city>": 32100})");
  is_refused("tokenizer_config.json",
             R"({"added_tokens_decoder": {"0": {"content": "<pad>"}, "32100": {"content": "<city>"}}})");
  is_refused("tokenizer_config.json", R"({"additional_special_tokens": ["<extra_id_9>", "<city>"]})");
  is_refused("tokenizer_config.json", R"({"extra_special_tokens": {"city_token": "<city>"}})");
  is_refused("special_tokens_map.json", R"({"additional_special_tokens": [{"content": "<city>"}]})");
  is_refused("tokenizer.json", R"({"added_tokens": [{"id": 0, "content": "<pad>"}, {"content": "<city>"}]})");
  const char* own = R"({"additional_special_tokens": ["<extra_id_0>", {"content": "<extra_id_99>"}],
                        "added_tokens_decoder": {"1": {"content": "</s>"}, "2": {"content": "<unk>"}}})";
  CHECK(refusal("tokenizer_config.json", own) == "nothing thrown");
  CHECK(refusal("tokenizer.json", R"({"added_tokens": [{"content": "<extra_id_100>"}]})") !=
        "nothing thrown");
  CHECK(refusal("tokenizer.json", t5zero::tokenizer_json("")) == "nothing thrown");
  fs::remove_all(directory);
}
