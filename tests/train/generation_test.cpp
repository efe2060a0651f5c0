// Generation against transformers 5.17: tokens and scores of greedy and beam search.
#include <t5zero/cpu.hpp>

#include <algorithm>
#include <cmath>
#include <optional>
#include <set>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

#include "catch.hpp"
#include "golden.hpp"
#include "golden_models.hpp"
#include "skip.hpp"

namespace {

using t5zero::index_t;

t5zero::batch_shape shape_of(const golden::ragged_batch& batch) {
  const t5zero::batch_view view = batch.view();
  return {view.source.batch, view.source.tokens, view.target.tokens, view.source.max_length,
          view.target.max_length};
}

/// One setting of a case's name: "length_penalty=2.0", "lp2.0". Throws on one that is not known, so that no
/// case is checked with other options than it was made with.
void set_option(t5zero::generation_options& options, const std::string& setting) {
  const auto value_of = [&](const std::string& key) {
    return setting.starts_with(key) ? std::optional(setting.substr(key.size())) : std::nullopt;
  };
  const auto stopping_of = [](const std::string& value) {
    if (value == "True") return t5zero::early_stopping_rule::when_full;
    if (value == "False") return t5zero::early_stopping_rule::heuristic;
    if (value == "never") return t5zero::early_stopping_rule::never;
    throw std::invalid_argument("early_stopping " + value);
  };
  if (const auto beams = value_of("beams")) {
    options.num_beams = std::stoll(*beams);
  } else if (const auto penalty = value_of("length_penalty=")) {
    options.length_penalty = std::stod(*penalty);
  } else if (const auto short_penalty = value_of("lp")) {
    options.length_penalty = std::stod(*short_penalty);
  } else if (const auto size = value_of("no_repeat_ngram_size=")) {
    options.no_repeat_ngram_size = std::stoll(*size);
  } else if (const auto least = value_of("min_new_tokens=")) {
    options.min_length = std::stoll(*least) + 1;
  } else if (const auto rule = value_of("early_stopping=")) {
    options.early_stopping = stopping_of(*rule);
  } else if (const auto short_rule = value_of("es")) {
    options.early_stopping = stopping_of(*short_rule);
  } else if (const auto repetition = value_of("repetition_penalty=")) {
    options.repetition_penalty = std::stof(*repetition);
  } else if (const auto first = value_of("forced_bos_token_id=")) {
    options.forced_bos_token_id = std::stoi(*first);
  } else if (const auto last = value_of("forced_eos_token_id=")) {
    options.forced_eos_token_id = std::stoi(*last);
  } else {
    throw std::invalid_argument("no option of a generation: " + setting);
  }
}

/// "beams4.length_penalty=2.0,early_stopping=True" or "beams4_lp2.0_esTrue" -> options.
t5zero::generation_options options_named(const std::string& name, index_t max_length) {
  t5zero::generation_options options;
  options.max_length = max_length;
  const std::size_t beams_end = std::min(name.find_first_of("._"), name.size());
  set_option(options, name.substr(0, beams_end));
  const char separator = beams_end < name.size() && name[beams_end] == '_' ? '_' : ',';
  std::istringstream rest(name.substr(std::min(beams_end + 1, name.size())));
  for (std::string setting; std::getline(rest, setting, separator);) set_option(options, setting);
  return options;
}

template <class Model>
void check_all_cases() {
  using run = t5zero::run<Model, t5zero::zero_0, t5zero::fp32, t5zero::cpu::backend>;
  const std::string name(Model::name);
  const golden::tensors values = golden::read(golden::directory(name) / "golden.safetensors");
  const nlohmann::json cases = golden::read_json(golden::directory(name) / "golden.json")["generate"];
  int checked = 0;
  for (const auto& [key, expected] : cases.items()) {
    if (!expected.is_object()) continue;
    CAPTURE(name, key);
    const bool memorised = key.rfind("memorised.", 0) == 0;
    const int index = memorised ? std::stoi(key.substr(key.find("batch") + 5)) : 0;
    const golden::ragged_batch batch = golden::read_batch(values, index);
    const t5zero::generation_options options =
        options_named(memorised ? key.substr(key.find(".beams") + 1) : key, memorised ? 21 : 25);
    t5zero::trainer_options settings;
    settings.trains = false;
    settings.threads = 2;
    settings.generation = options.shape(Model::shape.vocab_size);
    t5zero::trainer<run> trainer(Model::shape, shape_of(batch), settings);
    const golden::tensors weights = golden::read(
        golden::directory(name) / (memorised ? "memorised/model.safetensors" : "model.safetensors"));
    trainer.load([&](const t5zero::parameter_row& row, float* to) {
      const auto& from = weights.at(t5zero::checkpoint_name(row)).values;
      std::copy(from.begin(), from.end(), to);
    });
    const auto& result = trainer.generate(batch.view(), options);
    for (std::size_t b = 0; b < expected["sequences"].size(); ++b) {
      const auto sequence = expected["sequences"][b].template get<std::vector<std::int32_t>>();
      const auto tokens = result.tokens(static_cast<index_t>(b));
      std::vector<std::int32_t> found{0};
      found.insert(found.end(), tokens.begin(), tokens.end());
      // A finished row is filled up: with pad in greedy search, with the end in beam search (4.50 and later).
      if (found.back() == 1) found.resize(sequence.size(), options.num_beams > 1 ? 1 : 0);
      CHECK(found == sequence);
      if (expected["scores"].is_array()) {
        const double score = expected["scores"][b].template get<double>();
        CHECK(std::abs(static_cast<double>(result.score(static_cast<index_t>(b))) - score) < 1e-4);
      }
      ++checked;
    }
  }
  CHECK(checked > 100);
}

}  // namespace

