// README.md of a saved model: the card that Hugging Face's Trainer writes.
#pragma once

#include <algorithm>
#include <cstddef>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <t5zero/core/integers.hpp>
#include <t5zero/train/log_history.hpp>
#include <t5zero/train/python_repr.hpp>

namespace t5zero {

struct model_card {
  std::string name;        ///< of the model: the output directory's
  std::string base_model;  ///< as given; empty: trained from scratch
  std::vector<std::string> languages;
  std::optional<std::string> dataset;
  std::vector<std::pair<std::string, std::string>> hyperparameters;  ///< in order
  std::vector<std::pair<std::string, double>> results;               ///< e.g. Loss, Bleu, Gen Len
  log_history history;
};

namespace detail {

/// A YAML scalar that cannot be taken for anything else.
[[nodiscard]] inline std::string yaml_text(const std::string& text) {
  std::string quoted = "'";
  for (const char c : text) {
    if (c == '\n' || c == '\r') continue;
    quoted += c;
    if (c == '\'') quoted += c;
  }
  return quoted + "'";
}

[[nodiscard]] inline std::string card_number(double value) {
  return python_repr(python_round(value, 4));
}

/// "eval_gen_len" as a column: "Gen Len".
[[nodiscard]] inline std::string column_title(std::string key) {
  if (key.starts_with("eval_")) key.erase(0, 5);
  bool starts = true;
  for (char& c : key) {
    if (c == '_') c = ' ';
    if (starts && c >= 'a' && c <= 'z') c = static_cast<char>(c - 'a' + 'A');
    starts = c == ' ';
  }
  return key == "Loss" ? "Validation Loss" : key;
}

/// The table of evaluations during training; empty without any.
[[nodiscard]] inline std::string results_table(const log_history& history) {
  std::string header;
  std::string rows;
  double training_loss = 0.0;
  bool has_training_loss = false;
  for (const log_entry& entry : history.entries) {
    std::string cells;
    std::string titles;
    for (const auto& [key, value] : entry.values) {
      if (key == "loss") {
        training_loss = value;
        has_training_loss = true;
      }
      const bool measures_speed = key.ends_with("_runtime") || key.ends_with("_per_second");
      if (!key.starts_with("eval_") || measures_speed) continue;
      cells.append(" ").append(card_number(value)).append(" |");
      titles.append(" ").append(column_title(key)).append(" |");
    }
    if (cells.empty()) continue;
    if (header.empty()) {
      header = "| Training Loss | Epoch | Step |" + titles;
      const auto columns = std::count(header.begin(), header.end(), '|') - 1;
      header += "\n|";
      for (std::ptrdiff_t i = 0; i < columns; ++i) header += ":-:|";
    }
    rows += "| " + (has_training_loss ? card_number(training_loss) : "No log") + " | " +
            card_number(entry.epoch) + " | " + std::to_string(entry.step) + " |" + cells + "\n";
  }
  return rows.empty() ? "" : header + "\n" + rows;
}

}  // namespace detail

[[nodiscard]] inline std::string to_markdown(const model_card& card) {
  std::string text = "---\nlibrary_name: transformers\n";
  if (!card.languages.empty()) text += "language:\n";
  for (const std::string& language : card.languages) text += "- " + detail::yaml_text(language) + "\n";
  if (!card.base_model.empty()) text += "base_model: " + detail::yaml_text(card.base_model) + "\n";
  text += "tags:\n- generated_from_trainer\n";
  if (card.dataset) text += "datasets:\n- " + detail::yaml_text(*card.dataset) + "\n";
  bool has_bleu = false;
  for (const auto& [name, value] : card.results) has_bleu = has_bleu || name == "Bleu";
  if (has_bleu) text += "metrics:\n- bleu\n";
  text += "model-index:\n- name: " + detail::yaml_text(card.name) + "\n  results: []\n---\n\n# " + card.name +
          "\n\n";
  text += card.base_model.empty() ? "This model was trained from scratch"
                                  : "This model is a fine-tuned version of " + card.base_model;
  text += card.dataset ? " on the " + *card.dataset + " dataset.\n" : " on an unknown dataset.\n";
  if (!card.results.empty()) text += "It achieves the following results on the evaluation set:\n";
  for (const auto& [name, value] : card.results)
    text += "- " + name + ": " + detail::card_number(value) + "\n";
  for (const char* section :
       {"Model description", "Intended uses & limitations", "Training and evaluation data"}) {
    text += "\n## " + std::string(section) + "\n\nMore information needed\n";
  }
  text +=
      "\n## Training procedure\n\n### Training hyperparameters\n\nThe following hyperparameters were used "
      "during training:\n";
  for (const auto& [name, value] : card.hyperparameters) text += "- " + name + ": " + value + "\n";
  if (const std::string table = detail::results_table(card.history); !table.empty())
    text += "\n### Training results\n\n" + table;
  return text + "\n### Framework versions\n\n- t5zero\n";
}

}  // namespace t5zero
