// The training loop: epochs, micro-batches, updates; what is logged, evaluated and saved when. It knows
// neither files nor options: what happens at an event is the caller's.
#pragma once

#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <functional>
#include <iostream>
#include <span>
#include <string>
#include <vector>

#include <t5zero/core/integers.hpp>
#include <t5zero/data/batcher.hpp>
#include <t5zero/train/coming_batches.hpp>
#include <t5zero/train/loop_options.hpp>
#include <t5zero/train/loop_state.hpp>
#include <t5zero/train/progress_bar.hpp>
#include <t5zero/train/python_repr.hpp>
#include <t5zero/train/report.hpp>
#include <t5zero/train/step_arithmetic.hpp>
#include <t5zero/train/stop_signal.hpp>
#include <t5zero/train/trainer.hpp>

namespace t5zero {

/// Why a checkpoint is written: it is its turn, or the run stops here and is to go on from it.
enum class save_reason : std::uint8_t { due, stopping };

/// What came of an evaluation between two updates: the best so far, another one, or none.
enum class evaluation_outcome : std::uint8_t { best, other, ended_by_signal };

/// When an evaluation is made: before the first update (eval_on_start), or after one, when it is due.
enum class evaluation_moment : std::uint8_t { at_start, after_update };

/// What the loop calls. evaluate: evaluates and appends to the state's history. save: writes a checkpoint of
/// the state, and notes in it if that is the best one.
struct loop_events {
  std::function<double(index_t applied_updates)> learning_rate;
  std::function<evaluation_outcome(loop_state&, progress_bar&, evaluation_moment)> evaluate;
  std::function<void(loop_state&, save_reason)> save;
  std::function<void(const log_entry&)> logged;  ///< a line of training figures was printed
};

/// How training ended.
struct loop_result {
  int stopped_by = 0;    ///< signal that ended it before its last update; 0: none
  double seconds = 0.0;  ///< of this call
};

/// Trains on `data` from where `state` stands to steps.max_steps.
template <class Run>
class training_loop {
 public:
  training_loop(trainer<Run>& trained, const tokenized_dataset& data, const batch_shape& largest,
                const step_arithmetic& steps, const loop_options& options, loop_events events)
      : trainer_(&trained),
        data_(&data),
        steps_(steps),
        options_(options),
        events_(std::move(events)),
        batch_(largest) {
    for (const parameter_row& row : trained.parameters()) {
      // All that takes part in matmuls: an untied head counts, embeddings and bias tables do not.
      if (row.role != parameter_role::embedding && row.role != parameter_role::relative_bias)
        matmul_parameters_ += row.count();
    }
  }

  loop_result run(loop_state& state, progress_bar& bar) {
    const clock::time_point start = clock::now();
    loop_result result;
    last_result_ = start;
    make_room(state.history);
    bar.advance(state.global_step);
    state.end_epoch_after(steps_.batches_per_epoch);
    if (options_.evaluates_on_start && state.global_step == 0)
      events_.evaluate(state, bar, evaluation_moment::at_start);
    if (state.owes_evaluation) result.stopped_by = make_up_for_evaluation(state, bar);
    while (state.global_step < steps_.max_steps && result.stopped_by == 0) {
      const std::vector<index_t> order = order_of_epoch(*data_, options_, state.epoch);
      do {
        update(state, order, bar);
        result.stopped_by = after_update(state, bar);
      } while (state.batch != 0 && state.global_step < steps_.max_steps && result.stopped_by == 0);
    }
    result.seconds = seconds_since(start);
    return result;
  }

 private:
  using clock = std::chrono::steady_clock;

  static double seconds_since(clock::time_point start) {
    return std::chrono::duration<double>(clock::now() - start).count();
  }

  /// Memory for the records of many updates, taken where the loop waits anyway and never for the whole run:
  /// it may be told to stop long before max_steps.
  static void make_room(log_history& history) {
    constexpr std::size_t block = std::size_t{1} << 16;  // 4 MiB
    const std::size_t records = history.updates.size();
    if (history.updates.capacity() - records < block / 2)
      history.updates.reserve(std::max(2 * records, records + block));
  }

