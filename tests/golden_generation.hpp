// Generation of a backend against transformers 5.17: tokens and scores of greedy and beam search.
#pragma once

#include <t5zero/t5zero.hpp>

#include <algorithm>
#include <cmath>
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

/// "beams4.length_penalty=2.0,early_stopping=True" -> options.
inline t5zero::generation_options options_named(const std::string& name, index_t max_length) {
  t5zero::generation_options options;
  options.max_length = max_length;
  options.num_beams = std::stoll(name.substr(name.find("beams") + 5));
  const auto value_of = [&](const std::string& key) {
    const auto at = name.find(key);
    return at == std::string::npos ? std::string() : name.substr(at + key.size());
  };
  if (const std::string v = value_of("length_penalty="); !v.empty()) options.length_penalty = std::stod(v);
  if (const std::string v = value_of("_lp"); !v.empty()) options.length_penalty = std::stod(v);
  if (const std::string v = value_of("no_repeat_ngram_size="); !v.empty())
    options.no_repeat_ngram_size = std::stoll(v);
  if (const std::string v = value_of("min_new_tokens="); !v.empty()) options.min_length = std::stoll(v) + 1;
  if (name.find("early_stopping=True") != std::string::npos || name.find("esTrue") != std::string::npos)
    options.early_stopping = t5zero::early_stopping_rule::when_full;
  return options;
}

/// Every reference case of a model.
template <class Model, class Backend>
void check_generation() {
  using run = t5zero::run<Model, t5zero::zero_0, t5zero::fp32, Backend>;
  const std::string name(Model::name);
  const tensors values = golden::read(directory(name) / "golden.safetensors");
  const nlohmann::json cases = read_json(directory(name) / "golden.json")["generate"];
  int checked = 0;
  for (const auto& [key, expected] : cases.items()) {
    if (!expected.is_object()) continue;
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
  CHECK(checked > 100);
}

}  // namespace golden
