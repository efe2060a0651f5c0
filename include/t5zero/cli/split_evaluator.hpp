// One split of the data through the trainer, by the options of a run: its figures and how they are told.
#pragma once

#include <cmath>
#include <cstdio>
#include <iostream>
#include <string>

#include <t5zero/cli/bar_mode.hpp>
#include <t5zero/cli/find_model.hpp>
#include <t5zero/cli/generation_choice.hpp>
#include <t5zero/cli/label_padding.hpp>
#include <t5zero/cli/options.hpp>
#include <t5zero/core/integers.hpp>
#include <t5zero/data/batcher.hpp>
#include <t5zero/data/tokenizer.hpp>
#include <t5zero/train/bleu.hpp>
#include <t5zero/train/chrf.hpp>
#include <t5zero/train/evaluator.hpp>
#include <t5zero/train/progress_bar.hpp>
#include <t5zero/train/python_repr.hpp>
#include <t5zero/train/report.hpp>
#include <t5zero/train/trainer.hpp>

namespace t5zero::cli {

/// Evaluates splits. What it is made of outlives it.
template <class Run>
class split_evaluator {
 public:
  split_evaluator(const options& chosen, const model_files& files, const tokenizer& text,
                  trainer<Run>& trained)
      : chosen_(&chosen), files_(&files), text_(&text), trainer_(&trained) {}

  /// Between two updates: quietly, and only until a signal comes.
  [[nodiscard]] evaluation_result during_training(const tokenized_dataset& data) const {
    return evaluate("Evaluating", data, evaluation_time::during_training, /*has_references=*/true);
  }

  /// After training; `split` is "eval" or "predict".
  [[nodiscard]] evaluation_result at_end(const std::string& split, const tokenized_dataset& data,
                                         bool has_references) const {
    const bool predicts = split == "predict";
    std::cerr << "***** Running " << (predicts ? "Prediction" : "Evaluation")
              << " *****\n  Num examples = " << data.size()
              << "\n  Batch size = " << chosen_->per_device_eval_batch_size << "\n";
    return evaluate(predicts ? "Predicting" : "Evaluating", data, evaluation_time::at_end, has_references);
  }

 private:
  [[nodiscard]] evaluation_result evaluate(const char* title, const tokenized_dataset& data,
                                           evaluation_time when, bool has_references) const {
    evaluation_options how;
    how.batch_size = chosen_->per_device_eval_batch_size;
    how.decoder_start_token_id = files_->config.decoder_start_token_id;
    how.padding = padding_of_labels(*chosen_, chosen_->evaluation_target_length());
    how.has_references = has_references;
    how.ends_on_signal = when == evaluation_time::during_training;
    how.cleans_up = files_->tokenizer_config.value("clean_up_tokenization_spaces", false);
    if (chosen_->predict_with_generate)
      how.generation = choose_generation(*chosen_, files_->generation, when);
    progress_bar bar(title, ceil_div(data.size(), how.batch_size), bar_mode(*chosen_));
    evaluation_result result = evaluate_dataset(*trainer_, data, *text_, how, bar);
    bar.close();
    return result;
  }

  const options* chosen_;
  const model_files* files_;
  const tokenizer* text_;
  trainer<Run>* trainer_;
};

/// The keys of <split>_results.json. preparation_time: seconds; epoch: where training ended.
[[nodiscard]] inline metrics metrics_of_split(const options& chosen, const std::string& split,
                                              const evaluation_result& result, double preparation_time,
                                              double epoch) {
  metrics all;
  for (const auto& [key, value] : result.values) all.set(split + "_" + key, value);
  all.set_count(split + "_samples", result.samples);
  if (!chosen.do_train) all.set(split + "_model_preparation_time", python_round(preparation_time, 4));
  if (chosen.do_train && split == "eval") all.set("epoch", epoch);
  return all;
}

/// What to say of a split's loss that is no number; else empty.
[[nodiscard]] inline std::string warning_of_loss(const std::string& split, const evaluation_result& result) {
  const double* const loss = result.find("loss");
  if (loss == nullptr || std::isfinite(*loss)) return "";
  return "warning: " + split + "_loss is " + python_repr(*loss) +
         ": no label counts, or the model's numbers are not finite. Are its weights whole? A model that does "
         "not fit fp16's range is evaluated in bf16 or fp32";
}

/// BLEU and chrF with their signatures, if there are references.
inline void print_scores(const evaluation_result& result) {
  if (!result.bleu) return;
  char chrf[64];
  std::snprintf(chrf, sizeof(chrf), "chrF2 = %.2f", result.chrf);
  std::cerr << result.bleu->text() << "\n  " << bleu_signature << "\n"
            << chrf << "\n  " << chrf_signature << "\n";
}

}  // namespace t5zero::cli
