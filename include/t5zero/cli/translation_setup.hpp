// From options to what a translation run works on: the model's files, the tokenizer, the data.
#pragma once

#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <iostream>
#include <optional>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include <t5zero/cli/options.hpp>
#include <t5zero/cli/run_constraints.hpp>
#include <t5zero/core/error.hpp>
#include <t5zero/data/batcher.hpp>
#include <t5zero/data/tokenizer.hpp>
#include <t5zero/data/train_sentencepiece.hpp>
#include <t5zero/data/translation_pairs.hpp>
#include <t5zero/io/generation_config.hpp>
#include <t5zero/io/hub.hpp>
#include <t5zero/io/model_config.hpp>
#include <t5zero/io/model_directory.hpp>
#include <t5zero/io/safetensors.hpp>
#include <t5zero/io/weights.hpp>
#include <t5zero/train/progress_bar.hpp>

namespace t5zero::cli {

/// Model, tokenizer and, unless from scratch, open weight files.
struct model_files {
  model_config config;
  generation_config generation;
  std::optional<tensor_archive> weights;
  std::string source;  ///< where the weights come from, for messages
  std::optional<std::filesystem::path> tokenizer_file;
  nlohmann::json tokenizer_config = nlohmann::json::object();  ///< beside tokenizer_file, if it is there
};

inline hub_cache cache_of(const options& chosen) {
  return chosen.cache_dir ? hub_cache{*chosen.cache_dir} : hub_cache::from_environment();
}

inline progress_mode bar_mode(const options& chosen) {
  return chosen.disable_tqdm.value_or(false) ? progress_mode::off : progress_mode::automatic;
}

/// Refuses, before anything is read, a directory that could not be written to at the end.
inline void check_output_directory(const options& chosen) {
  namespace fs = std::filesystem;
  const fs::path output = chosen.output_dir;
  std::error_code ignored;
  fs::path existing = fs::absolute(output).lexically_normal();
  while (!fs::exists(fs::symlink_status(existing, ignored)) && existing.has_relative_path()) {
    existing = existing.parent_path();
  }
  const std::string flag = "--output_dir " + chosen.output_dir + ": ";
  if (!fs::is_directory(existing, ignored)) {
    throw input_error(flag + existing.string() + " is not a directory; name another output directory");
  }
  if (::access(existing.c_str(), W_OK | X_OK) != 0) {
    throw input_error(flag + existing.string() + " may not be written to (" + std::strerror(errno) +
                      "); name another output directory");
  }
}

/// How the collator of run_translation.py pads labels; lengths are those of the split at hand.
inline target_padding padding_of_labels(const options& chosen, index_t max_target_length) {
  return {.counts_in_loss = !chosen.ignore_pad_token_for_loss,
          .multiple = chosen.fp16 ? 8 : 1,
          .fixed_length = chosen.pad_to_max_length ? max_target_length : 0};
}

/// Reads a split; the dataset wins over the file, as in run_translation.py.
inline std::vector<text_pair> read_split(const options& chosen, const std::string& split,
                                         const std::optional<std::string>& file, const char* flag,
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
  return read_translation_pairs(*file, pairs);
}

/// The generation_config.json that applies: the one of --generation_config (a file, a directory or a Hub
/// name), else the model's (`directory`, may be empty), else what its config.json says. Throws input_error.
inline generation_config find_generation_config(const options& chosen, const model_config& config,
                                                const std::filesystem::path& directory) {
  namespace fs = std::filesystem;
  constexpr const char* name = "generation_config.json";
  std::error_code ignored;
  if (chosen.generation_config) {
    const fs::path given = *chosen.generation_config;
    if (fs::is_regular_file(given, ignored)) return read_generation_config(given);
    if (given.extension() == ".json") {
      throw input_error("--generation_config " + given.string() +
                        ": no such file; give a file, a directory that holds a generation_config.json, or a "
                        "model's name");
    }
    return read_generation_config(
        resolve(hub_kind::model, given.string(), "main", cache_of(chosen), "--generation_config") / name);
  }
  if (!directory.empty() && fs::exists(directory / name, ignored))
    return read_generation_config(directory / name);
  return parse_generation_config(config.json, "config.json");
}

/// Some configs say 32100, the tokenizer's size, where the weights have 32128 rows. Any other difference is
/// of files that do not belong together. Throws input_error.
inline void check_vocabulary(const std::filesystem::path& config, index_t said, index_t rows) {
  constexpr index_t most_padding = 128;
  if (rows >= said && rows - said < most_padding) return;
  throw input_error(config.string() + ": \"vocab_size\" is " + std::to_string(said) +
                    ", and the weights have " + std::to_string(rows) +
                    " embedding rows: they do not belong together; fetch both again");
}

/// Finds and reads config.json, weights and spiece.model. Throws input_error. compiled, model_name: the run's
/// own shape and its name.
inline model_files find_model(const options& chosen, const model_shape& compiled, std::string_view model_name,
                              const std::string& run_name) {
  const hub_cache cache = cache_of(chosen);
  model_files files;
  std::filesystem::path directory;
  if (chosen.from_scratch) {
    const std::string name = chosen.config_name.value_or(chosen.model_name_or_path);
    const bool is_published = name == model_name || requested_model(chosen) == model_name;
    if (is_published && !std::filesystem::is_directory(name)) {
      files.config = published_config(compiled);
    } else {
      const char* flag = chosen.config_name ? "--config_name" : "--model_name_or_path";
      const std::filesystem::path own = resolve(hub_kind::model, name, chosen.model_revision, cache, flag);
      files.config = read_model_config(own / "config.json");
      std::error_code ignored;
      if (std::filesystem::exists(own / "spiece.model", ignored)) files.tokenizer_file = own / "spiece.model";
    }
    files.source = "T5's initialisation";
  } else {
    directory = resolve(hub_kind::model, chosen.model_name_or_path, chosen.model_revision, cache,
                        "--model_name_or_path");
    const auto config_directory = chosen.config_name ? resolve(hub_kind::model, *chosen.config_name,
                                                               chosen.model_revision, cache, "--config_name")
                                                     : directory;
    files.config = read_model_config(config_directory / "config.json");
    files.source = directory.string();
    files.weights = tensor_archive::open_model(directory);
    files.config.shape.ties_embeddings = ties_embeddings(*files.weights, files.config.shape.ties_embeddings);
    if (const stored_tensor* shared = files.weights->find("shared.weight")) {
      if (shared->shape.size() == 2) {
        check_vocabulary(config_directory / "config.json", files.config.shape.vocab_size, shared->shape[0]);
        files.config.shape.vocab_size = shared->shape[0];
      }
    }
  }
  files.generation = find_generation_config(chosen, files.config, directory);
  const std::int32_t start = files.config.decoder_start_token_id;
  if (files.generation.decoder_start_token_id.value_or(start) != start) {
    throw input_error("the generation_config.json says \"decoder_start_token_id\" " +
                      std::to_string(*files.generation.decoder_start_token_id) + ", the config.json " +
                      std::to_string(start) + "; give both the same");
  }
  files.generation.options.decoder_start_token_id = start;
  const std::string wrong = differences(files.config.shape, compiled);
  if (!wrong.empty()) {
    throw input_error(files.source + ": not the model of this run (" + run_name + "): " + wrong +
                      ". Use the executable of that model, or run_translation, which picks it");
  }
  if (chosen.tokenizer_name) {
    files.tokenizer_file =
        resolve(hub_kind::model, *chosen.tokenizer_name, chosen.model_revision, cache, "--tokenizer_name") /
        "spiece.model";
  } else if (!directory.empty()) {
    files.tokenizer_file = directory / "spiece.model";
  }
  if (files.tokenizer_file) {
    const auto config = files.tokenizer_file->parent_path() / "tokenizer_config.json";
    if (std::filesystem::exists(config)) {
      files.tokenizer_config = read_strict_json(config);
      check_tokenizer_config(files.tokenizer_config, config.string());
    }
  }
  return files;
}

/// The tokenizer of the model, or one trained on the pairs.
inline tokenizer make_tokenizer(const model_files& files, const std::vector<text_pair>& pairs,
                                const std::string& source_prefix) {
  if (files.tokenizer_file) return tokenizer::from_file(*files.tokenizer_file);
  std::vector<std::string> texts;
  for (const text_pair& pair : pairs) {
    texts.push_back(source_prefix + pair.source);
    texts.push_back(pair.target);
  }
  return {train_sentencepiece(texts, 32000), "the SentencePiece model trained on the given text"};
}

inline tokenized_dataset tokenize(const std::vector<text_pair>& pairs, const tokenizer& text,
                                  const options& chosen, index_t max_target_length,
                                  const std::string& label) {
  progress_bar bar("Tokenising " + label, static_cast<index_t>(pairs.size()), bar_mode(chosen));
  tokenized_dataset data(pairs, text, chosen.source_prefix.value_or(""), chosen.max_source_length,
                         max_target_length, [&] { bar.advance(); });
  bar.close();
  const tokenizing_statistics& statistics = data.statistics();
  std::cerr << label << ": " << data.size() << " pairs, " << statistics.tokens
            << " tokens; cut to length: " << statistics.truncated_sources << " sources, "
            << statistics.truncated_targets << " targets; unknown tokens: " << statistics.unknown_tokens
            << "\n";
  return data;
}

}  // namespace t5zero::cli
