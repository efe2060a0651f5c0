// What must hold between options.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <optional>
#include <string>
#include <string_view>

#include <t5zero/cli/lr_schedule_options.hpp>
#include <t5zero/cli/options.hpp>
#include <t5zero/core/error.hpp>
#include <t5zero/core/integers.hpp>
#include <t5zero/train/interval.hpp>

namespace t5zero::detail {

inline void check_file(std::string_view flag, const std::optional<std::string>& file) {
  if (!file) return;
  constexpr std::array<std::string_view, 4> readable = {".json", ".jsonl", ".csv", ".tsv"};
  const bool known =
      std::any_of(readable.begin(), readable.end(), [&](auto end) { return file->ends_with(end); });
  if (!known) {
    throw input_error("--" + std::string(flag) + " " + (file->empty() ? "''" : *file) +
                      ": the file's name must end in .json, .jsonl, .csv or .tsv");
  }
}

/// What must hold between evaluation, checkpoints and the best model.
inline void check_evaluation(const options& chosen) {
  if (chosen.generation_max_length.value_or(2) < 2) {
    throw input_error(
        "--generation_max_length 1: it counts the start token, so nothing would be generated; "
        "give at least 2");
  }
  if (chosen.eval_strategy == interval_strategy::steps &&
      chosen.eval_steps.value_or(chosen.logging_steps).value <= 0) {
    throw input_error(
        "--eval_strategy steps needs an interval, and --logging_steps 0 would be it; give --eval_steps");
  }
  if (chosen.eval_on_start && chosen.do_train && !chosen.do_eval &&
      chosen.eval_strategy == interval_strategy::no) {
    throw input_error("--eval_on_start requires an evaluation dataset: give --do_eval or --eval_strategy");
  }
  const bool chooses = chosen.load_best_model_at_end || chosen.save_strategy == interval_strategy::best;
  if (!chosen.chooses_best()) return;
  const std::string metric = chosen.best_metric();
  constexpr std::array<std::string_view, 3> known = {"loss", "bleu", "gen_len"};
  if (std::find(known.begin(), known.end(), metric) == known.end()) {
    throw input_error("--metric_for_best_model " + *chosen.metric_for_best_model +
                      ": no such metric; loss, bleu and gen_len are known");
  }
  if (metric != "loss" && !chosen.predict_with_generate) {
    throw input_error("--metric_for_best_model " + *chosen.metric_for_best_model +
                      (chosen.prediction_loss_only
                           ? " needs texts; leave --prediction_loss_only out, or choose loss"
                           : " needs --predict_with_generate; give it, or choose loss"));
  }
  if (!chooses) return;
  const char* flag = chosen.load_best_model_at_end ? "--load_best_model_at_end" : "--save_strategy best";
  if (chosen.eval_strategy == interval_strategy::no) {
    throw input_error(std::string(flag) +
                      " needs evaluations during training: give --eval_strategy steps or "
                      "epoch");
  }
  if (!chosen.load_best_model_at_end || chosen.save_strategy == interval_strategy::best) return;
  if (chosen.eval_strategy != chosen.save_strategy) {
    throw input_error(
        "--load_best_model_at_end requires the save and eval strategy to match; give "
        "--eval_strategy and --save_strategy the same value");
  }
  if (chosen.eval_strategy == interval_strategy::steps) {
    const double evaluates = chosen.eval_steps.value_or(chosen.logging_steps).value;
    const double rest = std::fmod(chosen.save_steps.value, evaluates);
    // Shares of the updates are binary fractions: 0.2 is no exact multiple of 0.1.
    if (std::min(rest, evaluates - rest) > 1e-9 * evaluates) {
      throw input_error("--load_best_model_at_end requires --save_steps to be a multiple of --eval_steps");
    }
  }
}

inline void check_options(const options& chosen) {
  if (chosen.fp16 && chosen.bf16) {
    throw input_error("--fp16 --bf16: At most one of fp16 and bf16 can be True, but not both; remove one");
  }
  if (chosen.model_name_or_path.empty() && !(chosen.from_scratch && chosen.config_name)) {
    throw input_error(
        "the following arguments are required: --model_name_or_path (or --config_name with --from_scratch)");
  }
  const bool only_predicts = chosen.do_predict && !chosen.do_train && !chosen.do_eval;
  if (!chosen.dataset_name && !chosen.train_file && !chosen.validation_file &&
      !(only_predicts && chosen.test_file)) {
    throw input_error(only_predicts ? "--do_predict requires a test dataset: give --test_file"
                                    : "Need either a dataset name or a training/validation file. Give "
                                      "--dataset_name, or --train_file "
                                      "and --validation_file");
  }
  if (chosen.source_lang.empty() || chosen.target_lang.empty()) {
    throw input_error(
        "Need to specify the source language and the target language. Give --source_lang and "
        "--target_lang, e.g. en and ro");
  }
  check_file("train_file", chosen.train_file);
  check_file("validation_file", chosen.validation_file);
  check_file("test_file", chosen.test_file);
  if (chosen.output_dir.empty()) throw input_error("--output_dir '': the name of a directory is needed");
  if (chosen.logging_strategy == interval_strategy::steps && chosen.logging_steps.value == 0) {
    throw input_error(
        "--logging_steps 0: --logging_strategy steps needs at least 1; or give --logging_strategy no");
  }
  if (chosen.do_train && chosen.max_steps <= 0 && chosen.num_train_epochs == 0) {
    throw input_error(
        "--num_train_epochs 0: --do_train would train nothing; give more epochs or --max_steps, or leave "
        "--do_train out");
  }
  // Throws for keys and values that the schedule does not know.
  static_cast<void>(make_lr_schedule(chosen, chosen.learning_rate, std::max<index_t>(1, chosen.max_steps)));
  check_evaluation(chosen);
  if (chosen.num_gpus > 1) {
    throw input_error("--num_gpus " + std::to_string(chosen.num_gpus) +
                      ": one rank is supported for now; give 1");
  }
  if (chosen.local_rank > 0) {
    throw input_error("--local_rank " + std::to_string(chosen.local_rank) +
                      ": one rank is supported for now; give 0 or -1");
  }
}

}  // namespace t5zero::detail
