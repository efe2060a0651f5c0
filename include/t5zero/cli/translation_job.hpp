// One translation run from options to saved files: the events of run_translation.py, in its order.
#pragma once

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <iostream>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <t5zero/cli/bar_mode.hpp>
#include <t5zero/cli/capacity_checks.hpp>
#include <t5zero/cli/check_output_directory.hpp>
#include <t5zero/cli/ds_overrides.hpp>
#include <t5zero/cli/generation_choice.hpp>
#include <t5zero/cli/job_inputs.hpp>
#include <t5zero/cli/label_padding.hpp>
#include <t5zero/cli/lr_schedule_options.hpp>
#include <t5zero/cli/options.hpp>
#include <t5zero/cli/result_files.hpp>
#include <t5zero/cli/resume.hpp>
#include <t5zero/cli/run_constraints.hpp>
#include <t5zero/cli/run_documents.hpp>
#include <t5zero/cli/run_saver.hpp>
#include <t5zero/cli/run_tracker.hpp>
#include <t5zero/cli/split_evaluator.hpp>
#include <t5zero/cli/trainer_settings.hpp>
#include <t5zero/cli/training_summary.hpp>
#include <t5zero/core/integers.hpp>
#include <t5zero/io/directory_lock.hpp>
#include <t5zero/optim/lr_schedule.hpp>
#include <t5zero/train/coming_batches.hpp>
#include <t5zero/train/evaluator.hpp>
#include <t5zero/train/last_checkpoint.hpp>
#include <t5zero/train/report.hpp>
#include <t5zero/train/run.hpp>
#include <t5zero/train/step_arithmetic.hpp>
#include <t5zero/train/stop_signal.hpp>
#include <t5zero/train/trainer.hpp>
#include <t5zero/train/training_checkpoint.hpp>
#include <t5zero/train/training_loop.hpp>
#include <t5zero/zero/ds_config.hpp>

namespace t5zero::cli {

/// Everything of one run of type Run.
template <class Run>
class translation_job {
 public:
  translation_job(options chosen, std::optional<ds_config> config)
      : chosen_(std::move(chosen)), ds_(std::move(config)) {}

  int run() {
    const broken_pipes_ignored unread;
    if (chosen_.save_dtype == save_dtype_choice::half && sizeof(typename Run::param_type) == 4) {
      throw input_error(
          "--save_dtype 16bit: this run holds fp32 weights; train with --fp16 or --bf16, or leave "
          "the flag out");
    }
    if (!chosen_.do_train && !chosen_.do_eval && !chosen_.do_predict) {
      std::cerr << "There is nothing to do. Please pass `do_train`, `do_eval` and/or `do_predict`.\n";
      return 0;
    }
    check_memory_of_model<Run>(plan_options_of<typename Run::backend>(chosen_, compiled.vocab_size));
    check_output_directory(chosen_);
    const directory_lock alone = lock_output_directory(chosen_);
    const std::string fingerprint = run_fingerprint(chosen_, Run::name());
    if (const auto start = find_start(chosen_, fingerprint)) open_checkpoint(*start);
    in_.emplace(read_inputs(chosen_, compiled, Run::model::name, Run::name(),
                            checkpoint_ ? std::optional(checkpoint_->directory()) : std::nullopt));
    if (checkpoint_) checkpoint_->check(fingerprint_of_data(chosen_, *in_->train_data));
    build_trainer();
    saver_.emplace(chosen_, ds_.has_value(), *in_, *trainer_);
    saver_->check_space();
    summarise();
    if (chosen_.do_train || chosen_.do_eval) tracker_.start(chosen_);
    if (chosen_.do_train) {
      run_number_ = 1 + last_run_number(chosen_.output_dir);
      const run_marker under_way(chosen_, fingerprint, run_number_, checkpoint_.has_value());
      if (const int signal = train(); signal != 0) return 128 + signal;
    }
    if (chosen_.do_eval) evaluate_at_end();
    if (chosen_.do_predict) predict();
    save_documents();
    return 0;
  }

