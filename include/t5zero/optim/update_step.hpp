// The arithmetic between a step's passes over the parameters, on a few scalars that live in the backend's
// memory: a GPU runs these functions in a kernel of one thread, so that no step waits for the host.
#pragma once

#include <cmath>
#include <cstdint>

#include <t5zero/core/config.hpp>
#include <t5zero/core/integers.hpp>
#include <t5zero/optim/adafactor.hpp>
#include <t5zero/optim/adamw.hpp>
#include <t5zero/optim/gradient_clip.hpp>
#include <t5zero/optim/loss_scaler.hpp>
#include <t5zero/optim/loss_sums.hpp>
#include <t5zero/plan/optimizer_state.hpp>

namespace t5zero {

/// Updates that may be submitted before the result of the first is read.
inline constexpr index_t max_updates_in_flight = 4;

/// What stays the same in a run.
struct update_settings {
  optimizer_kind optimizer = optimizer_kind::adamw;
  adamw_options adamw;
  adafactor_options adafactor;
  double max_grad_norm = 1.0;  ///< 0: no clipping
  loss_scaler_options scaler;
  bool scales_loss = false;     ///< fp16
  bool skips_overflow = false;  ///< 16-bit gradients that are not finite change nothing
};

/// Learning rates of the next update: which one it is depends on how many of those before were skipped.
struct update_rates {
  index_t first_applied = 0;  ///< updates applied before, for rates[0]
  double rates[max_updates_in_flight] = {};
};

/// What a step leaves for the next, and the scalars of the step at hand.
struct step_state {
  // What the next steps depend on.
  index_t applied_updates = 0;
  std::uint32_t micro_step = 0;  ///< micro-batches so far, dropout's
  loss_scaler_state scaler;
  // The update at hand.
  std::int32_t micro_batches = 0;
  double loss_scale = 1.0;  ///< that its gradients carry
  float loss_multiplier =
      0.0F;              ///< of the gradients of the micro-batch at hand: scale / labels / micro-batches
  loss_sums sums;        ///< of the micro-batch at hand
  double squares = 0.0;  ///< sum over all gradients
  adamw_params adamw;
  adafactor_params adafactor;
};

/// What one update did, as a backend reports it.
struct update_outcome {
  double grad_norm = 0.0;        ///< global L2 norm before clipping, unscaled
  double loss_scale = 1.0;       ///< for the next update
  index_t applied_updates = 0;   ///< with this one
  bool skipped = false;          ///< a 16-bit gradient was not finite: weights, moments and schedule stay
  bool scale_exhausted = false;  ///< and the loss scale cannot be lowered
};

/// Before a micro-batch of `labels` that count, one of `loss_divisor` whose losses are averaged.
T5ZERO_HOST_DEVICE constexpr void begin_micro_batch(const update_settings& settings, step_state& state,
                                                    index_t labels, index_t loss_divisor) {
  state.loss_scale = settings.scales_loss ? state.scaler.scale : 1.0;
  state.loss_multiplier = labels == 0 ? 0.0F
                                      : static_cast<float>(state.loss_scale / static_cast<double>(labels) /
                                                           static_cast<double>(loss_divisor));
}

/// After it: its sums are kept in losses[micro_batches].
T5ZERO_HOST_DEVICE constexpr void finish_micro_batch(step_state& state, loss_sums* losses) {
  losses[state.micro_batches] = state.sums;
  ++state.micro_batches;
  ++state.micro_step;
}

/// Between the sum of squares and the optimizer: norm, overflow, loss scale, the optimizer's scalars.
T5ZERO_HOST_DEVICE inline void finish_update(const update_settings& settings, const update_rates& rates,
                                             step_state& state, update_outcome& outcome) {
  outcome.grad_norm = std::sqrt(state.squares) / state.loss_scale;
  const bool is_finite = state.squares - state.squares == 0.0;
  outcome.skipped = settings.skips_overflow && !is_finite;
  outcome.scale_exhausted = settings.scales_loss && !advance(settings.scaler, state.scaler, outcome.skipped);
  state.micro_batches = 0;
  state.adamw.applies = state.adafactor.applies = !outcome.skipped;
  if (!outcome.skipped) {
    const double rate = rates.rates[state.applied_updates - rates.first_applied];
    ++state.applied_updates;
    const double multiplier = clip_factor(outcome.grad_norm, settings.max_grad_norm) / state.loss_scale;
    if (settings.optimizer == optimizer_kind::adamw)
      state.adamw = adamw_update(settings.adamw, rate, state.applied_updates, multiplier);
    else
      state.adafactor = adafactor_update(settings.adafactor, rate, state.applied_updates, multiplier);
  }
  outcome.applied_updates = state.applied_updates;
  outcome.loss_scale = settings.scales_loss ? state.scaler.scale : 1.0;
}

/// After an optimizer's step that the next forward would make again otherwise.
T5ZERO_HOST_DEVICE constexpr void end_update(step_state& state) {
  state.adamw.applies = false;
}

}  // namespace t5zero
