// What a run saves of its weights: checkpoints on the way, the model at the end.
#pragma once

#include <filesystem>
#include <iostream>
#include <optional>
#include <set>
#include <string>
#include <system_error>

#include <t5zero/cli/capacity_checks.hpp>
#include <t5zero/cli/job_inputs.hpp>
#include <t5zero/cli/options.hpp>
#include <t5zero/cli/result_files.hpp>
#include <t5zero/cli/trainer_settings.hpp>
#include <t5zero/core/integers.hpp>
#include <t5zero/io/atomic_save.hpp>
#include <t5zero/io/checkpoint_directory.hpp>
#include <t5zero/io/model_directory.hpp>
#include <t5zero/io/weights.hpp>
#include <t5zero/plan/parameter_table.hpp>
#include <t5zero/train/data_fingerprint.hpp>
#include <t5zero/train/loop_state.hpp>
#include <t5zero/train/model_saving.hpp>
#include <t5zero/train/python_repr.hpp>
#include <t5zero/train/report.hpp>
#include <t5zero/train/step_arithmetic.hpp>
#include <t5zero/train/trainer.hpp>
#include <t5zero/train/trainer_state.hpp>
#include <t5zero/train/training_checkpoint.hpp>
#include <t5zero/train/training_loop.hpp>

namespace t5zero::cli {

/// What the order of the examples of a run depends on.
[[nodiscard]] inline data_fingerprint fingerprint_of_data(const options& chosen,
                                                          const tokenized_dataset& train_data) {
  return {train_data.size(),  chosen.per_device_train_batch_size, chosen.gradient_accumulation_steps,
          order_seed(chosen), chosen.dataloader_drop_last,        chosen.group_by_length};
}

/// Saves into --output_dir. What it is made of outlives it.
template <class Run>
class run_saver {
 public:
  run_saver(const options& chosen, bool has_ds_config, const job_inputs& in, trainer<Run>& trained)
      : chosen_(&chosen),
        in_(&in),
        trainer_(&trained),
        saves_16_bit_(sizeof(typename Run::param_type) < 4 &&
                      (chosen.save_dtype == save_dtype_choice::half ||
                       (chosen.save_dtype == save_dtype_choice::automatic && has_ds_config))) {}

  /// Refuses, before the first update, a place that cannot take what will be saved.
  void check_space() const {
    const atomic_save probe(output());  // makes the directory, or fails; takes it away again
    if (!chosen_->do_train) return;
    const index_t parameters = parameter_count(trainer_->shape());
    const save_sizes sizes{.model = parameters * (saves_16_bit_ ? 2 : 4),
                           .state = trainer_->plan().first_moments.bytes +
                                    trainer_->plan().second_moments.bytes +
                                    (saves_16_bit_ ? parameters * 4 : 0)};
    const std::string warning = check_disk_space(*chosen_, sizes, checkpoints_at_once(*chosen_, *in_->steps));
    if (!warning.empty()) std::cerr << warning << "\n";
  }

  /// Called before the first update. resumed, step: the checkpoint that the run goes on from, if it does.
  void begin(const loop_options& how, const std::optional<std::filesystem::path>& resumed, index_t step) {
    if (resumed) resumed_ = checkpoint_directory{step, *resumed};
    facts_.logging_steps = how.log_every;
    facts_.eval_steps = how.evaluate_every;
    facts_.save_steps = how.save_every;
    facts_.max_steps = in_->steps->max_steps;
    facts_.num_train_epochs = in_->steps->epochs;
    facts_.train_batch_size = how.batch_size;
    // All checkpoints that are there are another run's if this one begins anew, else those after `resumed`.
    const bool goes_on = resumed && lies_in_output(*resumed);
    for (const checkpoint_directory& other : find_checkpoints(output())) {
      if (!goes_on || other.step > step) steps_of_other_runs_.insert(other.step);
    }
  }

  /// Called when an evaluation is the best so far. One that a resumed run makes up for is of weights that lie
  /// in a checkpoint already.
  void note_best(loop_state& state) const {
    if (resumed_ && resumed_->step == state.global_step) state.best_saved = {*state.best, resumed_->path};
  }

