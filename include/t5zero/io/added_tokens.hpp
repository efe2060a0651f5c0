// Tokens that were added to a tokenizer beside its SentencePiece model: Hugging Face keeps them in other
// files.
#pragma once

#include <charconv>
#include <filesystem>
#include <string>
#include <string_view>
#include <system_error>

#include <nlohmann/json.hpp>

#include <t5zero/core/error.hpp>
#include <t5zero/io/strict_json.hpp>

namespace t5zero {

namespace detail {

/// Whether T5's tokenizer has a token without anybody adding it: </s>, <pad>, <unk>, <extra_id_0> to
/// <extra_id_99>.
[[nodiscard]] inline bool is_own_special_token(std::string_view token) {
  if (token == "</s>" || token == "<pad>" || token == "<unk>") return true;
  constexpr std::string_view prefix = "<extra_id_";
  if (!token.starts_with(prefix) || !token.ends_with('>')) return false;
  token.remove_prefix(prefix.size());
  token.remove_suffix(1);
  int number = -1;
  const auto [end, failure] = std::from_chars(token.data(), token.data() + token.size(), number);
  return failure == std::errc{} && end == token.data() + token.size() && number >= 0 && number < 100;
}

/// One entry of a list of tokens: the text itself, or an object that has it.
inline void refuse_added_token(const nlohmann::json& entry, const std::string& file, const char* key) {
  const nlohmann::json& token = entry.is_object() && entry.contains("content") ? entry["content"] : entry;
  if (!token.is_string() || is_own_special_token(token.get_ref<const std::string&>())) return;
  throw input_error(file + ": " + key + " has " + shown(token) +
                    ", a token that was added to T5's. Added tokens are not implemented: its texts would be "
                    "cut into pieces. Give a tokenizer without it (--tokenizer_name)");
}

}  // namespace detail

/// Refuses a tokenizer of `directory` with tokens beyond T5's own, which would be cut into pieces and lost on
/// saving. Throws input_error naming file and token.
inline void check_added_tokens(const std::filesystem::path& directory) {
  const auto content = [&](const char* name) {
    std::error_code ignored;
    const std::filesystem::path file = directory / name;
    const bool is_there = std::filesystem::exists(file, ignored);
    nlohmann::json json = is_there ? read_strict_json(file) : nlohmann::json::object();
    return json.is_object() ? json : nlohmann::json::object();
  };
  const auto check_list = [&](const nlohmann::json& json, const char* file, const char* key) {
    if (!json.contains(key) || !(json[key].is_array() || json[key].is_object())) return;
    for (const nlohmann::json& entry : json[key])
      detail::refuse_added_token(entry, (directory / file).string(), key);
  };
  for (const auto& [token, id] : content("added_tokens.json").items())
    detail::refuse_added_token(token, (directory / "added_tokens.json").string(), "it");
  const nlohmann::json config = content("tokenizer_config.json");
  for (const char* key : {"added_tokens_decoder", "additional_special_tokens", "extra_special_tokens"})
    check_list(config, "tokenizer_config.json", key);
  check_list(content("special_tokens_map.json"), "special_tokens_map.json", "additional_special_tokens");
  check_list(content("tokenizer.json"), "tokenizer.json", "added_tokens");
}

}  // namespace t5zero
