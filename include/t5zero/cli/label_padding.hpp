// How a run's labels are padded.
#pragma once

#include <t5zero/cli/options.hpp>
#include <t5zero/core/integers.hpp>
#include <t5zero/data/batcher.hpp>

namespace t5zero::cli {

/// How the collator of run_translation.py pads labels; lengths are those of the split at hand.
[[nodiscard]] inline target_padding padding_of_labels(const options& chosen, index_t max_target_length) {
  return {.counts_in_loss = !chosen.ignore_pad_token_for_loss,
          .multiple = chosen.fp16 ? 8 : 1,
          .fixed_length = chosen.pad_to_max_length ? max_target_length : 0};
}

}  // namespace t5zero::cli
