// Generation of a backend against transformers 5.17: tokens and scores of greedy and beam search.
#pragma once

#include <t5zero/t5zero.hpp>

#include <algorithm>
#include <cmath>
#include <optional>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

#include "catch.hpp"
#include "golden.hpp"
#include "golden_models.hpp"

namespace golden {

using t5zero::index_t;

inline t5zero::batch_shape shape_of(const ragged_batch& batch) {
  const t5zero::batch_view view = batch.view();
  return {view.source.batch, view.source.tokens, view.target.tokens, view.source.max_length,
          view.target.max_length};
}

/// One setting of a case's name: "length_penalty=2.0", "lp2.0". Throws on one that is not known, so that no
/// case is checked with other options than it was made with.
inline void set_option(t5zero::generation_options& options, const std::string& setting) {
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
inline t5zero::generation_options options_named(const std::string& name, index_t max_length) {
  t5zero::generation_options options;
  options.max_length = max_length;
  const std::size_t beams_end = std::min(name.find_first_of("._"), name.size());
  set_option(options, name.substr(0, beams_end));
  const char separator = beams_end < name.size() && name[beams_end] == '_' ? '_' : ',';
  std::istringstream rest(name.substr(std::min(beams_end + 1, name.size())));
  for (std::string setting; std::getline(rest, setting, separator);) set_option(options, setting);
  return options;
}

/// Every reference case of a model, or one of so many.
template <class Model, class Backend>
void check_generation(int one_of = 1) {
  using run = t5zero::run<Model, t5zero::zero_0, t5zero::fp32, Backend>;
  const std::string name(Model::name);
  const tensors values = golden::read(directory(name) / "golden.safetensors");
  const nlohmann::json cases = read_json(directory(name) / "golden.json")["generate"];
  int checked = 0;
  int seen = 0;
  for (const auto& [key, expected] : cases.items()) {
    if (!expected.is_object() || seen++ % one_of != 0) continue;
    CAPTURE(name, key);
    const bool memorised = key.rfind("memorised.", 0) == 0;
    const int index = memorised ? std::stoi(key.substr(key.find("batch") + 5)) : 0;
    const ragged_batch batch = read_batch(values, index);
    const t5zero::generation_options options =
        options_named(memorised ? key.substr(key.find(".beams") + 1) : key, memorised ? 21 : 25);
    t5zero::trainer_options settings;
    settings.trains = false;
    settings.threads = 2;
    settings.generation = options.shape(Model::shape.vocab_size);
    t5zero::trainer<run> trainer(Model::shape, shape_of(batch), settings);
    const tensors weights =
        golden::read(directory(name) / (memorised ? "memorised/model.safetensors" : "model.safetensors"));
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
  CHECK(checked > 100 / one_of);
}

}  // namespace golden
