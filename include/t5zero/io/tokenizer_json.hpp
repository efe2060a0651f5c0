// tokenizer.json, Hugging Face's form of a tokenizer, from a SentencePiece model: transformers 5 reads
// nothing else. The model is a protocol buffer (sentencepiece_model.proto); the few fields needed are read
// from its wire format.
#pragma once

#include <bit>
#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>
#include <vector>

#include <nlohmann/json.hpp>

#include <t5zero/core/error.hpp>
#include <t5zero/core/integers.hpp>

namespace t5zero {

namespace detail {

/// One field of a protocol buffer message.
struct proto_field {
  std::uint64_t number = 0;
  std::string_view bytes;   ///< of a length-delimited field (strings, messages)
  std::uint32_t fixed = 0;  ///< of a 32-bit field (float)
  std::uint64_t value = 0;  ///< of a varint field (integers, enumerations)
};

/// Walks over the fields of a message. Throws input_error if it is cut short.
class proto_reader {
 public:
  explicit proto_reader(std::string_view message) : rest_(message) {}

  [[nodiscard]] bool next(proto_field& field) {
    if (rest_.empty()) return false;
    const std::uint64_t tag = varint();
    field = {};
    field.number = tag >> 3;
    switch (tag & 7) {
      case 0:
        field.value = varint();
        return true;
      case 1:
        static_cast<void>(take(8));
        return true;
      case 2:
        field.bytes = take(varint());
        return true;
      case 5: {
        const std::string_view four = take(4);
        std::memcpy(&field.fixed, four.data(), 4);
        return true;
      }
      default:
        fail();
    }
  }

 private:
  [[noreturn]] static void fail() {
    throw input_error("spiece.model: not a SentencePiece model, or damaged; fetch it again");
  }
  std::uint64_t varint() {
    std::uint64_t value = 0;
    for (int shift = 0; shift < 64; shift += 7) {
      const auto byte = static_cast<unsigned char>(take(1).front());
      value |= static_cast<std::uint64_t>(byte & 0x7fU) << shift;
      if (byte < 0x80) return value;
    }
    fail();
  }
  std::string_view take(std::uint64_t count) {
    if (count > rest_.size()) fail();
    const std::string_view result = rest_.substr(0, count);
    rest_.remove_prefix(count);
    return result;
  }

  std::string_view rest_;
};

/// RFC 4648.
inline std::string base64(std::string_view bytes) {
  static constexpr std::string_view digits =
      "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string text;
  for (std::size_t i = 0; i < bytes.size(); i += 3) {
    std::uint32_t block = 0;
    for (std::size_t j = 0; j < 3; ++j) {
      block = block << 8 | (i + j < bytes.size() ? static_cast<unsigned char>(bytes[i + j]) : 0U);
    }
    for (std::size_t j = 0; j < 4; ++j) {
      text += i + j > bytes.size() ? '=' : digits[block >> (18 - 6 * j) & 63U];
    }
  }
  return text;
}

}  // namespace detail

/// The text of tokenizer.json for the bytes of a spiece.model, with `n_extra_ids` sentinels above the pieces.
/// Throws input_error if the bytes are no SentencePiece model.
[[nodiscard]] inline std::string tokenizer_json(std::string_view sentencepiece, index_t n_extra_ids = 100) {
  using nlohmann::ordered_json;
  ordered_json vocabulary = ordered_json::array();
  std::string charsmap;
  detail::proto_reader model(sentencepiece);
  for (detail::proto_field field; model.next(field);) {
    detail::proto_reader message(field.bytes);
    if (field.number == 1) {  // ModelProto.pieces
      std::string piece;
      float score = 0.0F;
      for (detail::proto_field part; message.next(part);) {
        if (part.number == 1) piece = part.bytes;
        if (part.number == 2) score = std::bit_cast<float>(part.fixed);
      }
      vocabulary.push_back({piece, static_cast<double>(score)});
    } else if (field.number == 2) {  // ModelProto.trainer_spec
      for (detail::proto_field part; message.next(part);) {
        if (part.number == 3 && part.value != 1) {  // model_type: UNIGRAM
          throw input_error("spiece.model: its model_type is not unigram, T5's kind; give T5's spiece.model");
        }
      }
    } else if (field.number == 3) {  // ModelProto.normalizer_spec
      for (detail::proto_field part; message.next(part);) {
        if (part.number == 2) charsmap = part.bytes;  // precompiled_charsmap
      }
    }
  }
  const auto pieces = static_cast<index_t>(vocabulary.size());
  ordered_json added = ordered_json::array();
  auto add_special = [&](index_t id, const std::string& content) {
    added.push_back({{"id", id},
                     {"content", content},
                     {"single_word", false},
                     {"lstrip", false},
                     {"rstrip", false},
                     {"normalized", false},
                     {"special", true}});
  };
  add_special(0, "<pad>");
  add_special(1, "</s>");
  add_special(2, "<unk>");
  for (index_t i = 0; i < n_extra_ids; ++i) {
    const std::string sentinel = "<extra_id_" + std::to_string(n_extra_ids - 1 - i) + ">";
    vocabulary.push_back({sentinel, 0.0});
    add_special(pieces + i, sentinel);
  }
  const ordered_json metaspace = {
      {"type", "Metaspace"}, {"replacement", "\u2581"}, {"prepend_scheme", "always"}, {"split", true}};
  auto sequence = [](const char* id) { return ordered_json{{"Sequence", {{"id", id}, {"type_id", 0}}}}; };
  const ordered_json eos = {{"SpecialToken", {{"id", "</s>"}, {"type_id", 0}}}};
  ordered_json json;
  json["version"] = "1.0";
  json["truncation"] = nullptr;
  json["padding"] = nullptr;
  json["added_tokens"] = added;
  json["normalizer"] = nullptr;
  if (!charsmap.empty()) {
    json["normalizer"] = {{"type", "Precompiled"}, {"precompiled_charsmap", detail::base64(charsmap)}};
  }
  json["pre_tokenizer"] = {
      {"type", "Sequence"},
      {"pretokenizers", ordered_json::array({{{"type", "WhitespaceSplit"}}, metaspace})}};
  json["post_processor"] = {
      {"type", "TemplateProcessing"},
      {"single", ordered_json::array({sequence("A"), eos})},
      {"pair", ordered_json::array({sequence("A"), eos, sequence("B"), eos})},
      {"special_tokens", {{"</s>", {{"id", "</s>"}, {"ids", {1}}, {"tokens", {"</s>"}}}}}}};
  json["decoder"] = metaspace;
  json["model"] = {{"type", "Unigram"}, {"unk_id", 2}, {"vocab", vocabulary}, {"byte_fallback", false}};
  return json.dump(2);
}

}  // namespace t5zero