 private:
  using clock = std::chrono::steady_clock;
  static constexpr model_shape compiled = Run::model::shape;

  static double seconds_since(clock::time_point start) {
    return std::chrono::duration<double>(clock::now() - start).count();
  }

  void build_trainer() {
    batch_shape evaluation{.batch = 0};
    for (const auto* data : {&in_->validation_data, &in_->test_data}) {
      if (!*data) continue;
      const batch_shape of_data = (*data)->largest_batch(
          chosen_.per_device_eval_batch_size, padding_of_labels(chosen_, chosen_.evaluation_target_length()));
      evaluation = evaluation.batch == 0 ? of_data : evaluation.covering(of_data);
    }
    largest_ = evaluation;
    if (in_->train_data) largest_ = largest_training_batch();

    trainer_options settings =
        trainer_options_of<typename Run::backend>(chosen_, in_->files.config.dropout_rate);
    settings.evaluation_batch = evaluation;
    check_generations(chosen_, in_->files.generation, in_->files.config.shape.vocab_size);
    settings.generation =
        generation_bounds(chosen_, in_->files.generation, in_->files.config.shape.vocab_size);
    double learning_rate = chosen_.learning_rate;
    if (ds_ && in_->steps) {
      const ds_overrides decided = apply_ds_config(*ds_, chosen_, compiled.d_model, in_->steps->max_steps);
      if (decided.optimizer) settings.optimizer = *decided.optimizer;
      settings.max_grad_norm = decided.max_grad_norm;
      settings.scaler = decided.scaler;
      learning_rate = decided.learning_rate;
      ds_schedule_ = decided.schedule;
      if (const std::string notice = overrides_notice(*ds_, chosen_, decided); !notice.empty()) {
        std::cerr << notice << "\n";
      }
    }
    if (in_->steps) schedule_ = make_lr_schedule(chosen_, learning_rate, in_->steps->max_steps);
    check_memory_of_plan<Run>(
        Run::plan(in_->files.config.shape, largest_, trainer<Run>::plan_options_of(settings)), chosen_);
    trainer_ = std::make_unique<trainer<Run>>(in_->files.config.shape, largest_, settings);
    const clock::time_point start = clock::now();
    if (checkpoint_) {
      checkpoint_->check_run(*trainer_);
      load_checkpoint();
    } else if (in_->files.weights) {
      const stored_weights weights(*in_->files.weights, trainer_->parameters(), in_->files.source);
      trainer_->load([&](const parameter_row& row, float* to) { weights.of(row).read(to); });
    } else {
      trainer_->initialize(static_cast<std::uint32_t>(chosen_.seed), in_->files.config.initializer_factor);
    }
    in_->files.weights.reset();
    preparation_time_ = seconds_since(start);
  }

  /// Of the updates that are left. An epoch that was begun counts from its start, which --ignore_data_skip
  /// goes back to.
  [[nodiscard]] batch_shape largest_training_batch() const {
    const loop_options how = loop_options_of(chosen_, *in_->steps, in_->files.config.decoder_start_token_id);
    if (!checkpoint_)
      return largest_coming_batch(*in_->train_data, how, *in_->steps, 0, in_->steps->max_steps);
    const loop_state& from = checkpoint_->state();
    const index_t done_of_epoch = ceil_div(from.batch, how.gradient_accumulation);
    return largest_coming_batch(*in_->train_data, how, *in_->steps, from.epoch,
                                done_of_epoch + in_->steps->max_steps - from.global_step);
  }

  [[nodiscard]] double learning_rate(index_t applied_updates) const {
    if (ds_schedule_) return (*ds_schedule_)(applied_updates);
    return schedule_(applied_updates);
  }

