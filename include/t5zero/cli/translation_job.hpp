// One translation run from options to saved files: the events of run_translation.py, in its order.
#pragma once

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <ctime>
#include <filesystem>
#include <iostream>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include <t5zero/cli/capacity_checks.hpp>
#include <t5zero/cli/ds_overrides.hpp>
#include <t5zero/cli/generation_choice.hpp>
#include <t5zero/cli/lr_schedule_options.hpp>
#include <t5zero/cli/options.hpp>
#include <t5zero/cli/result_files.hpp>
#include <t5zero/cli/resume.hpp>
#include <t5zero/cli/run_constraints.hpp>
#include <t5zero/cli/run_documents.hpp>
#include <t5zero/cli/split_evaluator.hpp>
#include <t5zero/cli/trainer_settings.hpp>
#include <t5zero/cli/translation_setup.hpp>
#include <t5zero/io/checkpoint_directory.hpp>
#include <t5zero/io/directory_lock.hpp>
#include <t5zero/io/model_directory.hpp>
#include <t5zero/io/tensorboard.hpp>
#include <t5zero/optim/lr_schedule.hpp>
#include <t5zero/train/evaluator.hpp>
#include <t5zero/train/model_saving.hpp>
#include <t5zero/train/report.hpp>
#include <t5zero/train/run.hpp>
#include <t5zero/train/step_arithmetic.hpp>
#include <t5zero/train/stop_signal.hpp>
#include <t5zero/train/trainer.hpp>
#include <t5zero/train/trainer_state.hpp>
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
    read_inputs();
    if (checkpoint_) checkpoint_->check(fingerprint_of_data());
    build_trainer();
    check_output_space();
    summarise();
    if (chosen_.do_train) {
      const run_marker under_way(chosen_, fingerprint);
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

  /// Refuses, before the first update, a place that cannot take what will be saved.
  void check_output_space() const {
    const atomic_save probe(chosen_.output_dir);  // makes the directory, or fails; takes it away again
    if (!chosen_.do_train) return;
    const index_t parameters = parameter_count(files_.config.shape);
    save_sizes sizes{.model = parameters * (saves_16_bit() ? 2 : 4),
                     .state = trainer_->plan().first_moments.bytes + trainer_->plan().second_moments.bytes +
                              (saves_16_bit() ? parameters * 4 : 0)};
    const std::string warning = check_disk_space(chosen_, sizes, checkpoints_at_once(chosen_, *steps_));
    if (!warning.empty()) std::cerr << warning << "\n";
  }

  [[nodiscard]] bool saves_16_bit() const {
    return sizeof(typename Run::param_type) < 4 &&
           (chosen_.save_dtype == save_dtype_choice::half ||
            (chosen_.save_dtype == save_dtype_choice::automatic && ds_));
  }

  void read_inputs() {
    files_ = find_model(chosen_, compiled, Run::model::name, Run::name());
    std::vector<text_pair> train_pairs;
    std::vector<text_pair> validation_pairs;
    std::vector<text_pair> test_pairs;
    if (chosen_.do_train) {
      train_pairs =
          read_split(chosen_, "train", chosen_.train_file, "--train_file", chosen_.max_train_samples);
    }
    if (chosen_.do_eval) {
      validation_pairs = read_split(chosen_, "validation", chosen_.validation_file, "--validation_file",
                                    chosen_.max_eval_samples);
    }
    if (chosen_.do_predict) {
      test_pairs = read_split(chosen_, "test", chosen_.test_file, "--test_file", chosen_.max_predict_samples);
      test_has_references_ = std::all_of(test_pairs.begin(), test_pairs.end(),
                                         [](const text_pair& pair) { return pair.has_target; });
      if (!test_has_references_ && !chosen_.predict_with_generate) {
        std::cerr << "warning: --do_predict on rows without \"" << chosen_.target_lang
                  << "\" and without --predict_with_generate: nothing will be computed; give that flag for "
                     "translations\n";
      }
    }
    // A tokenizer that was trained for this run belongs to its checkpoints.
    const bool trained_for_this_run = !files_.tokenizer_file;
    if (checkpoint_ && trained_for_this_run)
      files_.tokenizer_file = checkpoint_->directory() / "spiece.model";
    const bool trains_tokenizer = !files_.tokenizer_file;
    if (trains_tokenizer && train_pairs.empty()) {
      throw input_error(
          "--from_scratch without --do_train has no text to train a tokenizer on: give --tokenizer_name");
    }
    text_.emplace(make_tokenizer(files_, train_pairs, chosen_.source_prefix.value_or("")));
    if (trains_tokenizer) {
      std::cerr << "Tokenizer: " << text_->vocab_size() - tokenizer::n_extra_ids
                << " pieces, trained on the source and target sentences of " << train_pairs.size()
                << " pairs; --tokenizer_name names another\n";
    }
    // Made now, so that a tokenizer that could not be saved is refused before training.
    tokenizer_files_.emplace(text_->model(), files_.tokenizer_config);
    fit_vocabulary(trained_for_this_run);
    if (chosen_.do_train) {
      train_data_.emplace(tokenize(train_pairs, *text_, chosen_, chosen_.max_target_length, "train"));
      steps_.emplace(train_data_->size(),
                     step_options{.batch_size = chosen_.per_device_train_batch_size,
                                  .gradient_accumulation_steps = chosen_.gradient_accumulation_steps,
                                  .drop_last = chosen_.dataloader_drop_last,
                                  .max_steps = chosen_.max_steps,
                                  .epochs = chosen_.num_train_epochs});
      check_best_model_intervals(chosen_,
                                 loop_options_of(chosen_, *steps_, files_.config.decoder_start_token_id));
    }
    if (chosen_.do_eval) {
      validation_data_.emplace(
          tokenize(validation_pairs, *text_, chosen_, chosen_.evaluation_target_length(), "validation"));
    }
    if (chosen_.do_predict) {
      test_data_.emplace(tokenize(test_pairs, *text_, chosen_, chosen_.evaluation_target_length(), "test"));
    }
  }

  /// The embedding rows of a model that begins anew follow its tokenizer; others must have enough. A
  /// config.json's number stays where it is enough. own_tokenizer: trained for this run.
  void fit_vocabulary(bool own_tokenizer) {
    model_shape& shape = files_.config.shape;
    const index_t ids = text_->vocab_size();
    const bool follows = own_tokenizer || (chosen_.from_scratch && files_.config.json.empty());
    // Rounded up as the published one is (32100 to 32128).
    if (follows || (chosen_.from_scratch && ids > shape.vocab_size)) shape.vocab_size = round_up(ids, 64);
    if (ids <= shape.vocab_size) return;
    const std::string flag =
        chosen_.tokenizer_name ? "--tokenizer_name " + *chosen_.tokenizer_name + ": " : "";
    throw input_error(flag + files_.tokenizer_file->string() + " has " + std::to_string(ids) + " ids, " +
                      files_.source + " " + std::to_string(shape.vocab_size) +
                      " embedding rows: they do not belong together; give the model's own tokenizer" +
                      (chosen_.tokenizer_name ? ", which is found without the flag" : ""));
  }

  void build_trainer() {
    batch_shape evaluation{.batch = 0};
    for (const auto* data : {&validation_data_, &test_data_}) {
      if (!*data) continue;
      const batch_shape of_data = (*data)->largest_batch(
          chosen_.per_device_eval_batch_size, padding_of_labels(chosen_, chosen_.evaluation_target_length()));
      evaluation = evaluation.batch == 0 ? of_data : evaluation.covering(of_data);
    }
    largest_ = evaluation;
    if (train_data_) {
      largest_ = train_data_->largest_batch(chosen_.per_device_train_batch_size,
                                            padding_of_labels(chosen_, chosen_.max_target_length));
    }

    trainer_options settings = trainer_options_of<typename Run::backend>(chosen_, files_.config.dropout_rate);
    settings.evaluation_batch = evaluation;
    check_generations(chosen_, files_.generation, files_.config.shape.vocab_size,
                      chosen_.generation_config.value_or(files_.source));
    settings.generation = generation_bounds(chosen_, files_.generation, files_.config.shape.vocab_size);
    double learning_rate = chosen_.learning_rate;
    if (ds_ && steps_) {
      const ds_overrides decided = apply_ds_config(*ds_, chosen_, compiled.d_model, steps_->max_steps);
      if (decided.optimizer) settings.optimizer = *decided.optimizer;
      settings.max_grad_norm = decided.max_grad_norm;
      settings.scaler = decided.scaler;
      learning_rate = decided.learning_rate;
      ds_schedule_ = decided.schedule;
      if (const std::string notice = overrides_notice(*ds_, chosen_, decided); !notice.empty()) {
        std::cerr << notice << "\n";
      }
    }
    if (steps_) schedule_ = make_lr_schedule(chosen_, learning_rate, steps_->max_steps);
    check_memory_of_plan<Run>(
        Run::plan(files_.config.shape, largest_, trainer<Run>::plan_options_of(settings)), chosen_);
    trainer_ = std::make_unique<trainer<Run>>(files_.config.shape, largest_, settings);
    const clock::time_point start = clock::now();
    if (checkpoint_) {
      checkpoint_->check_run(*trainer_);
      load_checkpoint();
    } else if (files_.weights) {
      const stored_weights weights(*files_.weights, trainer_->parameters(), files_.source);
      trainer_->load([&](const parameter_row& row, float* to) { weights.of(row).read(to); });
    } else {
      trainer_->initialize(static_cast<std::uint32_t>(chosen_.seed), files_.config.initializer_factor);
    }
    files_.weights.reset();
    preparation_time_ = seconds_since(start);
  }

  [[nodiscard]] double learning_rate(index_t applied_updates) const {
    if (ds_schedule_) return (*ds_schedule_)(applied_updates);
    return schedule_(applied_updates);
  }

  void summarise() const {
    std::cerr << "Run: " << Run::name() << "; weights from " << files_.source << "\n"
              << plan_table(Run::name(), largest_, parameter_count(files_.config.shape), trainer_->plan());
    if (!chosen_.source_prefix && !files_.config.shape.gated() && chosen_.do_train) {
      std::cerr << "warning: You're running a t5 model but didn't provide a source prefix, which is the "
                   "expected, e.g. "
                   "with `--source_prefix 'translate English to Romanian: '`\n";
    }
    if (!steps_) return;
    std::cerr << "***** Running training *****\n  Num examples = " << with_thousands(train_data_->size())
              << "\n  Num Epochs = " << with_thousands(steps_->epochs)
              << "\n  Instantaneous batch size per device = "
              << with_thousands(chosen_.per_device_train_batch_size)
              << "\n  Total train batch size (w. parallel, distributed & accumulation) = "
              << with_thousands(chosen_.per_device_train_batch_size * chosen_.gradient_accumulation_steps)
              << "\n  Gradient Accumulation steps = " << chosen_.gradient_accumulation_steps
              << "\n  Total optimization steps = " << with_thousands(steps_->max_steps)
              << "\n  Number of trainable parameters = "
              << with_thousands(parameter_count(files_.config.shape)) << "\n";
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
  [[nodiscard]] data_fingerprint fingerprint_of_data() const {
    return {train_data_->size(), chosen_.per_device_train_batch_size, chosen_.gradient_accumulation_steps,
            order_seed(chosen_), chosen_.dataloader_drop_last,        chosen_.group_by_length};
  }
  /// Returns the signal that asked to stop, or 0.
  int train() {
    const step_arithmetic& steps = *steps_;
    loop_state state;
    std::optional<std::filesystem::path> resumed;
    if (checkpoint_) {
      state = checkpoint_->state();
      resumed = checkpoint_->directory();
      if (chosen_.ignore_data_skip) state.batch = 0;
      checkpoint_.reset();
    }
    note_other_runs(resumed, state.global_step);
    const loop_options how = loop_options_of(chosen_, steps, files_.config.decoder_start_token_id);
    facts_.logging_steps = how.log_every;
    facts_.eval_steps = how.evaluate_every;
    facts_.save_steps = how.save_every;
    facts_.max_steps = steps.max_steps;
    facts_.num_train_epochs = steps.epochs;
    facts_.train_batch_size = how.batch_size;

    loop_events events;
    events.learning_rate = [this](index_t applied) { return learning_rate(applied); };
    events.evaluate = [this](loop_state& at, progress_bar& bar) { return evaluate_during_training(at, bar); };
    events.save = [this](const loop_state& at, save_reason reason) { save_training(at, reason); };
    events.logged = [this](const log_entry& entry) { track(entry); };
    if (chosen_.reports_to_tensorboard()) tensorboard_.emplace(tensorboard_directory());
    const stop_signal listens;
    progress_bar bar("", steps.max_steps, bar_mode(chosen_));
    training_loop<Run> loop(*trainer_, *train_data_, largest_, steps, how, std::move(events));
    const index_t before = state.global_step;
    const std::size_t logged_before = state.history.entries.size();
    const loop_result ended = loop.run(state, bar);
    if (ended.stopped_by != 0) {
      bar.close();
      std::cerr << "Stopped by signal " << ended.stopped_by << " after update " << state.global_step
                << "; checkpoint-" << state.global_step << " is saved. To go on: the same command with "
                << "--resume_from_checkpoint " << chosen_.output_dir << "/checkpoint-" << state.global_step
                << "\n";
      return ended.stopped_by;
    }
    if (state.global_step == before) {
      bar.close();
      finish_without_updates(
          state, resumed && lies_in_output(*resumed) && logged_before == state.history.entries.size());
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
                               ? static_cast<double>(steps_->max_steps * batch)
                               : static_cast<double>(train_data_->size()) * chosen_.num_train_epochs;
    const double loss = state.total_loss / static_cast<double>(std::max<index_t>(1, state.global_step));
    const std::vector<std::pair<std::string, double>> speed = {
        {"train_runtime", python_round(runtime, 4)},
        {"train_samples_per_second", python_round(samples / runtime, 3)},
        {"train_steps_per_second", python_round(static_cast<double>(steps_->max_steps) / runtime, 3)}};
    log_entry summary{state.global_step, state.epochs_done, speed};
    summary.values.emplace_back("train_loss", loss);
    bar.print_above(log_line(summary));
    track(summary);
    bar.close();
    summary.values.emplace_back("total_flos", state.total_flos);
    state.history.entries.push_back(std::move(summary));

    metrics result;
    result.set("epoch", state.epochs_done);
    // With --disable_tqdm Hugging Face's plain printer takes it out of the results.
    if (!chosen_.disable_tqdm.value_or(false)) result.set("total_flos", state.total_flos);
    result.set("train_loss", loss);
    for (const auto& [key, value] : speed) result.set(key, value);
    result.set_count("train_samples", train_data_->size());
    save_final_model(state, &result);
    std::cout << result.table("train") << std::flush;
    warn_of_divergence(state);
    documents_.history = std::move(state.history);
    documents_.facts = {{"updates", with_thousands(steps_->max_steps)},
                        {"train loss", python_repr(python_round(loss, 4))},
                        {"training time", clock_text(runtime)}};
  }
  /// The checkpoint was that of the last update: its time and speed are those of the run that wrote it.
  /// has_log: an earlier trainer_state.json in output_dir says as much as this one would.
  void finish_without_updates(loop_state& state, bool has_log) {
    std::cerr << "Nothing is left to train: the checkpoint stands after update "
              << with_thousands(state.global_step) << ", the run ends at "
              << with_thousands(steps_->max_steps) << "; train_results.json stays as it is\n";
    save_final_model(state, nullptr, has_log);
    warn_of_divergence(state);
    const double loss = state.total_loss / static_cast<double>(std::max<index_t>(1, state.global_step));
    documents_.history = std::move(state.history);
    documents_.facts = {{"updates", with_thousands(state.global_step)},
                        {"train loss", python_repr(python_round(loss, 4))}};
  }
  /// result: of the updates; null: there were none. keeps_log: leaves a trainer_state.json that is there.
  void save_final_model(const loop_state& state, const metrics* result, bool keeps_log = false) {
    epoch_ = state.epochs_done;
    if (chosen_.load_best_model_at_end) load_best(state);
    facts_.training_is_over = true;
    atomic_save save(chosen_.output_dir);
    add_model(save);
    if (result != nullptr) add_results(save, "train", *result);
    if (!keeps_log || !std::filesystem::exists(save.directory() / "trainer_state.json"))
      save.add("trainer_state.json", trainer_state_json(state, facts_));
    save.commit();
    std::cerr << "Model saved in " << chosen_.output_dir << " (" << saved_type_name<Run>(saves_16_bit())
              << ")\n";
  }

  /// Where Hugging Face puts its event files: runs/<month day_hour-minute-second>_<host>.
  [[nodiscard]] std::filesystem::path tensorboard_directory() const {
    if (chosen_.logging_dir) return *chosen_.logging_dir;
    const std::time_t now = std::time(nullptr);
    char date[64];
    struct tm local {};
    std::strftime(date, sizeof(date), "%b%d_%H-%M-%S", ::localtime_r(&now, &local));
    char host[256] = {};
    ::gethostname(host, sizeof(host) - 1);
    return std::filesystem::path(chosen_.output_dir) / "runs" / (std::string(date) + "_" + host);
  }
  /// Hugging Face's tags: eval_x is eval/x, everything else train/x.
  void track(const log_entry& entry) {
    if (!tensorboard_) return;
    for (const auto& [key, value] : entry.values) {
      const bool evaluates = key.starts_with("eval_");
      tensorboard_->add_scalar(evaluates ? "eval/" + key.substr(5) : "train/" + key, value, entry.step);
    }
    tensorboard_->add_scalar("train/epoch", entry.epoch, entry.step);
  }

  /// The model card, and after a training its report.
  void save_documents() const {
    const bool has_card = std::filesystem::exists(std::filesystem::path(chosen_.output_dir) / "README.md");
    atomic_save save(chosen_.output_dir);
    // An evaluation in a model's own directory leaves the card of its training.
    if (chosen_.do_train || !has_card) save.add("README.md", model_card_text(chosen_, documents_));
    if (chosen_.do_train) {
      save.add("training_report.html",
               training_report_text(chosen_, Run::name(), files_.source, Run::precision::needs_loss_scale,
                                    trainer_->plan(), documents_));
    }
    save.commit();
  }

  void add_model(atomic_save& save) {
    const bool narrow = saves_16_bit();
    add_model_directory(save, files_.config, files_.generation.json, model_tensors(*trainer_, narrow),
                        saved_type_name<Run>(narrow), *tokenizer_files_);
  }

  /// Writes checkpoint-<step> and removes what save_total_limit leaves no room for. A run that stops saves
  /// all that it needs to go on, also under --save_only_model.
  void save_training(const loop_state& state, save_reason reason) {
    const std::filesystem::path output = chosen_.output_dir;
    if (state.best) facts_.best_model_checkpoint = (output / checkpoint_name_of(state.best->step)).string();
    save_checkpoint(output, state.global_step, [&](atomic_save& save) {
      add_model(save);
      if (!chosen_.save_only_model || reason == save_reason::stopping)
        add_training_state(save, *trainer_, !saves_16_bit(), state, fingerprint_of_data());
      save.add("trainer_state.json", trainer_state_json(state, facts_));
    });
    steps_of_other_runs_.erase(state.global_step);
    if (chosen_.save_total_limit) {
      std::set<index_t> kept = {state.global_step};
      if (chosen_.load_best_model_at_end && state.best) kept.insert(state.best->step);
      // What a run that diverged can go on from.
      if (const auto sound = last_sound_checkpoint(state)) kept.insert(sound->step);
      prune_checkpoints(output, *chosen_.save_total_limit, kept, steps_of_other_runs_);
    }
  }
  [[nodiscard]] bool lies_in_output(const std::filesystem::path& checkpoint) const {
    std::error_code failure;
    return std::filesystem::equivalent(checkpoint / "..", chosen_.output_dir, failure);
  }
  /// Notes which checkpoints in the output directory this run does not go on from: all of them if it begins
  /// anew, and those after `resumed`.
  void note_other_runs(const std::optional<std::filesystem::path>& resumed, index_t step) {
    const bool goes_on = resumed && lies_in_output(*resumed);
    for (const checkpoint_directory& other : find_checkpoints(chosen_.output_dir)) {
      if (!goes_on || other.step > step) steps_of_other_runs_.insert(other.step);
    }
  }
  /// The last checkpoint of this run before the update that spoilt the weights, if one did.
  [[nodiscard]] std::optional<checkpoint_directory> last_sound_checkpoint(const loop_state& state) const {
    std::optional<checkpoint_directory> last;
    for (const checkpoint_directory& one : find_checkpoints(chosen_.output_dir)) {
      const bool is_own = !steps_of_other_runs_.contains(one.step);
      if (is_own && one.step < state.diverged_at) last = one;
    }
    return last;
  }
  /// Says, where it is so, that the model that was saved is of no use.
  void warn_of_divergence(const loop_state& state) const {
    const bool is_best = chosen_.load_best_model_at_end && state.best && state.best->step < state.diverged_at;
    if (state.diverged_at == 0 || is_best) return;
    const auto sound = last_sound_checkpoint(state);
    std::cerr << "warning: the gradients of update " << state.diverged_at << " of " << state.global_step
              << " were not finite: the model saved in " << chosen_.output_dir << " is of no use. "
              << (sound ? "The last checkpoint before: " + sound->path.string() +
                              ". Go on from it, or begin again, with a lower --learning_rate"
                        : std::string("Begin again with a lower --learning_rate"))
              << "\n";
  }
  [[nodiscard]] static std::string checkpoint_name_of(index_t step) {
    return "checkpoint-" + std::to_string(step);
  }

  void load_best(const loop_state& state) {
    if (!state.best) return;
    const std::filesystem::path best =
        std::filesystem::path(chosen_.output_dir) / checkpoint_name_of(state.best->step);
    if (!std::filesystem::exists(best)) {
      std::cerr << "warning: the best checkpoint, " << best.string()
                << ", is not there: the last weights are saved\n";
      return;
    }
    std::cerr << "Loading best model from " << best.string() << " (score: " << python_repr(state.best->metric)
              << ").\n";
    const tensor_archive archive = tensor_archive::open_model(best);
    const stored_weights weights(archive, trainer_->parameters(), best.string());
    trainer_->load([&](const parameter_row& row, float* to) { weights.of(row).read(to); });
  }

  [[nodiscard]] split_evaluator<Run> evaluator() const { return {chosen_, files_, *text_, *trainer_}; }

  /// An evaluation between two updates.
  evaluation_outcome evaluate_during_training(loop_state& state, progress_bar& bar) {
    const evaluation_result result = evaluator().during_training(*validation_data_);
    if (result.ended_by_signal) {
      bar.print_above("The evaluation after update " + std::to_string(state.global_step) + " is left out",
                      std::cerr);
      return evaluation_outcome::ended_by_signal;
    }
    log_entry entry{state.global_step, state.epochs_done, {}};
    for (const auto& [key, value] : result.values) entry.values.emplace_back("eval_" + key, value);
    bar.print_above(log_line(entry));
    track(entry);
    state.history.entries.push_back(std::move(entry));
    const double* metric = result.find(chosen_.best_metric());
    if (metric == nullptr) return evaluation_outcome::other;
    const bool better = !state.best || (chosen_.larger_is_better() ? *metric > state.best->metric
                                                                   : *metric < state.best->metric);
    if (better) state.best = best_evaluation{*metric, state.global_step};
    return better ? evaluation_outcome::best : evaluation_outcome::other;
  }

  void evaluate_at_end() {
    std::cerr << "*** Evaluate ***\n";
    const evaluation_result result = evaluator().at_end("eval", *validation_data_, /*has_references=*/true);
    const metrics all = metrics_of_split(chosen_, "eval", result, preparation_time_, epoch_);
    documents_.add("eval", result, *validation_data_, *text_);
    print_scores(result);
    atomic_save save(chosen_.output_dir);
    add_results(save, "eval", all);
    save.commit();
    std::cout << all.table("eval") << std::flush;
  }

  void predict() {
    std::cerr << "*** Predict ***\n";
    if (!test_has_references_) {
      std::cerr << "the test data has rows without \"" << chosen_.target_lang
                << "\": no loss and no BLEU are computed\n";
    }
    const evaluation_result result = evaluator().at_end("predict", *test_data_, test_has_references_);
    const metrics all = metrics_of_split(chosen_, "predict", result, preparation_time_, epoch_);
    documents_.add("predict", result, *test_data_, *text_);
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
  model_files files_;
  std::optional<tokenizer> text_;
  std::optional<tokenizer_to_save> tokenizer_files_;
  std::optional<tokenized_dataset> train_data_;
  std::optional<tokenized_dataset> validation_data_;
  std::optional<tokenized_dataset> test_data_;
  bool test_has_references_ = true;
  std::optional<training_checkpoint> checkpoint_;  ///< to go on from; gone once training has begun
  std::set<index_t> steps_of_other_runs_;          ///< whose checkpoints lie in the output directory
  trainer_state_facts facts_;
  run_documents documents_;
  std::optional<tensorboard_writer> tensorboard_;
  std::optional<step_arithmetic> steps_;
  lr_schedule schedule_;
  std::optional<warmup_lr_schedule> ds_schedule_;  ///< stands over schedule_
  batch_shape largest_;
  std::unique_ptr<trainer<Run>> trainer_;
  double epoch_ = 0.0;
  double preparation_time_ = 0.0;  ///< seconds to fill the trainer with weights
};

}  // namespace t5zero::cli