  /// Writes checkpoint-<step> and removes what save_total_limit leaves no room for. A run that stops saves
  /// all that it needs to go on, also under --save_only_model.
  void save_checkpoint(loop_state& state, save_reason reason) {
    if (state.best && state.best->step == state.global_step)
      state.best_saved = {*state.best, checkpoint_of(state.global_step)};
    t5zero::save_checkpoint(output(), state.global_step, [&](atomic_save& save) {
      add_model(save);
      if (!chosen_->save_only_model || reason == save_reason::stopping) {
        add_training_state(save, *trainer_, !saves_16_bit_, state,
                           fingerprint_of_data(*chosen_, *in_->train_data));
      }
      save.add("trainer_state.json", trainer_state_json(state, facts_));
    });
    steps_of_other_runs_.erase(state.global_step);
    if (!chosen_->save_total_limit) return;
    std::set<index_t> kept = {state.global_step};
    if (state.best_saved && lies_in_output(state.best_saved->directory))
      kept.insert(state.best_saved->of.step);
    // What a run that diverged can go on from.
    if (const auto sound = last_sound_checkpoint(state)) kept.insert(sound->step);
    prune_checkpoints(output(), *chosen_->save_total_limit, kept, steps_of_other_runs_);
  }

  /// Saves the model that training ends with, after --load_best_model_at_end the best. result: of the
  /// updates; null: there were none.
  void save_model(const loop_state& state, const metrics* result) {
    if (chosen_->load_best_model_at_end) load_best_weights(state);
    facts_.training_is_over = true;
    atomic_save save(output());
    add_model(save);
    if (result != nullptr) add_results(save, "train", *result);
    save.add("trainer_state.json", trainer_state_json(state, facts_));
    save.commit();
    std::cerr << "Model saved in " << chosen_->output_dir << " (" << saved_type_name<Run>(saves_16_bit_)
              << ")\n";
  }

  /// Says, where it is so, that the model that was saved is of no use.
  void warn_of_divergence(const loop_state& state) const {
    const bool is_best =
        chosen_->load_best_model_at_end && state.best_saved && state.best_saved->of.step < state.diverged_at;
    if (state.diverged_at == 0 || is_best) return;
    const auto sound = last_sound_checkpoint(state);
    std::cerr << "warning: the gradients of update " << state.diverged_at << " of " << state.global_step
              << " were not finite: the model saved in " << chosen_->output_dir << " is of no use. "
              << (sound ? "The last checkpoint before: " + sound->path.string() +
                              ". Go on from it, or begin again, with a lower --learning_rate"
                        : std::string("Begin again with a lower --learning_rate"))
              << "\n";
  }

  [[nodiscard]] bool lies_in_output(const std::filesystem::path& checkpoint) const {
    std::error_code failure;
    return std::filesystem::equivalent(checkpoint / "..", output(), failure);
  }
  [[nodiscard]] std::filesystem::path checkpoint_of(index_t step) const {
    return output() / ("checkpoint-" + std::to_string(step));
  }

 private:
  [[nodiscard]] std::filesystem::path output() const { return chosen_->output_dir; }

  void add_model(atomic_save& save) {
    add_model_directory(save, in_->files.config, in_->files.generation.json,
                        model_tensors(*trainer_, saves_16_bit_), saved_type_name<Run>(saves_16_bit_),
                        in_->tokenizer_files);
  }

  /// The last checkpoint of this run before the update that spoilt the weights, if one did.
  [[nodiscard]] std::optional<checkpoint_directory> last_sound_checkpoint(const loop_state& state) const {
    std::optional<checkpoint_directory> last;
    for (const checkpoint_directory& one : find_checkpoints(output())) {
      const bool is_own = !steps_of_other_runs_.contains(one.step);
      if (is_own && one.step < state.diverged_at) last = one;
    }
    return last;
  }

  void load_best_weights(const loop_state& state) {
    if (!state.best_saved) {
      std::cerr << "warning: --load_best_model_at_end: no evaluation that was the best so far has a "
                   "checkpoint: the last weights are saved\n";
      return;
    }
    const std::filesystem::path& directory = state.best_saved->directory;
    if (!std::filesystem::exists(directory)) {
      std::cerr << "warning: the best checkpoint, " << directory.string()
                << ", is not there: the last weights are saved\n";
      return;
    }
    std::cerr << "Loading best model from " << directory.string()
              << " (score: " << python_repr(state.best_saved->of.metric) << ").\n";
    const tensor_archive archive = tensor_archive::open_model(directory);
    const stored_weights weights(archive, trainer_->parameters(), directory.string());
    trainer_->load([&](const parameter_row& row, float* to) { weights.of(row).read(to); });
  }

  const options* chosen_;
  const job_inputs* in_;
  trainer<Run>* trainer_;
  bool saves_16_bit_;
  trainer_state_facts facts_;
  std::optional<checkpoint_directory> resumed_;  ///< where the run went on from, if it did
  std::set<index_t> steps_of_other_runs_;        ///< whose checkpoints lie in the output directory
};

}  // namespace t5zero::cli
