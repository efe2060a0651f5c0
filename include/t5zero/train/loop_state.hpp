// Where a training loop stands, between two updates: all that a resumed run needs beside the trainer's state.
#pragma once

#include <filesystem>
#include <optional>

#include <t5zero/core/integers.hpp>
#include <t5zero/train/log_history.hpp>

namespace t5zero {

/// The best evaluation so far, by metric_for_best_model.
struct best_evaluation {
  double metric = 0.0;  ///< finite
  index_t step = 0;
};

/// A checkpoint with the weights of an evaluation that was the best when it was written.
struct best_checkpoint {
  best_evaluation of;
  std::filesystem::path directory;
};

struct loop_state {
  index_t global_step = 0;   ///< updates done, skipped ones included
  index_t epoch = 0;         ///< of the next micro-batch, from 0
  index_t batch = 0;         ///< the next micro-batch of that epoch, from 0 and below its number
  double epochs_done = 0.0;  ///< with the fraction of the epoch at hand
  double total_loss = 0.0;   ///< sum of all updates' losses
  double window_loss = 0.0;  ///< sum since the last log line
  index_t window_updates = 0;
  double total_flos = 0.0;       ///< floating-point operations, as Hugging Face counts them
  bool owes_evaluation = false;  ///< a signal ended the one that was due after global_step
  index_t run_number = 0;        ///< of the runs that wrote into the output directory, counted from 1
  index_t diverged_at = 0;       ///< the first update made with gradients that were not finite; 0: none
  std::optional<best_evaluation> best;
  /// Transformers' best_model_checkpoint. Older than `best` where that one's weights were not saved.
  std::optional<best_checkpoint> best_saved;
  log_history history;

  /// After an epoch's last micro-batch the next one is the first of the next epoch.
  void end_epoch_after(index_t batches_per_epoch) {
    if (batch < batches_per_epoch) return;
    ++epoch;
    batch = 0;
  }
};

}  // namespace t5zero
