// Generations that cannot be made are refused before anything is trained.
#include <t5zero/cli/generation_choice.hpp>

#include <string>

#include "catch.hpp"

namespace {

using t5zero::generation_config;
using t5zero::options;

std::string refusal(const options& chosen, const generation_config& model) {
  try {
    t5zero::cli::check_generations(chosen, model, 100);
  } catch (const t5zero::input_error& failure) {
    return failure.what();
  }
  return "";
}
bool has(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

}  // namespace

TEST_CASE("generation options are checked for the evaluations that are made", "[cli]") {
  options chosen;
  chosen.predict_with_generate = chosen.do_train = chosen.do_eval = true;
  generation_config model;
  model.file = "g.json";
  CHECK(refusal(chosen, model).empty());

  model.options.do_sample = true;
  CHECK(refusal(chosen, model).empty());
  chosen.num_beams = 4;
  CHECK(has(refusal(chosen, model), "--num_beams 4: g.json has \"do_sample\": true"));
  chosen.do_eval = false;
  CHECK(refusal(chosen, model).empty());
  chosen.do_predict = true;
  CHECK(has(refusal(chosen, model), "--num_beams 4"));
  chosen.predict_with_generate = false;
  CHECK(refusal(chosen, model).empty());

  chosen = {};
  chosen.predict_with_generate = chosen.do_train = chosen.do_eval = true;
  chosen.generation_num_beams = 3;
  CHECK(refusal(chosen, model).empty());
  chosen.eval_strategy = t5zero::interval_strategy::epoch;
  CHECK(has(refusal(chosen, model), "--generation_num_beams 3"));

  model = {};
  model.file = "g.json";
  chosen.generation_num_beams = 101;
  CHECK(has(refusal(chosen, model), "--generation_num_beams 101: the model has only 100 tokens"));
  chosen.generation_num_beams.reset();
  model.options.forced_bos_token_id = 100;
  CHECK(has(refusal(chosen, model), "g.json: \"forced_bos_token_id\" is 100; an id below 100"));
}