  /// Submits the micro-batches of one update, and the update; reads results that are not the latest.
  void update(loop_state& state, const std::vector<index_t>& order, progress_bar& bar) {
    // The short group at the end of an epoch is a mean over its own micro-batches (transformers 4.55).
    const index_t group = std::min(options_.gradient_accumulation, steps_.batches_per_epoch - state.batch);
    submitted_update submitted;
    for (index_t in_update = 0; in_update < group; ++in_update, ++state.batch) {
      const index_t first = state.batch * options_.batch_size;
      const index_t count = std::min(options_.batch_size, data_->size() - first);
      batch_.fill(*data_,
                  std::span(order).subspan(static_cast<std::size_t>(first), static_cast<std::size_t>(count)),
                  static_cast<std::uint32_t>(in_update * options_.batch_size),
                  options_.decoder_start_token_id, options_.padding);
      const batch_view view = batch_.view();
      trainer_->submit_micro_batch(view, group);
      submitted.tokens += view.source.tokens + view.target.tokens;
      state.total_flos +=
          6.0 * static_cast<double>(padded_source_length(view.source.max_length) * view.source.batch) *
          static_cast<double>(matmul_parameters_);
    }
    trainer_->submit_update(events_.learning_rate);
    ++state.global_step;
    state.epochs_done = static_cast<double>(state.epoch) +
                        static_cast<double>(state.batch) / static_cast<double>(steps_.batches_per_epoch);
    state.end_epoch_after(steps_.batches_per_epoch);
    submitted.step = state.global_step;
    in_flight_[static_cast<std::size_t>(submitted.step % trainer<Run>::updates_in_flight)] = submitted;
    while (trainer_->outstanding() >= trainer<Run>::updates_in_flight) read_result(state, bar);
  }

  /// Waits for the results of all updates that were submitted: the state is then whole.
  void read_results(loop_state& state, progress_bar& bar) {
    while (trainer_->outstanding() > 0) read_result(state, bar);
  }
  void read_result(loop_state& state, progress_bar& bar) {
    const index_t step = state.global_step - trainer_->outstanding() + 1;
    const submitted_update& submitted =
        in_flight_[static_cast<std::size_t>(step % trainer<Run>::updates_in_flight)];
    last_ = trainer_->next_result();
    const auto group = static_cast<double>(last_.losses.size());
    double update_loss = 0.0;
    for (double loss : last_.losses) {
      loss /= group;
      if (!std::isfinite(loss) && options_.replaces_nan_in_logs) {
        loss = (state.window_loss + update_loss) / static_cast<double>(1 + state.window_updates);
      }
      update_loss += loss;
    }
    state.total_loss += update_loss;
    state.window_loss += update_loss;
    ++state.window_updates;
    const clock::time_point now = clock::now();
    update_record record;
    record.step = submitted.step;
    record.loss = update_loss;
    record.grad_norm = last_.grad_norm;
    record.learning_rate = last_.learning_rate;
    record.loss_scale = last_.loss_scale;
    record.tokens = submitted.tokens;
    record.seconds = std::chrono::duration<double>(now - last_result_).count();
    record.skipped = last_.skipped;
    last_result_ = now;
    state.history.updates.push_back(record);
    bar.advance();
    // A 16-bit run skips such an update; an fp32 run makes it, as PyTorch does.
    if (!last_.skipped && !std::isfinite(last_.grad_norm) && state.diverged_at == 0) {
      state.diverged_at = submitted.step;
      bar.print_above("warning: the gradients of update " + std::to_string(submitted.step) +
                          " are not finite (grad_norm " + python_repr(last_.grad_norm) +
                          "): the weights are of no use from here on; stop, and go on from an earlier "
                          "checkpoint or begin again with a lower --learning_rate",
                      std::cerr);
    }
    if (last_.skipped) {
      bar.print_above(Run::precision::needs_loss_scale
                          ? "OVERFLOW! Skipping step. The loss scale is now " + python_repr(last_.loss_scale)
                          : std::string("The gradients are not finite: skipping step"),
                      std::cerr);
    }
  }

