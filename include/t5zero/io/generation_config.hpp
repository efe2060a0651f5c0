// generation_config.json: how a model's own generations are made, unless a run says otherwise.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>

#include <t5zero/core/error.hpp>
#include <t5zero/core/integers.hpp>
#include <t5zero/io/strict_json.hpp>
#include <t5zero/model/generation_options.hpp>

namespace t5zero {

/// What the file says, and its keys, to be saved with the model: those of a generation_config.json all, also
/// the unknown ones, those of a config.json as far as they are about generation.
struct generation_config {
  generation_options options;
  bool says_length = false;        ///< max_length or max_new_tokens is given
  bool counts_new_tokens = false;  ///< max_new_tokens is given: it stands over every max_length
  std::optional<std::int32_t> decoder_start_token_id;
  nlohmann::json json = nlohmann::json::object();
  std::string file;                       ///< what was read, for messages
  std::vector<std::string> unknown_keys;  ///< of the file: no key of generation, here or in transformers
};

namespace detail {

class generation_config_reader {
 public:
  generation_config_reader(const nlohmann::json& json, std::string file)
      : json_(json), file_(std::move(file)) {
    if (!json.is_object()) throw input_error(file_ + ": an object {...} is needed; fetch the file again");
  }

  /// Whether the key is given; it then counts among the keys that were read.
  [[nodiscard]] bool has(const char* key) const {
    asked_.insert(key);
    if (!json_.contains(key) || json_[key].is_null()) return false;
    given_[key] = json_[key];
    return true;
  }
  /// What was read, and nothing else of the file.
  [[nodiscard]] const nlohmann::json& given() const { return given_; }
  /// The keys that nobody asked about.
  [[nodiscard]] std::vector<std::string> unread_keys() const {
    std::vector<std::string> keys;
    for (const auto& [key, value] : json_.items())
      if (!asked_.contains(key)) keys.push_back(key);
    return keys;
  }
  void integer(const char* key, index_t& to, index_t low, index_t high = index_t{1} << 24) const {
    if (!has(key)) return;
    const std::optional<index_t> value = integral_value(json_[key]);
    if (!value || *value < low || *value > high)
      refuse(key, "an integer from " + std::to_string(low) + " to " + std::to_string(high) + " is needed");
    to = *value;
  }
  void token(const char* key, std::optional<std::int32_t>& to) const {
    if (!has(key)) return;
    // Several end tokens may stand in a list; T5 has one.
    const bool in_list = json_[key].is_array() && json_[key].size() == 1;
    const std::optional<index_t> id = integral_value(in_list ? json_[key][0] : json_[key]);
    if (!id || *id < 0 || *id > (index_t{1} << 24)) refuse(key, "the id of one token is needed");
    to = static_cast<std::int32_t>(*id);
  }
  template <class Number>
  void number(const char* key, Number& to, double above, double most) const {
    if (!has(key)) return;
    const double value = json_[key].is_number() ? json_[key].get<double>() : above;
    if (!(value > above) || value > most) {
      refuse(key, "a number above " + shown(nlohmann::json(above)) + " and at most " +
                      shown(nlohmann::json(most)) + " is needed");
    }
    to = static_cast<Number>(value);
  }
  void boolean(const char* key, bool& to) const {
    if (!has(key)) return;
    if (!json_[key].is_boolean()) refuse(key, "true or false is needed");
    to = json_[key].get<bool>();
  }
  void early_stopping(early_stopping_rule& to) const {
    if (!has("early_stopping")) return;
    const nlohmann::json& value = json_["early_stopping"];
    if (value == true) {
      to = early_stopping_rule::when_full;
    } else if (value == false) {
      to = early_stopping_rule::heuristic;
    } else if (value == "never") {
      to = early_stopping_rule::never;
    } else {
      refuse("early_stopping", "true, false or \"never\" is needed");
    }
  }
  /// A key that would change what is generated and is not implemented, unless it has its neutral value.
  void neutral(const char* key, const nlohmann::json& value) const {
    if (has(key) && json_[key] != value && !json_[key].empty())
      refuse(key, "it is not implemented: take it out of the file, or give --generation_config with another");
  }
  [[noreturn]] void refuse(const char* key, const std::string& repair) const {
    throw input_error(file_ + ": \"" + key + "\" is " + shown(json_[key]) + "; " + repair);
  }

