// config.json of a T5: its shape, and back.
#pragma once

#include <array>
#include <cmath>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include <nlohmann/json.hpp>

#include <t5zero/core/error.hpp>
#include <t5zero/core/integers.hpp>
#include <t5zero/io/strict_json.hpp>
#include <t5zero/policy/model_size.hpp>

namespace t5zero {

/// What a run needs of a config.json, and the file itself, so that keys unknown to us survive.
struct model_config {
  model_shape shape;
  double dropout_rate = 0.1;
  double initializer_factor = 1.0;
  std::int32_t decoder_start_token_id = 0;
  nlohmann::json json = nlohmann::json::object();
};

namespace detail {

/// A checked key of a config.
template <class T>
T config_value(const nlohmann::json& json, const std::string& file, const char* key, const T* fallback) {
  const auto found = json.find(key);
  if (found == json.end() || found->is_null()) {
    if (fallback != nullptr) return *fallback;
    throw input_error(file + ": no \"" + std::string(key) + "\"; it is not the config.json of a T5");
  }
  bool good = false;
  if constexpr (std::is_same_v<T, bool>)
    good = found->is_boolean();
  else if constexpr (std::is_same_v<T, std::string>)
    good = found->is_string();
  else if constexpr (std::is_integral_v<T>)
    good = found->is_number_integer() && found->template get<std::int64_t>() >= 0;
  else
    good = found->is_number();
  if (!good)
    throw input_error(file + ": \"" + std::string(key) + "\" is " + shown(*found) + ", of the wrong kind");
  return found->template get<T>();
}

}  // namespace detail

/// Throws input_error: another architecture (named), missing or mistyped keys.
[[nodiscard]] inline model_config parse_model_config(const nlohmann::json& json, const std::string& file) {
  using detail::config_value;
  const auto type = config_value<std::string>(json, file, "model_type", nullptr);
  const std::string none;
  const auto tokenizer_class = config_value<std::string>(json, file, "tokenizer_class", &none);
  if (type != "t5" || tokenizer_class == "ByT5Tokenizer") {
    throw input_error(file + ": a " + (type != "t5" ? type : std::string("byt5")) +
                      " model; t5zero trains T5, T5 v1.1 and flan-t5 (model_type t5): choose one of those");
  }
  model_config config;
  const index_t none_start = config.decoder_start_token_id;
  config.json = json;
  model_shape& shape = config.shape;
  auto integer = [&](const char* key) { return config_value<index_t>(json, file, key, nullptr); };
  shape.d_model = integer("d_model");
  shape.d_kv = integer("d_kv");
  shape.d_ff = integer("d_ff");
  shape.n_heads = integer("num_heads");
  shape.n_encoder_layers = integer("num_layers");
  shape.n_decoder_layers = config_value<index_t>(json, file, "num_decoder_layers", &shape.n_encoder_layers);
  shape.vocab_size = integer("vocab_size");
  shape.n_buckets = config_value<index_t>(json, file, "relative_attention_num_buckets", &shape.n_buckets);
  shape.max_distance =
      config_value<index_t>(json, file, "relative_attention_max_distance", &shape.max_distance);
  const double epsilon = 1e-6;
  const auto epsilon_given = config_value<double>(json, file, "layer_norm_epsilon", &epsilon);
  shape.epsilon = static_cast<float>(epsilon_given);
  const std::string relu = "relu";
  const auto feed_forward = config_value<std::string>(json, file, "feed_forward_proj", &relu);
  if (feed_forward == "gated-gelu") {
    shape.feed_forward = feed_forward_kind::gated_gelu;
  } else if (feed_forward != "relu") {
    throw input_error(file + ": feed_forward_proj is \"" + feed_forward +
                      "\"; relu and gated-gelu are known");
  }
  // transformers 5 has the scaling as a key of its own; before, tying meant scaling.
  const bool yes = true;
  shape.ties_embeddings = config_value<bool>(json, file, "tie_word_embeddings", &yes);
  shape.scales_output = config_value<bool>(json, file, "scale_decoder_outputs", &shape.ties_embeddings);
  config.dropout_rate = config_value<double>(json, file, "dropout_rate", &config.dropout_rate);
  config.initializer_factor =
      config_value<double>(json, file, "initializer_factor", &config.initializer_factor);
  const auto start = config_value<index_t>(json, file, "decoder_start_token_id", &none_start);
  config.decoder_start_token_id = static_cast<std::int32_t>(start);
  const auto check = [&](const char* key, bool good, const char* needed) {
    if (good) return;
    throw input_error(file + ": \"" + key + "\" is " + shown(json[key]) + "; " + needed + " is needed");
  };
  constexpr index_t largest = index_t{1} << 24;
  for (const char* key : {"d_model", "d_kv", "d_ff", "num_heads", "num_layers", "vocab_size"}) {
    const index_t value = integer(key);
    check(key, value > 0 && value <= largest, "an integer from 1 to 16777216");
  }
  check("num_decoder_layers", shape.n_decoder_layers > 0 && shape.n_decoder_layers <= largest,
        "an integer from 1 to 16777216");
  check("dropout_rate", config.dropout_rate >= 0 && config.dropout_rate < 1, "a rate in [0,1)");
  check("layer_norm_epsilon", epsilon_given > 0 && epsilon_given < 1, "a positive number below 1");
  check("initializer_factor", config.initializer_factor > 0 && std::isfinite(config.initializer_factor),
        "a positive number");
  check("decoder_start_token_id", start < shape.vocab_size, "an id below vocab_size");
  const index_t pad = 0;
  const index_t eos = 1;
  check("pad_token_id", config_value<index_t>(json, file, "pad_token_id", &pad) == pad, "T5's id, 0,");
  check("eos_token_id", config_value<index_t>(json, file, "eos_token_id", &eos) == eos, "T5's id, 1,");
  return config;
}

[[nodiscard]] inline model_config read_model_config(const std::filesystem::path& path) {
  return parse_model_config(read_strict_json(path), path.string());
}

/// The published configuration of a shape.
[[nodiscard]] inline model_config published_config(const model_shape& shape) {
  model_config config;
  config.shape = shape;
  return config;
}

/// config.json as transformers 4.4x and 5.x read it.
[[nodiscard]] inline nlohmann::json to_json(const model_config& config, std::string_view saved_type) {
  const model_shape& shape = config.shape;
  nlohmann::json json = config.json;
  json["architectures"] = {"T5ForConditionalGeneration"};
  json["model_type"] = "t5";
  json["is_encoder_decoder"] = true;
  json["d_model"] = shape.d_model;
  json["d_kv"] = shape.d_kv;
  json["d_ff"] = shape.d_ff;
  json["num_heads"] = shape.n_heads;
  json["num_layers"] = shape.n_encoder_layers;
  json["num_decoder_layers"] = shape.n_decoder_layers;
  json["vocab_size"] = shape.vocab_size;
  json["relative_attention_num_buckets"] = shape.n_buckets;
  json["relative_attention_max_distance"] = shape.max_distance;
  json["feed_forward_proj"] = shape.gated() ? "gated-gelu" : "relu";
  json["dense_act_fn"] = shape.gated() ? "gelu_new" : "relu";
  json["is_gated_act"] = shape.gated();
  json["tie_word_embeddings"] = shape.ties_embeddings;
  json["scale_decoder_outputs"] = shape.scales_output;
  json["dropout_rate"] = config.dropout_rate;
  json["initializer_factor"] = config.initializer_factor;
  json["decoder_start_token_id"] = config.decoder_start_token_id;
  json["pad_token_id"] = 0;
  json["eos_token_id"] = 1;
  if (!json.contains("layer_norm_epsilon")) json["layer_norm_epsilon"] = 1e-6;
  if (!json.contains("use_cache")) json["use_cache"] = true;
  json.erase("dtype");
  json["torch_dtype"] = saved_type;
  return json;
}

/// Dimensions in which a config differs from a compiled shape, as "d_model 768, not 512"; the vocabulary,
/// tying, scaling and epsilon may differ.
[[nodiscard]] inline std::string differences(const model_shape& config, const model_shape& compiled) {
  std::string text;
  auto compare = [&](const char* name, index_t ours, index_t theirs) {
    if (ours == theirs) return;
    text += (text.empty() ? "" : ", ") + std::string(name) + " " + std::to_string(theirs) + ", not " +
            std::to_string(ours);
  };
  compare("d_model", compiled.d_model, config.d_model);
  compare("d_kv", compiled.d_kv, config.d_kv);
  compare("d_ff", compiled.d_ff, config.d_ff);
  compare("num_heads", compiled.n_heads, config.n_heads);
  compare("num_layers", compiled.n_encoder_layers, config.n_encoder_layers);
  compare("num_decoder_layers", compiled.n_decoder_layers, config.n_decoder_layers);
  compare("relative_attention_num_buckets", compiled.n_buckets, config.n_buckets);
  compare("relative_attention_max_distance", compiled.max_distance, config.max_distance);
  if (compiled.gated() != config.gated()) text += std::string(text.empty() ? "" : ", ") + "feed_forward_proj";
  return text;
}

}  // namespace t5zero
