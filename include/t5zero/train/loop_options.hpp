// What a training loop does, and when.
#pragma once

#include <cstdint>

#include <t5zero/core/integers.hpp>
#include <t5zero/data/batcher.hpp>
#include <t5zero/train/interval.hpp>

namespace t5zero {

/// Steps are updates; an interval counts only under its strategy `steps`.
struct loop_options {
  index_t batch_size = 8;
  index_t gradient_accumulation = 1;
  std::uint32_t order_seed = 42;
  bool groups_by_length = false;
  std::int32_t decoder_start_token_id = 0;
  target_padding padding;
  bool rounds_sources_to_8 = false;  ///< as Hugging Face's collator under fp16; counts in total_flos only
  index_t fixed_source_length = 0;   ///< pad_to_max_length; counts in total_flos only
  bool replaces_nan_in_logs = true;  ///< logging_nan_inf_filter
  interval_strategy logging = interval_strategy::steps;
  index_t log_every = 500;
  bool logs_first_step = false;
  interval_strategy evaluating = interval_strategy::no;
  index_t evaluate_every = 500;
  double evaluation_delay = 0.0;  ///< updates (steps) or epochs (epoch) before the first evaluation
  bool evaluates_on_start = false;
  interval_strategy saving = interval_strategy::no;
  index_t save_every = 500;
};

}  // namespace t5zero
