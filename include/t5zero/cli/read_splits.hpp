// The rows of the splits that a run reads.
#pragma once

#include <cstddef>
#include <filesystem>
#include <iostream>
#include <optional>
#include <string>
#include <vector>

#include <t5zero/cli/cache_of.hpp>
#include <t5zero/cli/options.hpp>
#include <t5zero/core/error.hpp>
#include <t5zero/core/integers.hpp>
#include <t5zero/data/translation_pairs.hpp>
#include <t5zero/io/hub.hpp>

namespace t5zero::cli {

/// Reads a split; the dataset wins over the file, as in run_translation.py.
[[nodiscard]] inline std::vector<text_pair> read_split(const options& chosen, const std::string& split,
                                                       const std::optional<std::string>& file,
                                                       const char* flag,
                                                       const std::optional<index_t>& max_samples) {
  const pair_options pairs{chosen.source_lang, chosen.target_lang, max_samples.value_or(-1),
                           /*needs_targets=*/split != "test"};
  if (chosen.dataset_name) {
    const auto directory =
        resolve(hub_kind::dataset, *chosen.dataset_name, "main", cache_of(chosen), "--dataset_name");
    if (file) std::cerr << flag << " " << *file << " is not read: --dataset_name is given\n";
    std::vector<text_pair> all;
    for (const auto& part : find_split(directory, chosen.dataset_config_name.value_or(""), split)) {
      pair_options rest = pairs;
      if (rest.max_samples >= 0) rest.max_samples -= static_cast<index_t>(all.size());
      if (rest.max_samples == 0) break;
      const std::vector<text_pair> more = read_translation_pairs(part, rest);
      all.insert(all.end(), more.begin(), more.end());
    }
    return all;
  }
  if (!file) {
    const char* stage = split == "train" ? "train" : split == "test" ? "predict" : "eval";
    throw input_error("--do_" + std::string(stage) + " requires a " + split + " dataset: give " + flag +
                      " or --dataset_name");
  }
  try {
    return read_translation_pairs(*file, pairs);
  } catch (const input_error& failure) {
    throw input_error(std::string(flag) + " " + failure.what());
  }
}

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

}  // namespace t5zero::cli