  void summarise() const {
    std::cerr << "Run: " << Run::name() << "; weights from " << in_->files.source << "\n"
              << plan_table(Run::name(), largest_, parameter_count(in_->files.config.shape),
                            trainer_->plan());
    if (!chosen_.source_prefix && !in_->files.config.shape.gated() && chosen_.do_train) {
      std::cerr << "warning: You're running a t5 model but didn't provide a source prefix, which is the "
                   "expected, e.g. "
                   "with `--source_prefix 'translate English to Romanian: '`\n";
    }
    if (!in_->steps) return;
    std::cerr << "***** Running training *****\n  Num examples = " << with_thousands(in_->train_data->size())
              << "\n  Num Epochs = " << with_thousands(in_->steps->epochs)
              << "\n  Instantaneous batch size per device = "
              << with_thousands(chosen_.per_device_train_batch_size)
              << "\n  Total train batch size (w. parallel, distributed & accumulation) = "
              << with_thousands(chosen_.per_device_train_batch_size * chosen_.gradient_accumulation_steps)
              << "\n  Gradient Accumulation steps = " << chosen_.gradient_accumulation_steps
              << "\n  Total optimization steps = " << with_thousands(in_->steps->max_steps)
              << "\n  Number of trainable parameters = "
              << with_thousands(parameter_count(in_->files.config.shape)) << "\n";
    if (!checkpoint_) return;
    const loop_state& state = checkpoint_->state();
    std::cerr << "  Continuing training from " << checkpoint_->directory().string()
              << "\n  Continuing training from epoch " << state.epoch
              << "\n  Continuing training from global step " << state.global_step << "\n";
  }

  /// Reads and checks the checkpoint that the run goes on from.
  void open_checkpoint(const std::filesystem::path& path) {
    try {
      checkpoint_.emplace(path);
    } catch (const input_error& e) {
      throw input_error(e.what() + other_checkpoint_hint(path));
    }
  }
  void load_checkpoint() {
    try {
      checkpoint_->load(*trainer_);
    } catch (const input_error& e) {
      throw input_error(e.what() + other_checkpoint_hint(checkpoint_->directory()));
    }
  }
  /// Returns the signal that asked to stop, or 0.
  int train() {
    const step_arithmetic& steps = *in_->steps;
    loop_state state;
    std::optional<std::filesystem::path> resumed;
    if (checkpoint_) {
      state = checkpoint_->state();
      resumed = checkpoint_->directory();
      if (chosen_.ignore_data_skip) state.batch = 0;
      checkpoint_.reset();
    }
    state.run_number = run_number_;
    const loop_options how = loop_options_of(chosen_, steps, in_->files.config.decoder_start_token_id);
    saver_->begin(how, resumed, state.global_step);

    loop_events events;
    events.learning_rate = [this](index_t applied) { return learning_rate(applied); };
    events.evaluate = [this](loop_state& at, progress_bar& bar, evaluation_moment moment) {
      return evaluate_during_training(at, bar, moment);
    };
    events.save = [this](loop_state& at, save_reason reason) { saver_->save_checkpoint(at, reason); };
    events.logged = [this](const log_entry& entry) { tracker_.track(entry); };
    const stop_signal listens;
    progress_bar bar("", steps.max_steps, bar_mode(chosen_));
    training_loop<Run> loop(*trainer_, *in_->train_data, largest_, steps, how, std::move(events));
    const index_t before = state.global_step;
    const loop_result ended = loop.run(state, bar);
    epoch_ = state.epochs_done;
    global_step_ = state.global_step;
    if (ended.stopped_by != 0) {
      bar.close();
      const std::filesystem::path saved = saver_->checkpoint_of(state.global_step);
      std::cerr << "Stopped by signal " << ended.stopped_by << " after update " << state.global_step << "; "
                << saved.filename().string()
                << " is saved. To go on: the same command with --resume_from_checkpoint " << saved.string()
                << "\n";
      return ended.stopped_by;
    }
    if (state.global_step == before) {
      bar.close();
      finish_without_updates(state, resumed && saver_->lies_in_output(*resumed));
    } else {
      finish_training(state, ended, bar);
    }
    const int signal = stop_signal::number();
    if (signal == 0) return 0;
    save_documents();
    std::cerr << "Signal " << signal << " came when training ended: the model is saved in "
              << chosen_.output_dir << ", evaluation and prediction are left out\n";
    return signal;
  }

