// How the generations of a run are made: its flags over the model's generation_config. Evaluations during
// training look at the model's lengths and beams, the final ones at the script's flags (run_translation.py
// hands max_length and num_beams to evaluate() and predict()).
#pragma once

#include <algorithm>
#include <cstdint>

#include <t5zero/cli/options.hpp>
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

/// Bounds of all generations of the run.
[[nodiscard]] inline generation_shape generation_bounds(const options& chosen, const generation_config& model,
                                                        index_t vocab_size) {
  if (!chosen.predict_with_generate || (!chosen.do_eval && !chosen.do_predict)) return {};
  generation_shape bounds = choose_generation(chosen, model, evaluation_time::at_end).shape(vocab_size);
  if (chosen.do_train && chosen.eval_strategy != interval_strategy::no) {
    const generation_shape other =
        choose_generation(chosen, model, evaluation_time::during_training).shape(vocab_size);
    bounds.num_beams = std::max(bounds.num_beams, other.num_beams);
    bounds.max_length = std::max(bounds.max_length, other.max_length);
    bounds.candidates = std::max(bounds.candidates, other.candidates);
  }
  return bounds;
}

}  // namespace t5zero::cli
