// What a run remembers of itself: Hugging Face's log_history (printed, saved in trainer_state.json) and one
// record of each update (drawn by the training report).
#pragma once

#include <string>
#include <utility>
#include <vector>

#include <t5zero/core/integers.hpp>
#include <t5zero/train/python_repr.hpp>

namespace t5zero {

/// One log line: `values` in printing order, e.g. loss, grad_norm, learning_rate; or eval_loss, eval_bleu,
/// ...
struct log_entry {
  index_t step = 0;    ///< updates done
  double epoch = 0.0;  ///< not rounded
  std::vector<std::pair<std::string, double>> values;
};

/// One update, skipped ones included.
struct update_record {
  index_t step = 0;            ///< updates done, this one included
  double loss = 0.0;           ///< mean over the update's micro-batches
  double grad_norm = 0.0;      ///< before clipping
  double learning_rate = 0.0;  ///< of this update
  double loss_scale = 1.0;     ///< after this update; 1 without a scaler
  double seconds = 0.0;        ///< wall time of this update
  index_t tokens = 0;          ///< source and target tokens, without padding
  bool skipped = false;        ///< the gradients were not finite
};

struct log_history {
  std::vector<log_entry> entries;
  std::vector<update_record> updates;
};

/// As Trainer prints it: {'loss': 4.1234, ..., 'epoch': 0.5}; the epoch rounded to two places.
[[nodiscard]] inline std::string log_line(const log_entry& entry) {
  std::string text = "{";
  for (const auto& [key, value] : entry.values) text += "'" + key + "': " + python_repr(value) + ", ";
  return text + "'epoch': " + python_repr(python_round(entry.epoch, 2)) + "}";
}

}  // namespace t5zero
