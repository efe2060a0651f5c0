// A Hugging Face model directory: config, weights, tokenizer, all appearing together.
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>

#include <t5zero/io/atomic_save.hpp>
#include <t5zero/io/model_config.hpp>
#include <t5zero/io/safetensors.hpp>
#include <t5zero/io/tokenizer_json.hpp>

namespace t5zero {

/// Adds config.json, generation_config.json, the weights and the tokenizer files to a save. `sentencepiece`:
/// the bytes of spiece.model.
inline void add_model_directory(atomic_save& save, const model_config& config,
                                std::vector<tensor_to_save> tensors, std::string_view saved_type,
                                const std::string& sentencepiece) {
  save.add("config.json", to_json(config, saved_type).dump(2) + "\n");
  const nlohmann::json generation = {{"_from_model_config", true},
                                     {"decoder_start_token_id", config.decoder_start_token_id},
                                     {"eos_token_id", 1},
                                     {"pad_token_id", 0}};
  save.add("generation_config.json", generation.dump(2) + "\n");
  save_model_tensors(save, std::move(tensors));
  save.add("spiece.model", sentencepiece);
  save.add("tokenizer.json", tokenizer_json(sentencepiece));
  nlohmann::json extra = nlohmann::json::array();
  for (int i = 0; i < 100; ++i) extra.push_back("<extra_id_" + std::to_string(i) + ">");
  const nlohmann::json tokenizer = {{"additional_special_tokens", extra},
                                    {"clean_up_tokenization_spaces", false},
                                    {"eos_token", "</s>"},
                                    {"extra_ids", 100},
                                    {"legacy", true},
                                    {"model_max_length", 512},
                                    {"pad_token", "<pad>"},
                                    {"tokenizer_class", "T5Tokenizer"},
                                    {"unk_token", "<unk>"}};
  save.add("tokenizer_config.json", tokenizer.dump(2) + "\n");
  const nlohmann::json special = {{"additional_special_tokens", extra},
                                  {"eos_token", "</s>"},
                                  {"pad_token", "<pad>"},
                                  {"unk_token", "<unk>"}};
  save.add("special_tokens_map.json", special.dump(2) + "\n");
}

}  // namespace t5zero
