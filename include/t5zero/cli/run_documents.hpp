// What a run leaves for people: the model card and the training report, filled from its options and results.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <t5zero/cli/options.hpp>
#include <t5zero/core/integers.hpp>
#include <t5zero/data/batcher.hpp>
#include <t5zero/data/tokenizer.hpp>
#include <t5zero/train/evaluator.hpp>
#include <t5zero/train/log_history.hpp>
#include <t5zero/train/model_card.hpp>
#include <t5zero/train/python_repr.hpp>
#include <t5zero/train/report.hpp>
#include <t5zero/train/training_report.hpp>

namespace t5zero::cli {

/// What a run collects for its documents on the way.
struct run_documents {
  log_history history;
  std::vector<std::pair<std::string, double>> results;     ///< of the final evaluation: Loss, Bleu, Gen Len
  std::vector<std::pair<std::string, std::string>> facts;  ///< headline figures
  std::vector<sample_translation> samples;

  /// Keeps the scores of a split, and the first of its translations.
  void add(const std::string& split, const evaluation_result& result, const tokenized_dataset& data,
           const tokenizer& text) {
    for (const auto& [key, title] :
         {std::pair("loss", "Loss"), std::pair("bleu", "Bleu"), std::pair("gen_len", "Gen Len")}) {
      const double* value = result.find(key);
      if (value == nullptr) continue;
      facts.emplace_back(split + " " + key, python_repr(python_round(*value, 4)));
      if (split == "eval") results.emplace_back(title, *value);
    }
    constexpr std::size_t shown_samples = 10;
    samples.clear();  // those of the last split are shown
    for (std::size_t i = 0; i < result.predictions.size() && i < shown_samples; ++i) {
      samples.push_back({text.decode(data.source(static_cast<index_t>(i))),
                         i < result.references.size() ? result.references[i] : "", result.predictions[i]});
    }
  }
};

/// The options that decide a training, in the model card's words.
[[nodiscard]] inline std::vector<std::pair<std::string, std::string>> hyperparameters_of(
    const options& chosen) {
  std::vector<std::pair<std::string, std::string>> all = {
      {"learning_rate", python_repr(chosen.learning_rate)},
      {"train_batch_size", std::to_string(chosen.per_device_train_batch_size)},
      {"eval_batch_size", std::to_string(chosen.per_device_eval_batch_size)},
      {"seed", std::to_string(chosen.seed)}};
  if (chosen.gradient_accumulation_steps > 1) {
    all.emplace_back("gradient_accumulation_steps", std::to_string(chosen.gradient_accumulation_steps));
    all.emplace_back("total_train_batch_size",
                     std::to_string(chosen.per_device_train_batch_size * chosen.gradient_accumulation_steps));
  }
  all.emplace_back("optimizer", chosen.uses_adafactor()
                                    ? "Adafactor with weight_decay=" + python_repr(chosen.weight_decay)
                                    : "AdamW with betas=(" + python_repr(chosen.adam_beta1) + "," +
                                          python_repr(chosen.adam_beta2) +
                                          "), epsilon=" + python_repr(chosen.adam_epsilon) +
                                          ", weight_decay=" + python_repr(chosen.weight_decay));
  all.emplace_back("lr_scheduler_type", to_string(chosen.lr_scheduler_type));
  if (chosen.warmup_ratio > 0)
    all.emplace_back("lr_scheduler_warmup_ratio", python_repr(chosen.warmup_ratio));
  if (chosen.warmup_steps.value > 0)
    all.emplace_back("lr_scheduler_warmup_steps", python_repr(chosen.warmup_steps.value));
  if (chosen.max_steps > 0) {
    all.emplace_back("training_steps", std::to_string(chosen.max_steps));
  } else {
    all.emplace_back("num_epochs", python_repr(chosen.num_train_epochs));
  }
  if (chosen.fp16) all.emplace_back("mixed_precision_training", "fp16");
  if (chosen.bf16) all.emplace_back("mixed_precision_training", "bf16");
  if (chosen.label_smoothing_factor > 0)
    all.emplace_back("label_smoothing_factor", python_repr(chosen.label_smoothing_factor));
  return all;
}

/// The name of an output directory, also of "." and "a/".
[[nodiscard]] inline std::string directory_name(const std::string& directory) {
  const auto full = std::filesystem::absolute(directory).lexically_normal();
  const auto name = full.has_filename() ? full.filename() : full.parent_path().filename();
  return name.empty() ? directory : name.string();
}

[[nodiscard]] inline std::string model_card_text(const options& chosen, const run_documents& documents) {
  model_card card;
  card.name = directory_name(chosen.output_dir);
  if (!chosen.from_scratch) card.base_model = chosen.model_name_or_path;
  card.languages = {chosen.source_lang, chosen.target_lang};
  if (chosen.dataset_name) {
    card.dataset = *chosen.dataset_name +
                   (chosen.dataset_config_name ? " " + *chosen.dataset_config_name : std::string());
  }
  card.hyperparameters = hyperparameters_of(chosen);
  card.results = documents.results;
  card.history = documents.history;
  return to_markdown(card);
}

[[nodiscard]] inline std::string training_report_text(const options& chosen, const std::string& run_name,
                                                      const std::string& weights, bool has_loss_scale,
                                                      const memory_plan& plan,
                                                      const run_documents& documents) {
  training_report report;
  report.title = directory_name(chosen.output_dir);
  report.run = run_name;
  report.source = weights;
  report.facts = documents.facts;
  report.settings = {{"output_dir", chosen.output_dir},
                     {"languages", chosen.source_lang + " to " + chosen.target_lang},
                     {"source_prefix", chosen.source_prefix.value_or("")}};
  if (chosen.dataset_name)
    report.settings.emplace_back("dataset",
                                 *chosen.dataset_name + " " + chosen.dataset_config_name.value_or(""));
  for (const auto& [flag, file] :
       {std::pair("train_file", &chosen.train_file), std::pair("validation_file", &chosen.validation_file),
        std::pair("test_file", &chosen.test_file)}) {
    if (*file) report.settings.emplace_back(flag, **file);
  }
  for (const auto& setting : hyperparameters_of(chosen)) report.settings.push_back(setting);
  report.plan = plan;
  report.has_loss_scale = has_loss_scale;
  report.history = documents.history;
  report.samples = documents.samples;
  return to_html(report);
}

}  // namespace t5zero::cli
