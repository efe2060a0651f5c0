// From a model's name to its files: configuration, weights, where its tokenizer lies.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <filesystem>
#include <iostream>
#include <optional>
#include <string>
#include <string_view>
#include <system_error>

#include <nlohmann/json.hpp>

#include <t5zero/cli/cache_of.hpp>
#include <t5zero/cli/options.hpp>
#include <t5zero/cli/run_constraints.hpp>
#include <t5zero/cli/spelling.hpp>
#include <t5zero/core/error.hpp>
#include <t5zero/core/integers.hpp>
#include <t5zero/io/added_tokens.hpp>
#include <t5zero/io/generation_config.hpp>
#include <t5zero/io/hub.hpp>
#include <t5zero/io/model_config.hpp>
#include <t5zero/io/model_directory.hpp>
#include <t5zero/io/safetensors.hpp>
#include <t5zero/io/strict_json.hpp>
#include <t5zero/io/weights.hpp>

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

/// The generation_config.json that applies: the one of --generation_config (a file, a directory or a Hub
/// name), else the model's (`directory`, may be empty), else what its config.json says (config_file: its
/// name). Throws input_error.
[[nodiscard]] inline generation_config find_generation_config(const options& chosen,
                                                              const model_config& config,
                                                              const std::string& config_file,
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
  generation_config of_model = parse_generation_config(config.json, config_file);
  of_model.unknown_keys.clear();               // it is about more than generation
  of_model.json["_from_model_config"] = true;  // as transformers marks one that it makes so
  return of_model;
}

/// Says which keys of a file are none of generation, and what they were probably meant to be.
inline void tell_unknown_keys(const generation_config& generation) {
  constexpr std::array<std::string_view, 17> honoured = {"max_length",
                                                         "min_length",
                                                         "max_new_tokens",
                                                         "min_new_tokens",
                                                         "num_beams",
                                                         "length_penalty",
                                                         "early_stopping",
                                                         "no_repeat_ngram_size",
                                                         "repetition_penalty",
                                                         "do_sample",
                                                         "temperature",
                                                         "top_k",
                                                         "top_p",
                                                         "forced_bos_token_id",
                                                         "forced_eos_token_id",
                                                         "decoder_start_token_id",
                                                         "eos_token_id"};
  for (const std::string& key : generation.unknown_keys) {
    std::string nearest = t5zero::detail::nearest_name(key, honoured);
    if (nearest.empty()) {
      // A name that was cut short.
      const auto longer = std::find_if(honoured.begin(), honoured.end(),
                                       [&](std::string_view known) { return known.starts_with(key); });
      if (longer != honoured.end()) nearest = *longer;
    }
    std::cerr << generation.file << ": \"" << key << "\" is no key of generation and has no effect"
              << (nearest.empty() ? "" : "; did you mean \"" + nearest + "\"?") << "\n";
  }
}

/// Whether --model_name_or_path of a model that begins anew is there for its tokenizer: the dimensions are
/// those of --config_name. (run_translation.py looks for a tokenizer in the same order.)
[[nodiscard]] inline bool names_tokenizer_alone(const options& chosen) {
  return chosen.from_scratch && chosen.config_name && !chosen.tokenizer_name &&
         !chosen.model_name_or_path.empty() && chosen.model_name_or_path != *chosen.config_name;
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
[[nodiscard]] inline model_files find_model(const options& chosen, const model_shape& compiled,
                                            std::string_view model_name, const std::string& run_name) {
  const hub_cache cache = cache_of(chosen);
  model_files files;
  std::filesystem::path directory;
  std::filesystem::path config_file = "config.json";
  if (chosen.from_scratch) {
    const std::string name = chosen.config_name.value_or(chosen.model_name_or_path);
    const bool is_published = name == model_name || requested_model(chosen) == model_name;
    if (is_published && !std::filesystem::exists(std::filesystem::path(name) / "config.json")) {
      files.config = published_config(compiled);
    } else {
      const char* flag = chosen.config_name ? "--config_name" : "--model_name_or_path";
      const std::filesystem::path own = resolve(hub_kind::model, name, chosen.model_revision, cache, flag);
      config_file = own / "config.json";
      files.config = read_model_config(config_file);
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
    config_file = config_directory / "config.json";
    files.config = read_model_config(config_file);
    files.source = directory.string();
    files.weights = tensor_archive::open_model(directory);
    files.config.shape.ties_embeddings = ties_embeddings(*files.weights, files.config.shape.ties_embeddings);
    if (const stored_tensor* shared = files.weights->find("shared.weight")) {
      if (shared->shape.size() == 2) {
        check_vocabulary(config_file, files.config.shape.vocab_size, shared->shape[0]);
        files.config.shape.vocab_size = shared->shape[0];
      }
    }
  }
  files.generation = find_generation_config(chosen, files.config, config_file.string(), directory);
  tell_unknown_keys(files.generation);
  const std::int32_t start = files.config.decoder_start_token_id;
  if (files.generation.decoder_start_token_id.value_or(start) != start) {
    throw input_error(files.generation.file + ": \"decoder_start_token_id\" is " +
                      std::to_string(*files.generation.decoder_start_token_id) + ", that of " +
                      config_file.string() + " " + std::to_string(start) + "; give both the same");
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
  } else if (names_tokenizer_alone(chosen)) {
    files.tokenizer_file = resolve(hub_kind::model, chosen.model_name_or_path, chosen.model_revision, cache,
                                   "--model_name_or_path") /
                           "spiece.model";
    std::cerr << "--model_name_or_path " << chosen.model_name_or_path
              << ": with --from_scratch and --config_name its tokenizer is used, and nothing else of it\n";
  }
  if (files.tokenizer_file) {
    check_added_tokens(files.tokenizer_file->parent_path());
    const auto config = files.tokenizer_file->parent_path() / "tokenizer_config.json";
    if (std::filesystem::exists(config)) {
      files.tokenizer_config = read_strict_json(config);
      check_tokenizer_config(files.tokenizer_config, config.string());
    }
  }
  return files;
}

}  // namespace t5zero::cli