  void finish_training(loop_state& state, const loop_result& ended, progress_bar& bar) {
    const double runtime = std::max(ended.seconds, 1e-9);
    const index_t batch = chosen_.per_device_train_batch_size * chosen_.gradient_accumulation_steps;
    const double samples = chosen_.max_steps > 0
                               ? static_cast<double>(in_->steps->max_steps * batch)
                               : static_cast<double>(in_->train_data->size()) * chosen_.num_train_epochs;
    const double loss = mean_loss(state);
    const std::vector<std::pair<std::string, double>> speed = {
        {"train_runtime", python_round(runtime, 4)},
        {"train_samples_per_second", python_round(samples / runtime, 3)},
        {"train_steps_per_second", python_round(static_cast<double>(in_->steps->max_steps) / runtime, 3)}};
    log_entry summary{state.global_step, state.epochs_done, speed};
    summary.values.emplace_back("train_loss", loss);
    bar.print_above(log_line(summary));
    tracker_.track(summary);
    bar.close();
    summary.values.emplace_back("total_flos", state.total_flos);
    state.history.entries.push_back(std::move(summary));

    metrics result;
    result.set("epoch", state.epochs_done);
    // With --disable_tqdm Hugging Face's plain printer takes it out of the results.
    if (!chosen_.disable_tqdm.value_or(false)) result.set("total_flos", state.total_flos);
    result.set("train_loss", loss);
    for (const auto& [key, value] : speed) result.set(key, value);
    result.set_count("train_samples", in_->train_data->size());
    saver_->save_model(state, &result);
    std::cout << result.table("train") << std::flush;
    saver_->warn_of_divergence(state);
    documents_.history = std::move(state.history);
    documents_.facts = {{"updates", with_thousands(in_->steps->max_steps)},
                        {"train loss", python_repr(python_round(loss, 4))},
                        {"training time", clock_text(runtime)}};
  }
  /// The checkpoint was that of the last update: its time and speed are those of the run that wrote it.
  /// goes_on: that run was in this output_dir, where its summary may lie.
  void finish_without_updates(loop_state& state, bool goes_on) {
    std::cerr << "Nothing is left to train: the checkpoint stands after update "
              << with_thousands(state.global_step) << ", the run ends at "
              << with_thousands(in_->steps->max_steps)
              << (std::filesystem::exists(std::filesystem::path(chosen_.output_dir) / "train_results.json")
                      ? "; train_results.json stays as it is\n"
                      : "; train_results.json is not written\n");
    const auto summary = goes_on ? earlier_summary(chosen_.output_dir, state) : std::nullopt;
    if (summary) state.history.entries.push_back(*summary);
    saver_->save_model(state, nullptr);
    saver_->warn_of_divergence(state);
    documents_.history = std::move(state.history);
    documents_.facts = {{"updates", with_thousands(state.global_step)},
                        {"train loss", python_repr(python_round(mean_loss(state), 4))}};
    if (summary) documents_.facts.emplace_back("training time", clock_text(summary->values.front().second));
  }
  /// The model card, and after a training its report.
  void save_documents() const {
    const bool has_card = std::filesystem::exists(std::filesystem::path(chosen_.output_dir) / "README.md");
    atomic_save save(chosen_.output_dir);
    // An evaluation in a model's own directory leaves the card of its training.
    if (chosen_.do_train || !has_card) save.add("README.md", model_card_text(chosen_, documents_));
    if (chosen_.do_train) {
      save.add("training_report.html",
               training_report_text(chosen_, Run::name(), in_->files.source, Run::precision::needs_loss_scale,
                                    trainer_->plan(), documents_));
    }
    save.commit();
  }

  [[nodiscard]] split_evaluator<Run> evaluator() const { return {chosen_, in_->files, in_->text, *trainer_}; }