  /// Returns whether a checkpoint is due for it.
  bool evaluate(loop_state& state, progress_bar& bar) {
    const evaluation_outcome outcome = events_.evaluate(state, bar, evaluation_moment::after_update);
    state.owes_evaluation = outcome == evaluation_outcome::ended_by_signal;
    return options_.saving == interval_strategy::best && outcome == evaluation_outcome::best;
  }
  /// Of the update that the run goes on from. Returns the signal that asks to stop, or 0.
  int make_up_for_evaluation(loop_state& state, progress_bar& bar) {
    if (options_.evaluating == interval_strategy::no) {
      state.owes_evaluation = false;
      return 0;
    }
    const bool saves = evaluate(state, bar);
    const int signal = stop_signal::number();
    if (saves || signal != 0) events_.save(state, signal != 0 ? save_reason::stopping : save_reason::due);
    return signal;
  }

  /// Logs, evaluates and saves, in Hugging Face's order. Returns the signal that asks to stop, or 0: after
  /// the last update there is nothing left to stop.
  int after_update(loop_state& state, progress_bar& bar) {
    const index_t step = state.global_step;
    const bool is_last = step == steps_.max_steps;
    const bool ends_epoch = state.batch == 0 || is_last;
    const auto is_due = [&](interval_strategy strategy, index_t every) {
      return (strategy == interval_strategy::steps && step % every == 0) ||
             (strategy == interval_strategy::epoch && ends_epoch);
    };
    const double waited =
        options_.evaluating == interval_strategy::epoch ? state.epochs_done : static_cast<double>(step);
    const bool logs = is_due(options_.logging, options_.log_every) ||
                      (options_.logging == interval_strategy::steps && step == 1 && options_.logs_first_step);
    const bool evaluates =
        is_due(options_.evaluating, options_.evaluate_every) && waited >= options_.evaluation_delay;
    bool saves = is_due(options_.saving, options_.save_every) ||
                 (options_.saving == interval_strategy::steps && is_last);
    // Any other step leaves its result to a later one: nothing waits for the device.
    if (logs || evaluates || saves || is_last || stop_signal::number() != 0) read_results(state, bar);
    if (logs) log(state, bar);
    if (logs || evaluates || saves) make_room(state.history);
    if (evaluates) saves = evaluate(state, bar) || saves;
    const int signal = is_last ? 0 : stop_signal::number();
    if (signal != 0) read_results(state, bar);  // it came in between
    if (saves || signal != 0) events_.save(state, signal != 0 ? save_reason::stopping : save_reason::due);
    if (evaluates || saves) last_result_ = clock::now();  // what this took is not the next update's time
    return signal;
  }

  void log(loop_state& state, progress_bar& bar) {
    log_entry entry;
    entry.step = state.global_step;
    entry.epoch = state.epochs_done;
    // The rate is read after its step: that of the next update (transformers up to 4.50).
    const double rate = events_.learning_rate(trainer_->applied_updates());
    entry.values = {{"loss", python_round(state.window_loss / static_cast<double>(state.window_updates), 4)},
                    {"grad_norm", last_.grad_norm},
                    {"learning_rate", rate}};
    bar.print_above(log_line(entry));
    events_.logged(entry);
    state.history.entries.push_back(std::move(entry));
    state.window_loss = 0.0;
    state.window_updates = 0;
  }

  /// The length to which Hugging Face's collator pads sources; total_flos counts its padding.
  [[nodiscard]] index_t padded_source_length(index_t longest) const {
    if (options_.fixed_source_length > 0) return options_.fixed_source_length;
    return options_.rounds_sources_to_8 ? round_up(longest, 8) : longest;
  }

  struct submitted_update {
    index_t step = 0;
    index_t tokens = 0;  ///< source and target tokens, without padding
  };

  trainer<Run>* trainer_;
  const tokenized_dataset* data_;
  step_arithmetic steps_;
  loop_options options_;
  loop_events events_;
  micro_batch batch_;
  index_t matmul_parameters_ = 0;
  std::array<submitted_update, static_cast<std::size_t>(trainer<Run>::updates_in_flight)> in_flight_;
  update_result last_;
  clock::time_point last_result_;  ///< when it was read
};

}  // namespace t5zero
