// What a run works on, read and checked before anything is computed: the model's files, the tokenizer, the
// splits.
#pragma once

#include <algorithm>
#include <filesystem>
#include <iostream>
#include <optional>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>

#include <t5zero/cli/find_model.hpp>
#include <t5zero/cli/find_tokenizer.hpp>
#include <t5zero/cli/options.hpp>
#include <t5zero/cli/read_splits.hpp>
#include <t5zero/cli/tokenize_split.hpp>
#include <t5zero/cli/trainer_settings.hpp>
#include <t5zero/core/error.hpp>
#include <t5zero/data/batcher.hpp>
#include <t5zero/data/tokenizer.hpp>
#include <t5zero/data/translation_pairs.hpp>
#include <t5zero/io/model_directory.hpp>
#include <t5zero/train/step_arithmetic.hpp>

namespace t5zero::cli {

/// The model and the data of a run. A split is there if the run does what it is for.
struct job_inputs {
  model_files files;
  tokenizer text;
  tokenizer_to_save tokenizer_files;
  std::optional<tokenized_dataset> train_data = {};
  std::optional<tokenized_dataset> validation_data = {};
  std::optional<tokenized_dataset> test_data = {};
  bool test_has_references = true;
  std::optional<step_arithmetic> steps = {};  ///< of the training
};

/// Throws input_error unless the checkpoint that a run goes on from was written with the tokenizer `text`.
inline void check_same_tokenizer(const std::filesystem::path& checkpoint, const tokenizer& text,
                                 const options& chosen, const std::filesystem::path& now) {
  const std::filesystem::path then = checkpoint / "spiece.model";
  std::error_code ignored;
  if (!std::filesystem::exists(then, ignored) || tokenizer::from_file(then).model() == text.model()) return;
  throw input_error(checkpoint.string() + ": its spiece.model is not " + now.string() +
                    (chosen.tokenizer_name ? " (--tokenizer_name " + *chosen.tokenizer_name + ")" : "") +
                    ", so the same ids would be other words now; give the same tokenizer, or start a new run "
                    "from its weights with --model_name_or_path " +
                    checkpoint.string());
}

/// Reads all of it. compiled, model_name, run_name: of the run. checkpoint: the directory that the run goes
/// on from, if it does. Throws input_error.
[[nodiscard]] inline job_inputs read_inputs(const options& chosen, const model_shape& compiled,
                                            std::string_view model_name, const std::string& run_name,
                                            const std::optional<std::filesystem::path>& checkpoint) {
  model_files files = find_model(chosen, compiled, model_name, run_name);
  const split_rows rows(chosen);
  const bool test_has_references =
      std::all_of(rows.test.begin(), rows.test.end(), [](const text_pair& pair) { return pair.has_target; });
  if (!test_has_references && !chosen.predict_with_generate) {
    std::cerr << "warning: --do_predict on rows without \"" << chosen.target_lang
              << "\" and without --predict_with_generate: nothing will be computed; give that flag for "
                 "translations\n";
  }
  // A tokenizer that was trained for this run belongs to its checkpoints.
  const bool trained_for_this_run = !files.tokenizer_file;
  if (checkpoint && trained_for_this_run) files.tokenizer_file = *checkpoint / "spiece.model";
  tokenizer text = find_or_train_tokenizer(chosen, files, rows.train);
  if (checkpoint) check_same_tokenizer(*checkpoint, text, chosen, *files.tokenizer_file);
  // Made now, so that a tokenizer that could not be saved is refused before training.
  tokenizer_to_save tokenizer_files(text.model(), files.tokenizer_config);
  fit_vocabulary(chosen, files, text.vocab_size(), trained_for_this_run);

  job_inputs in{.files = std::move(files),
                .text = std::move(text),
                .tokenizer_files = std::move(tokenizer_files),
                .test_has_references = test_has_references};
  if (chosen.do_train) {
    in.train_data.emplace(tokenize_split(rows.train, in.text, chosen, chosen.max_target_length, "train"));
    in.steps.emplace(in.train_data->size(),
                     step_options{.batch_size = chosen.per_device_train_batch_size,
                                  .gradient_accumulation_steps = chosen.gradient_accumulation_steps,
                                  .drop_last = chosen.dataloader_drop_last,
                                  .max_steps = chosen.max_steps,
                                  .epochs = chosen.num_train_epochs});
    check_best_model_intervals(chosen,
                               loop_options_of(chosen, *in.steps, in.files.config.decoder_start_token_id));
  }
  if (chosen.do_eval) {
    in.validation_data.emplace(
        tokenize_split(rows.validation, in.text, chosen, chosen.evaluation_target_length(), "validation"));
  }
  if (chosen.do_predict)
    in.test_data.emplace(
        tokenize_split(rows.test, in.text, chosen, chosen.evaluation_target_length(), "test"));
  return in;
}

}  // namespace t5zero::cli
