// generation_config.json: what is read, what is refused.
#include <t5zero/io/generation_config.hpp>

#include <string>
#include <vector>

#include "catch.hpp"

namespace {

using nlohmann::json;

t5zero::generation_config parse(const json& value) {
  return t5zero::parse_generation_config(value, "g.json");
}
std::string refusal(const json& value) {
  try {
    (void)parse(value);
  } catch (const t5zero::input_error& e) {
    return e.what();
  }
  return "nothing thrown";
}
bool has(const std::string& text, const std::string& part) {
  INFO(text);
  return text.find(part) != std::string::npos;
}

}  // namespace

TEST_CASE("what a generation_config.json decides", "[io]") {
  const auto defaults = parse(json::object());
  CHECK(defaults.options.max_length == 21);
  CHECK_FALSE(defaults.counts_new_tokens);
  CHECK(parse({{"max_length", 20}}).options.max_length == 21);  // the untouched default: 20 new tokens
  CHECK(parse({{"max_length", 64}}).options.max_length == 64);
  const auto new_tokens = parse({{"max_length", 64}, {"max_new_tokens", 30}, {"min_new_tokens", 3}});
  CHECK(new_tokens.options.max_length == 31);
  CHECK(new_tokens.options.min_length == 4);
  CHECK(new_tokens.counts_new_tokens);
  const auto rich = parse({{"num_beams", 4},
                           {"length_penalty", 2.0},
                           {"early_stopping", true},
                           {"no_repeat_ngram_size", 3},
                           {"repetition_penalty", 1.2},
                           {"forced_eos_token_id", 1},
                           {"eos_token_id", json::array({1})},
                           {"transformers_version", "5.0"},
                           {"num_beam_groups", 1},
                           {"bad_words_ids", nullptr}});
  CHECK(rich.options.num_beams == 4);
  CHECK(rich.options.length_penalty == 2.0);
  CHECK(rich.options.early_stopping == t5zero::early_stopping_rule::when_full);
  CHECK(rich.options.no_repeat_ngram_size == 3);
  CHECK(rich.options.repetition_penalty == 1.2F);
  CHECK(rich.options.forced_eos_token_id == 1);
  CHECK(parse({{"decoder_start_token_id", 0}}).decoder_start_token_id == 0);
}

TEST_CASE("what a generation_config.json may not say", "[io]") {
  CHECK(has(refusal({{"num_beams", 0}}), "g.json: \"num_beams\" is 0"));
  CHECK(has(refusal({{"max_length", 0}}), "max_length"));
  CHECK(has(refusal({{"early_stopping", "often"}}), "true, false or \"never\""));
  CHECK(has(refusal({{"num_beam_groups", 2}}), "not implemented"));
  CHECK(has(refusal({{"bad_words_ids", json::array({json::array({5})})}}), "bad_words_ids"));
  CHECK(has(refusal({{"top_p", 2.0}}), "top_p"));
  CHECK(has(refusal({{"do_sample", 1}}), "true or false"));
  CHECK(has(refusal(json::array()), "an object"));
  CHECK(has(refusal({{"eos_token_id", 2}}), "\"eos_token_id\" is 2; T5's own end token, 1,"));
  CHECK(has(refusal({{"eos_token_id", json::array({1, 2})}}), "the id of one token"));
  CHECK(has(refusal({{"forced_eos_token_id", json::array({std::int64_t{1} << 40})}}), "the id of one token"));
  CHECK(has(refusal({{"forced_bos_token_id", json::array({-1})}}), "the id of one token"));
  CHECK(has(refusal({{"forced_bos_token_id", 1.5}}), "the id of one token"));
  CHECK(has(refusal({{"decoder_start_token_id", -3}}), "the id of one token"));
  CHECK(has(refusal({{"renormalize_logits", true}}), "not implemented"));
  CHECK(has(refusal({{"stop_strings", "."}}), "not implemented"));
  CHECK(has(refusal({{"max_time", 2.5}}), "not implemented"));
  CHECK(has(refusal({{"forced_decoder_ids", json::array({json::array({1, 5})})}}), "not implemented"));
  CHECK(refusal({{"renormalize_logits", false}, {"stop_strings", nullptr}, {"eos_token_id", 1}}) ==
        "nothing thrown");
}

TEST_CASE("of a config.json the keys about generation are kept, to be saved with the model", "[io]") {
  const json keys = {
      {"num_beams", 4}, {"no_repeat_ngram_size", 2}, {"early_stopping", true}, {"eos_token_id", 1}};
  json config = keys;
  config.update({{"d_model", 64}, {"task_specific_params", {{"num_beams", 2}}}, {"min_length", nullptr}});
  CHECK(parse(config).json == keys);
  CHECK(parse(json::object()).json == json::object());
}

TEST_CASE("keys that are none of generation are listed", "[io]") {
  const auto known = parse({{"num_beams", 4},
                            {"max_time", nullptr},
                            {"pad_token_id", 0},
                            {"_from_model_config", true},
                            {"transformers_version", "4.57.0"},
                            {"use_cache", true}});
  CHECK(known.unknown_keys.empty());
  const auto unknown = parse({{"no_repeat_ngram", 2}, {"num_beam", 4}, {"num_beams", 2}});
  CHECK(unknown.unknown_keys == std::vector<std::string>{"no_repeat_ngram", "num_beam"});
}
