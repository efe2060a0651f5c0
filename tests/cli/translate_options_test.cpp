// The command line of `translate` over a model's generation_config.json.
#include <t5zero/cli/translate_options.hpp>

#include <array>
#include <string>
#include <utility>
#include <vector>

#include "catch.hpp"

TEST_CASE("the model's length holds where it says one, else 128", "[cli]") {
  const auto length = [](const nlohmann::json& model, const char* flag = "--max_length=64") {
    const std::array<const char*, 3> argv = {"translate", "directory", flag};
    const auto config = t5zero::parse_generation_config(model, "g.json");
    return t5zero::parse_translate_options(*flag == '\0' ? 2 : 3, argv.data(), config).generation.max_length;
  };
  CHECK(length(nlohmann::json::object(), "") == 128);
  CHECK(length({{"max_length", 20}}, "") == 128);
  CHECK(length({{"max_length", 21}}, "") == 21);
  CHECK(length({{"max_new_tokens", 20}}, "") == 21);
  CHECK(length({{"max_length", 300}}, "") == 300);
  CHECK(length({{"max_length", 300}}) == 64);
}

namespace {

t5zero::translate_options parse(std::vector<const char*> words) {
  words.insert(words.begin(), "translate");
  return t5zero::parse_translate_options(static_cast<int>(words.size()), words.data());
}
std::string refusal(const std::vector<const char*>& words) {
  try {
    (void)parse(words);
  } catch (const t5zero::input_error& refused) {
    return refused.what();
  }
  return "nothing thrown";
}

}  // namespace

TEST_CASE("spellings of translate's flags", "[cli]") {
  const auto chosen = parse({"--num-b", "4", "m", "--source_prefix=", "--early", "never",
                             "--length-penalty=-1", "--input", "--a b"});
  CHECK(chosen.model_name_or_path == "m");
  CHECK(chosen.generation.num_beams == 4);
  CHECK(chosen.generation.early_stopping == t5zero::early_stopping_rule::never);
  CHECK(chosen.generation.length_penalty == -1.0);
  CHECK(chosen.input == "--a b");
  CHECK(chosen.source_prefix.empty());
  CHECK(parse({"--model_name_or_path", "m"}).model_name_or_path == "m");
  CHECK(parse({"--help"}).help_text.find("the model's, else 128") != std::string::npos);
  CHECK(parse({"-h"}).help_text.find("REQUIRED") == std::string::npos);
}

TEST_CASE("a flag of translate that is given twice has its last value", "[cli]") {
  CHECK(parse({"m", "--num_beams", "4", "--num_beams", "2"}).generation.num_beams == 2);
  CHECK(parse({"m", "--output", "a", "--output=b", "--fp16", "--fp16"}).output == "b");
  CHECK_FALSE(parse({"m", "--fp16", "--fp16=false"}).fp16);
}

TEST_CASE("what a model's generation_config.json says of sampling can be taken back", "[cli]") {
  const auto model = t5zero::parse_generation_config({{"do_sample", true}, {"num_beams", 4}}, "g.json");
  const auto sampled = [&](std::vector<const char*> words) {
    words.insert(words.begin(), "translate");
    return t5zero::parse_translate_options(static_cast<int>(words.size()), words.data(), model).generation;
  };
  for (const std::vector<const char*>& words :
       std::vector<std::vector<const char*>>{{"m", "--do_sample=false"},
                                             {"--do_sample", "false", "m"},
                                             {"m", "--no_do_sample"},
                                             {"m", "--no-do-sample"},
                                             {"m", "--do_sample", "--do-sample=no"}}) {
    CHECK_FALSE(sampled(words).do_sample);
    CHECK(sampled(words).num_beams == 4);
  }
  CHECK(sampled({"m", "--num_beams", "1"}).do_sample);
  CHECK(sampled({"--num_beams", "1", "--do_sample", "m"}).do_sample);
  const auto refusal_of = [&](const std::vector<const char*>& words) {
    try {
      (void)sampled(words);
    } catch (const t5zero::input_error& refused) {
      return std::string(refused.what());
    }
    return std::string("nothing thrown");
  };
  CHECK(refusal_of({"m"}).find("g.json: \"num_beams\" is 4, and g.json has \"do_sample\": true") !=
        std::string::npos);
  CHECK(refusal_of({"m", "--num_beams", "2"}).find("--num_beams 2, and g.json has \"do_sample\": true") !=
        std::string::npos);
}

TEST_CASE("translate's refusals name flag, value and range", "[cli]") {
  const std::vector<std::pair<std::vector<const char*>, const char*>> cases = {
      {{"m", "--num_beams", "0"}, "--num_beams 0: a number of beams of at least 1 is needed"},
      {{"m", "--num_beams", "1025"}, "--num_beams 1025: too large; at most 1024 is allowed"},
      {{"m", "--temperature", "nan"}, "--temperature nan: a number above 0 is needed"},
      {{"m", "--temperature", "1e9"}, "--temperature 1e9: too large; at most 1000000 is allowed"},
      {{"m", "--top_p", "1.5"}, "--top_p 1.5: a share above 0 and at most 1 is needed"},
      {{"m", "--early_stopping", "maybe"}, "--early_stopping maybe: one of true, True, false, False, never"},
      {{"m", "--num_beam_groups", "2"}, "unknown option --num_beam_groups"},
      {{"m", "--num_beems", "2"}, "did you mean --num_beams?"},
      {{"m", "--max", "2"}, "ambiguous option: --max could match --max_source_length, --max_length"},
      {{"m", "--num_beams"}, "--num_beams: a value is needed after it"},
      {{"m", "--do_sample=perhaps"}, "--do_sample perhaps: a truth value is needed"},
      {{"m", "--no_do_sample=1"}, "--no_do_sample takes no value"},
      {{"m", "-x"}, "unknown option -x"},
      {{"m", "n"}, "--help lists the flags"},
      {{"m", "--model_name_or_path", "n"}, "the model is named twice"},
      {{"--num_beams", "2"}, "no model"},
      {{"m", "--fp16", "--bf16"}, "--fp16 --bf16"},
      {{"m", "--do_sample", "--num_beams", "2"}, "sampling goes with one beam"}};
  for (const auto& [words, text] : cases) {
    CAPTURE(text, refusal(words));
    CHECK(refusal(words).find(text) != std::string::npos);
  }
}

TEST_CASE("flags of translate that change nothing are named", "[cli]") {
  CHECK(parse({"m", "--do_sample", "--top_k", "3"}).notice.empty());
  CHECK(parse({"m", "--use_cpu"}).use_cpu);
  CHECK(parse({"m", "--num_beams", "2", "--early_stopping", "true"}).notice.empty());
  CHECK(parse({"m", "--top_k", "3", "--length_penalty", "2"}).notice ==
        "--top_k has no effect without --do_sample\n"
        "--length_penalty has no effect with one beam (--num_beams)");
  CHECK(parse({"m", "--min_length", "9", "--max_length", "5"}).notice ==
        "--min_length 9 is above --max_length 5: every translation is cut at the latter");
}
