// What a trainer is made with, and what it tells of its updates.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <variant>

#include <t5zero/core/integers.hpp>
#include <t5zero/optim/adafactor.hpp>
#include <t5zero/optim/adamw.hpp>
#include <t5zero/optim/loss_scaler.hpp>
#include <t5zero/plan/batch_shape.hpp>
#include <t5zero/plan/generation_plan.hpp>
#include <t5zero/plan/memory_plan.hpp>
#include <t5zero/plan/optimizer_state.hpp>

namespace t5zero {

/// AdamW, or T5's own Adafactor.
using optimizer_options = std::variant<adamw_options, adafactor_options>;

/// Run-time options of a trainer; the defaults are transformers'.
struct trainer_options {
  optimizer_options optimizer;
  double max_grad_norm = 1.0;  ///< 0: no clipping
  loss_scaler_options scaler;  ///< fp16 only
  float label_smoothing = 0.0F;
  float dropout_rate = 0.1F;
  std::uint32_t seed = 42;            ///< of dropout
  index_t gradient_accumulation = 1;  ///< micro-batches of an update
  int threads = 1;
  bool uses_graphs = true;  ///< a GPU's steps as graphs: the same bits, fewer launches of the host
  bool overlaps_launches =
      true;  ///< a GPU's kernels may start before those in front have ended: the same bits
  bool recomputes_activations = false;  ///< gradient checkpointing: the same bits, less memory, more time
  bool trains = true;  ///< false: no gradients, no optimizer state; only `evaluate` may be called
  batch_shape evaluation_batch{.batch = 0};  ///< bounds evaluation's batches; batch 0: as in training
  generation_shape generation;  ///< bounds `generate`, for sentences of an evaluation batch; default: none
};

/// What one update did.
struct update_result {
  double grad_norm = 0.0;       ///< global L2 norm before clipping, unscaled
  double loss_scale = 1.0;      ///< for the next update
  double learning_rate = 0.0;   ///< of this update, if it was not skipped
  index_t applied_updates = 0;  ///< with this one
  bool skipped = false;         ///< a 16-bit gradient was not finite: weights, moments and schedule stay
  /// Of its micro-batches: means over their labels that count. Until the next result is read.
  std::span<const double> losses;
};

/// The learning rate as a function of the updates that were applied before.
using learning_rate_function = std::function<double(index_t applied_updates)>;

/// What a trainer counts; with its tensors (for_each_state) and the options, all that the next updates depend
/// on.
struct trainer_counters {
  index_t applied_updates = 0;
  std::uint32_t micro_step = 0;  ///< dropout's
  loss_scaler_state scaler;
};

}  // namespace t5zero
