// A Hugging Face model directory: config, weights, tokenizer, all appearing together.
#pragma once

#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>

#include <t5zero/core/error.hpp>
#include <t5zero/io/atomic_save.hpp>
#include <t5zero/io/model_config.hpp>
#include <t5zero/io/safetensors.hpp>
#include <t5zero/io/strict_json.hpp>
#include <t5zero/io/tokenizer_json.hpp>

namespace t5zero {

/// Refuses what a tokenizer_config.json asks for and t5zero does not do. `file` names it in messages.
inline void check_tokenizer_config(const nlohmann::json& config, const std::string& file) {
  const auto refuse = [&](const char* key, const char* needed) {
    throw input_error(file + ": \"" + key + "\" is " + shown(config[key]) + "; " + needed);
  };
  if (!config.is_object()) throw input_error(file + ": an object {...} is needed; fetch the file again");
  if (config.contains("extra_ids") && config["extra_ids"] != 100) {
    refuse("extra_ids", "T5's 100 sentinels are implemented");
  }
  constexpr const char* cleans_up = "clean_up_tokenization_spaces";
  if (config.contains(cleans_up) && !config[cleans_up].is_boolean()) {
    refuse(cleans_up, "true or false is needed; mend the file, or take the key out of it");
  }
  if (config.contains("legacy") && config["legacy"] == false) {
    refuse("legacy", "T5's own tokenisation (true) is implemented; save the tokenizer with legacy=True");
  }
}

/// The tokenizer's files, made before training so that what cannot be saved is refused then.
struct tokenizer_to_save {
  std::string sentencepiece;   ///< the bytes of spiece.model
  std::string json;            ///< tokenizer.json
  nlohmann::json config;       ///< tokenizer_config.json
  nlohmann::json special_map;  ///< special_tokens_map.json

  /// `read`: the tokenizer_config.json that the tokenizer came with; its other keys survive. Throws
  /// input_error.
  tokenizer_to_save(std::string bytes, const nlohmann::json& read)
      : sentencepiece(std::move(bytes)), json(tokenizer_json(sentencepiece)), config(read) {
    nlohmann::json extra = nlohmann::json::array();
    for (int i = 0; i < 100; ++i) extra.push_back("<extra_id_" + std::to_string(i) + ">");
    special_map = {{"additional_special_tokens", extra},
                   {"eos_token", "</s>"},
                   {"pad_token", "<pad>"},
                   {"unk_token", "<unk>"}};
    config.update(special_map);
    config["extra_ids"] = 100;
    config["tokenizer_class"] = "T5Tokenizer";
    for (const auto& [key, fallback] : std::map<std::string, nlohmann::json>{
             {"clean_up_tokenization_spaces", false}, {"legacy", true}, {"model_max_length", 512}}) {
      if (!config.contains(key)) config[key] = fallback;
    }
  }
};

/// Adds config.json, generation_config.json, the weights and the tokenizer files to a save.
/// `generation`: the generation_config.json that was read, whose other keys survive.
inline void add_model_directory(atomic_save& save, const model_config& config, nlohmann::json generation,
                                std::vector<tensor_to_save> tensors, std::string_view saved_type,
                                const tokenizer_to_save& tokenizer) {
  save.add("config.json", to_json(config, saved_type).dump(2) + "\n");
  if (generation.empty()) generation["_from_model_config"] = true;
  generation["decoder_start_token_id"] = config.decoder_start_token_id;
  generation["eos_token_id"] = 1;
  generation["pad_token_id"] = 0;
  save.add("generation_config.json", generation.dump(2) + "\n");
  save_model_tensors(save, std::move(tensors));
  save.add("spiece.model", tokenizer.sentencepiece);
  save.add("tokenizer.json", tokenizer.json);
  save.add("tokenizer_config.json", tokenizer.config.dump(2) + "\n");
  save.add("special_tokens_map.json", tokenizer.special_map.dump(2) + "\n");
}

}  // namespace t5zero
