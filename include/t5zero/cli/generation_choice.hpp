// How the generations of a run are made: its flags over the model's generation_config. Evaluations during
// training look at the model's lengths and beams, the final ones at the script's flags (run_translation.py
// hands max_length and num_beams to evaluate() and predict()).
#pragma once

#include <algorithm>
#include <cstdint>
#include <optional>
#include <string>

#include <t5zero/cli/options.hpp>
#include <t5zero/core/error.hpp>
#include <t5zero/core/integers.hpp>
#include <t5zero/io/generation_config.hpp>
#include <t5zero/model/generation_options.hpp>
#include <t5zero/plan/generation_plan.hpp>

namespace t5zero::cli {

enum class evaluation_time : std::uint8_t { during_training, at_end };

[[nodiscard]] inline generation_options choose_generation(const options& chosen,
                                                          const generation_config& model,
                                                          evaluation_time when) {
  generation_options how = model.options;
  const bool at_end = when == evaluation_time::at_end;
  if (!model.counts_new_tokens) {
    how.max_length = std::max<index_t>(2, chosen.generation_max_length.value_or(
                                              at_end ? chosen.evaluation_target_length() : how.max_length));
  }
  how.num_beams = at_end ? chosen.num_beams : chosen.generation_num_beams.value_or(how.num_beams);
  how.seed = static_cast<std::uint32_t>(chosen.seed);
  return how;
}

/// Whether the run generates then.
[[nodiscard]] inline bool generates(const options& chosen, evaluation_time when) {
  if (!chosen.predict_with_generate) return false;
  return when == evaluation_time::at_end ? chosen.do_eval || chosen.do_predict
                                         : chosen.do_eval && chosen.evaluates_during_training();
}

/// Refuses tokens that the model does not have. Throws input_error naming file, key and value.
inline void check_forced_tokens(const generation_config& model, index_t vocab_size) {
  const auto check = [&](const char* key, const std::optional<std::int32_t>& id) {
    if (!id || *id < vocab_size) return;
    throw input_error(model.file + ": \"" + key + "\" is " + std::to_string(*id) + "; an id below " +
                      std::to_string(vocab_size) +
                      ", the model's embedding rows, is needed: mend it, or give --generation_config with "
                      "another");
  };
  check("forced_bos_token_id", model.options.forced_bos_token_id);
  check("forced_eos_token_id", model.options.forced_eos_token_id);
}

/// Refuses, before anything is trained, what a generation would refuse. Throws input_error naming flag or
/// file, value and repair.
inline void check_generations(const options& chosen, const generation_config& model, index_t vocab_size) {
  for (const evaluation_time when : {evaluation_time::during_training, evaluation_time::at_end}) {
    if (!generates(chosen, when)) continue;
    const generation_options how = choose_generation(chosen, model, when);
    const std::string flag = when == evaluation_time::at_end ? "--num_beams" : "--generation_num_beams";
    const std::string beams = flag + " " + std::to_string(how.num_beams);
    if (how.do_sample && how.num_beams > 1) {
      throw input_error(beams + ": " + model.file +
                        " has \"do_sample\": true, and sampling goes with one beam; give " + flag +
                        " 1, or another --generation_config");
    }
    if (how.num_beams > vocab_size) {
      throw input_error(beams + ": the model has only " + std::to_string(vocab_size) + " tokens; give fewer");
    }
    check_forced_tokens(model, vocab_size);
    check_generation_options(how, vocab_size);
  }
}

/// Bounds of all generations of the run.
[[nodiscard]] inline generation_shape generation_bounds(const options& chosen, const generation_config& model,
                                                        index_t vocab_size) {
  if (!chosen.predict_with_generate || (!chosen.do_eval && !chosen.do_predict)) return {};
  generation_shape bounds = choose_generation(chosen, model, evaluation_time::at_end).shape(vocab_size);
  if (chosen.evaluates_during_training()) {
    const generation_shape other =
        choose_generation(chosen, model, evaluation_time::during_training).shape(vocab_size);
    bounds.num_beams = std::max(bounds.num_beams, other.num_beams);
    bounds.max_length = std::max(bounds.max_length, other.max_length);
    bounds.candidates = std::max(bounds.candidates, other.candidates);
  }
  return bounds;
}

}  // namespace t5zero::cli
