// What a run works on, read and checked before anything is computed: the model's files, the tokenizer, the
// splits.
#pragma once

#include <algorithm>
#include <filesystem>
#include <iostream>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <t5zero/cli/options.hpp>
#include <t5zero/cli/trainer_settings.hpp>
#include <t5zero/cli/translation_setup.hpp>
#include <t5zero/core/error.hpp>
#include <t5zero/core/integers.hpp>
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

namespace detail {

/// The rows of each split that the run needs.
struct split_rows {
  std::vector<text_pair> train;
  std::vector<text_pair> validation;
  std::vector<text_pair> test;

  explicit split_rows(const options& chosen) {
    if (chosen.do_train)
      train = read_split(chosen, "train", chosen.train_file, "--train_file", chosen.max_train_samples);
    if (chosen.do_eval) {
      validation = read_split(chosen, "validation", chosen.validation_file, "--validation_file",
                              chosen.max_eval_samples);
    }
    if (chosen.do_predict)
      test = read_split(chosen, "test", chosen.test_file, "--test_file", chosen.max_predict_samples);
  }
};

/// The tokenizer that `files` name, or one trained on `pairs`, which is said.
[[nodiscard]] inline tokenizer find_or_train_tokenizer(const options& chosen, const model_files& files,
                                                       const std::vector<text_pair>& pairs) {
  const bool trains = !files.tokenizer_file;
  if (trains && pairs.empty()) {
    throw input_error(
        "--from_scratch without --do_train has no text to train a tokenizer on: give --tokenizer_name");
  }
  tokenizer text = make_tokenizer(files, pairs, chosen.source_prefix.value_or(""));
  if (trains) {
    std::cerr << "Tokenizer: " << text.vocab_size() - tokenizer::n_extra_ids
              << " pieces, trained on the source and target sentences of " << pairs.size()
              << " pairs; --tokenizer_name names another\n";
  }
  return text;
}

/// The embedding rows of a model that begins anew follow its tokenizer; others must have enough. A
/// config.json's number stays where it is enough. own_tokenizer: trained for this run.
inline void fit_vocabulary(const options& chosen, model_files& files, index_t ids, bool own_tokenizer) {
  model_shape& shape = files.config.shape;
  const bool follows = own_tokenizer || (chosen.from_scratch && files.config.json.empty());
  // Rounded up as the published one is (32100 to 32128).
  if (follows || (chosen.from_scratch && ids > shape.vocab_size)) shape.vocab_size = round_up(ids, 64);
  if (ids <= shape.vocab_size) return;
  const std::string flag = chosen.tokenizer_name ? "--tokenizer_name " + *chosen.tokenizer_name + ": " : "";
  throw input_error(flag + files.tokenizer_file->string() + " has " + std::to_string(ids) + " ids, " +
                    files.source + " " + std::to_string(shape.vocab_size) +
                    " embedding rows: they do not belong together; give the model's own tokenizer" +
                    (chosen.tokenizer_name ? ", which is found without the flag" : ""));
}

}  // namespace detail

/// Reads all of it. compiled, model_name, run_name: of the run. checkpoint: the directory that the run goes
/// on from, if it does. Throws input_error.
[[nodiscard]] inline job_inputs read_inputs(const options& chosen, const model_shape& compiled,
                                            std::string_view model_name, const std::string& run_name,
                                            const std::optional<std::filesystem::path>& checkpoint) {
  model_files files = find_model(chosen, compiled, model_name, run_name);
  const detail::split_rows rows(chosen);
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
  tokenizer text = detail::find_or_train_tokenizer(chosen, files, rows.train);
  // Made now, so that a tokenizer that could not be saved is refused before training.
  tokenizer_to_save tokenizer_files(text.model(), files.tokenizer_config);
  detail::fit_vocabulary(chosen, files, text.vocab_size(), trained_for_this_run);

  job_inputs in{.files = std::move(files),
                .text = std::move(text),
                .tokenizer_files = std::move(tokenizer_files),
                .test_has_references = test_has_references};
  if (chosen.do_train) {
    in.train_data.emplace(tokenize(rows.train, in.text, chosen, chosen.max_target_length, "train"));
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
        tokenize(rows.validation, in.text, chosen, chosen.evaluation_target_length(), "validation"));
  }
  if (chosen.do_predict)
    in.test_data.emplace(tokenize(rows.test, in.text, chosen, chosen.evaluation_target_length(), "test"));
  return in;
}

}  // namespace t5zero::cli