TEST_CASE("generation equals transformers' token for token", "[train][golden]") {
  if (!golden::available()) return skip_test("no golden values");
  check_all_cases<golden::tiny_relu>();
  check_all_cases<golden::tiny_gated>();
  check_all_cases<golden::tiny_gated_tied>();
}

TEST_CASE("the names of the reference cases are read whole", "[train]") {
  const auto rich =
      options_named("beams4.length_penalty=2.0,early_stopping=never,repetition_penalty=1.5", 21);
  CHECK(rich.num_beams == 4);
  CHECK(rich.length_penalty == 2.0);
  CHECK(rich.early_stopping == t5zero::early_stopping_rule::never);
  CHECK(rich.repetition_penalty == 1.5F);
  CHECK(options_named("beams2_lp0.5_esTrue", 21).early_stopping == t5zero::early_stopping_rule::when_full);
  CHECK(options_named("beams1.", 21).num_beams == 1);
  CHECK_THROWS_AS(options_named("beams2.diversity_penalty=1.0", 21), std::invalid_argument);
  CHECK_THROWS_AS(options_named("beams2_esSometimes", 21), std::invalid_argument);
}

TEST_CASE("forced tokens and the repetition penalty hold in a whole generation", "[train]") {
  using model = golden::tiny_relu;
  using run = t5zero::run<model, t5zero::zero_0, t5zero::fp32, t5zero::cpu::backend>;
  golden::ragged_batch batch;
  golden::add_row(batch, {5, 6, 7, 1}, {1});
  golden::add_row(batch, {9, 1}, {1});
  for (const index_t beams : {index_t{1}, index_t{3}}) {
    CAPTURE(beams);
    t5zero::generation_options options;
    options.max_length = 12;
    options.num_beams = beams;
    t5zero::trainer_options settings;
    settings.trains = false;
    settings.generation = options.shape(model::shape.vocab_size);
    t5zero::trainer<run> trainer(model::shape, shape_of(batch), settings);
    trainer.initialize(7, 1.0);
    const auto generated = [&](index_t sentence) {
      const auto tokens = trainer.generate(batch.view(), options).tokens(sentence);
      return std::vector<std::int32_t>(tokens.begin(), tokens.end());
    };
    options.forced_bos_token_id = 7;
    options.forced_eos_token_id = 1;
    options.min_length = 12;  // no end before the forced one
    options.repetition_penalty = 1e4F;
    for (const index_t sentence : {index_t{0}, index_t{1}}) {
      const std::vector<std::int32_t> tokens = generated(sentence);
      REQUIRE(tokens.size() == 11);
      CHECK(tokens.front() == 7);
      CHECK(tokens.back() == 1);
      CHECK(std::set<std::int32_t>(tokens.begin(), tokens.end()).size() == tokens.size());
    }
  }
}