  /// An evaluation before the first update or between two.
  evaluation_outcome evaluate_during_training(loop_state& state, progress_bar& bar,
                                              evaluation_moment moment) {
    const evaluation_result result = evaluator().during_training(*in_->validation_data);
    if (result.ended_by_signal) {
      bar.print_above("The evaluation after update " + std::to_string(state.global_step) + " is left out",
                      std::cerr);
      return evaluation_outcome::ended_by_signal;
    }
    log_entry entry{state.global_step, state.epochs_done, {}};
    for (const auto& [key, value] : result.values) entry.values.emplace_back("eval_" + key, value);
    bar.print_above(log_line(entry));
    const std::string warning = warning_of_loss("eval", result);
    if (!warning.empty()) bar.print_above(warning, std::cerr);
    tracker_.track(entry);
    state.history.entries.push_back(std::move(entry));
    // Weights that were not trained are no candidate for the best model (transformers calls _evaluate alone).
    if (moment == evaluation_moment::at_start || !chosen_.chooses_best()) return evaluation_outcome::other;
    const double* metric = result.find(chosen_.best_metric());
    if (metric == nullptr || !std::isfinite(*metric)) return evaluation_outcome::other;
    const bool better = !state.best || (chosen_.larger_is_better() ? *metric > state.best->metric
                                                                   : *metric < state.best->metric);
    if (!better) return evaluation_outcome::other;
    state.best = best_evaluation{*metric, state.global_step};
    saver_->note_best(state);
    return evaluation_outcome::best;
  }

  static void warn_of_loss(const std::string& split, const evaluation_result& result) {
    const std::string warning = warning_of_loss(split, result);
    if (!warning.empty()) std::cerr << warning << "\n";
  }

  void evaluate_at_end() {
    std::cerr << "*** Evaluate ***\n";
    const evaluation_result result =
        evaluator().at_end("eval", *in_->validation_data, /*has_references=*/true);
    warn_of_loss("eval", result);
    const metrics all = metrics_of_split(chosen_, "eval", result, preparation_time_, epoch_);
    // As Trainer.evaluate logs it; without a training there is no epoch.
    log_entry entry{global_step_, epoch_, {}};
    for (const auto& [key, value] : result.values) entry.values.emplace_back("eval_" + key, value);
    tracker_.track(entry, /*has_epoch=*/chosen_.do_train);
    documents_.add("eval", result, *in_->validation_data, in_->text);
    print_scores(result);
    atomic_save save(chosen_.output_dir);
    add_results(save, "eval", all);
    save.commit();
    std::cout << all.table("eval") << std::flush;
  }

  void predict() {
    std::cerr << "*** Predict ***\n";
    if (!in_->test_has_references) {
      std::cerr << "the test data has rows without \"" << chosen_.target_lang
                << "\": no loss and no BLEU are computed\n";
    }
    const evaluation_result result = evaluator().at_end("predict", *in_->test_data, in_->test_has_references);
    warn_of_loss("predict", result);
    const metrics all = metrics_of_split(chosen_, "predict", result, preparation_time_, epoch_);
    documents_.add("predict", result, *in_->test_data, in_->text);
    print_scores(result);
    atomic_save save(chosen_.output_dir);
    add_results(save, "predict", all);
    if (chosen_.predict_with_generate) {
      std::string lines;
      for (std::size_t i = 0; i < result.predictions.size(); ++i)
        lines.append(i == 0 ? "" : "\n").append(result.predictions[i]);
      save.add("generated_predictions.txt", lines);
    }
    save.commit();
    std::cout << all.table("predict") << std::flush;
  }

  options chosen_;
  std::optional<ds_config> ds_;
  std::optional<job_inputs> in_;
  std::optional<training_checkpoint> checkpoint_;  ///< to go on from; gone once training has begun
  run_documents documents_;
  run_tracker tracker_;
  lr_schedule schedule_;
  std::optional<warmup_lr_schedule> ds_schedule_;  ///< stands over schedule_
  batch_shape largest_;
  std::unique_ptr<trainer<Run>> trainer_;
  std::optional<run_saver<Run>> saver_;
  index_t run_number_ = 0;         ///< among those that trained into this output directory, from 1
  double epoch_ = 0.0;             ///< where training ended
  index_t global_step_ = 0;        ///< updates done by then
  double preparation_time_ = 0.0;  ///< seconds to fill the trainer with weights
};

}  // namespace t5zero::cli