 private:
  const nlohmann::json& json_;
  mutable nlohmann::json given_ = nlohmann::json::object();
  mutable std::set<std::string, std::less<>> asked_;
  std::string file_;
};

/// Whether transformers has a key that changes nothing here: about its outputs, caches, assistants.
[[nodiscard]] inline bool changes_no_generation(std::string_view key) {
  static constexpr std::array<std::string_view, 34> known = {"_from_model_config",
                                                             "assistant_confidence_threshold",
                                                             "assistant_early_exit",
                                                             "assistant_lookbehind",
                                                             "bos_token_id",
                                                             "cache_config",
                                                             "cache_implementation",
                                                             "compile_config",
                                                             "continuous_batching_config",
                                                             "disable_compile",
                                                             "generation_kwargs",
                                                             "is_assistant",
                                                             "low_memory",
                                                             "max_matching_ngram_size",
                                                             "num_assistant_tokens",
                                                             "num_assistant_tokens_schedule",
                                                             "output_attentions",
                                                             "output_hidden_states",
                                                             "output_logits",
                                                             "output_scores",
                                                             "pad_token_id",
                                                             "prefill_chunk_size",
                                                             "prompt_lookup_num_tokens",
                                                             "remove_invalid_values",
                                                             "return_dict",
                                                             "return_dict_in_generate",
                                                             "return_legacy_cache",
                                                             "target_lookbehind",
                                                             "token_healing",
                                                             "tokenizer_class",
                                                             "torch_dtype",
                                                             "dtype",
                                                             "transformers_version",
                                                             "use_cache"};
  return std::find(known.begin(), known.end(), key) != known.end();
}

}  // namespace detail

/// Throws input_error naming file, key, value and repair. Also reads the generation keys that config.json
/// held before transformers 4.26.
[[nodiscard]] inline generation_config parse_generation_config(const nlohmann::json& json,
                                                               const std::string& file) {
  const detail::generation_config_reader read(json, file);
  generation_config config;
  generation_options& options = config.options;
  index_t max_length = 0;
  read.integer("max_length", max_length, 1);
  // 20 is the value of a file that says nothing, and then means 20 new tokens (transformers).
  config.says_length = max_length > 0 && max_length != 20;
  if (config.says_length) options.max_length = std::max<index_t>(2, max_length);
  read.integer("min_length", options.min_length, 0);
  index_t new_tokens = 0;
  read.integer("max_new_tokens", new_tokens, 1);
  if (new_tokens > 0) {
    options.max_length = 1 + new_tokens;
    config.says_length = config.counts_new_tokens = true;
  }
  index_t least_new_tokens = 0;
  read.integer("min_new_tokens", least_new_tokens, 0);
  if (least_new_tokens > 0) options.min_length = std::max(options.min_length, 1 + least_new_tokens);
  read.integer("num_beams", options.num_beams, 1, 1024);
  read.number("length_penalty", options.length_penalty, -1e6, 1e6);
  read.early_stopping(options.early_stopping);
  read.integer("no_repeat_ngram_size", options.no_repeat_ngram_size, 0);
  read.number("repetition_penalty", options.repetition_penalty, 0.0, 1e6);
  read.boolean("do_sample", options.do_sample);
  read.number("temperature", options.temperature, 0.0, 1e6);
  read.integer("top_k", options.top_k, 0);
  read.number("top_p", options.top_p, 0.0, 1.0);
  read.token("forced_bos_token_id", options.forced_bos_token_id);
  read.token("forced_eos_token_id", options.forced_eos_token_id);
  read.token("decoder_start_token_id", config.decoder_start_token_id);
  std::optional<std::int32_t> end;
  read.token("eos_token_id", end);
  if (end && *end != options.eos_token_id)
    read.refuse("eos_token_id", "T5's own end token, 1, is implemented: take the key out of the file");
  static const std::array<std::pair<const char*, nlohmann::json>, 24> not_implemented = {
      {{"num_beam_groups", 1},
       {"num_return_sequences", 1},
       {"diversity_penalty", 0.0},
       {"penalty_alpha", 0.0},
       {"typical_p", 1.0},
       {"min_p", 0.0},
       {"epsilon_cutoff", 0.0},
       {"eta_cutoff", 0.0},
       {"encoder_repetition_penalty", 1.0},
       {"encoder_no_repeat_ngram_size", 0},
       {"guidance_scale", 1.0},
       {"exponential_decay_length_penalty", nullptr},
       {"bad_words_ids", nullptr},
       {"force_words_ids", nullptr},
       {"constraints", nullptr},
       {"suppress_tokens", nullptr},
       {"begin_suppress_tokens", nullptr},
       {"sequence_bias", nullptr},
       {"renormalize_logits", false},
       {"forced_decoder_ids", nullptr},
       {"stop_strings", nullptr},
       {"max_time", nullptr},
       {"watermarking_config", nullptr},
       {"dola_layers", nullptr}}};
  for (const auto& [key, value] : not_implemented) read.neutral(key, value);
  config.unknown_keys = read.unread_keys();
  std::erase_if(config.unknown_keys, detail::changes_no_generation);
  config.json = read.given();
  config.file = file;
  return config;
}

/// The generation_config.json at `path`.
[[nodiscard]] inline generation_config read_generation_config(const std::filesystem::path& path) {
  const nlohmann::json json = read_strict_json(path);
  generation_config config = parse_generation_config(json, path.string());
  config.json = json;
  return config;
}

}  // namespace t5zero
