// Epochs, batches and updates of a run.
#pragma once

#include <cmath>
#include <string>

#include <t5zero/core/error.hpp>
#include <t5zero/core/integers.hpp>

namespace t5zero {

/// What the arithmetic starts from; names and defaults are Hugging Face's.
struct step_options {
  index_t batch_size = 8;                   ///< sentences of a micro-batch
  index_t gradient_accumulation_steps = 1;  ///< micro-batches of an update
  bool drop_last = false;                   ///< leave out an epoch's incomplete micro-batch
  index_t max_steps = -1;                   ///< updates; positive overrides the epochs
  double epochs = 3.0;
};

/// Updates of a run. A short group of micro-batches at the end of an epoch is an update of its own, as in
/// transformers from 4.52 on (before, epochs could lose their last batches).
struct step_arithmetic {
  index_t batches_per_epoch = 0;
  index_t updates_per_epoch = 0;
  index_t max_steps = 0;
  index_t epochs = 0;

  /// examples: at least 1. Throws input_error if an epoch has no batch.
  step_arithmetic(index_t examples, const step_options& options) {
    const index_t batch = options.batch_size;
    batches_per_epoch = options.drop_last ? examples / batch : ceil_div(examples, batch);
    if (batches_per_epoch == 0) {  // only by dropping
      throw input_error("--per_device_train_batch_size " + std::to_string(batch) +
                        ": the training data has only " + std::to_string(examples) +
                        " pairs and --dataloader_drop_last drops the short batch; lower it");
    }
    updates_per_epoch = ceil_div(batches_per_epoch, options.gradient_accumulation_steps);
    const bool by_steps = options.max_steps > 0;
    max_steps =
        by_steps ? options.max_steps
                 : static_cast<index_t>(std::ceil(options.epochs * static_cast<double>(updates_per_epoch)));
    epochs =
        by_steps ? ceil_div(max_steps, updates_per_epoch) : static_cast<index_t>(std::ceil(options.epochs));
  }
};

}  // namespace t5zero
