// T5's tokenizer: SentencePiece pieces, sentinels above them, special strings parsed in raw text, eos at the
// end. Behaviour: Hugging Face's fast T5 tokenizer with legacy = true.
#pragma once

#include <sentencepiece_processor.h>

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <t5zero/core/error.hpp>
#include <t5zero/core/integers.hpp>

namespace t5zero {

/// Token ids of one text.
struct encoding {
  std::vector<std::int32_t> ids;  ///< ends in eos, also when cut
  bool truncated = false;
  index_t unknown = 0;  ///< ids that are <unk>
};

/// Encodes and decodes; const functions may run on several threads at once.
class tokenizer {
 public:
  static constexpr std::int32_t pad_id = 0;
  static constexpr std::int32_t eos_id = 1;
  static constexpr std::int32_t unk_id = 2;
  static constexpr index_t n_extra_ids = 100;  ///< <extra_id_0> is the highest id

  /// model: the bytes of a spiece.model; `name` stands for it in messages. Throws input_error.
  tokenizer(std::string model, const std::string& name)
      : model_(std::move(model)), processor_(std::make_unique<sentencepiece::SentencePieceProcessor>()) {
    const auto status = processor_->LoadFromSerializedProto(model_);
    if (!status.ok()) {
      throw input_error(name + ": not a SentencePiece model (" + std::string(status.message()) +
                        "); give T5's spiece.model with --tokenizer_name");
    }
    if (processor_->eos_id() != eos_id || processor_->unk_id() != unk_id || processor_->pad_id() != pad_id) {
      throw input_error(
          name + ": pad, eos and unk have the ids " + std::to_string(processor_->pad_id()) + ", " +
          std::to_string(processor_->eos_id()) + ", " + std::to_string(processor_->unk_id()) +
          "; T5's are 0, 1, 2: train the model with --pad_id=0 --eos_id=1 --unk_id=2 --bos_id=-1");
    }
  }
  [[nodiscard]] static tokenizer from_file(const std::filesystem::path& path) {
    std::ifstream file(path, std::ios::binary);
    if (!file)
      throw input_error(path.string() +
                        ": cannot be read; give the directory of a T5 tokenizer with --tokenizer_name");
    return {std::string(std::istreambuf_iterator<char>(file), {}), path.string()};
  }

  /// The bytes of spiece.model, for saving.
  [[nodiscard]] const std::string& model() const { return model_; }
  /// Pieces and sentinels; a model's embedding may have more rows.
  [[nodiscard]] index_t vocab_size() const { return processor_->GetPieceSize() + n_extra_ids; }

  /// max_length counts eos; 0: no limit.
  [[nodiscard]] encoding encode(std::string_view text, index_t max_length = 0) const {
    encoding result;
    while (!text.empty()) {
      const special next = find_special(text);
      append_pieces(text.substr(0, next.position), next.id >= 0, result.ids);
      if (next.id < 0) break;
      result.ids.push_back(next.id);
      text.remove_prefix(next.position + next.length);
    }
    if (max_length > 0 && static_cast<index_t>(result.ids.size()) >= max_length) {
      result.truncated = true;
      result.ids.resize(static_cast<std::size_t>(max_length - 1));
    }
    result.unknown = std::count(result.ids.begin(), result.ids.end(), unk_id);
    result.ids.push_back(eos_id);
    return result;
  }

  /// Text without special tokens: pad, eos, unk and sentinels leave nothing, as skip_special_tokens=True.
  [[nodiscard]] std::string decode(std::span<const std::int32_t> ids) const {
    std::string text;
    for (const std::int32_t id : ids) {
      if (id <= unk_id || id >= processor_->GetPieceSize()) continue;
      text += processor_->IdToPiece(id);
    }
    static constexpr std::string_view space = "\u2581";
    std::string result;
    for (std::size_t i = 0; i < text.size();) {
      if (text.compare(i, space.size(), space) == 0) {
        result += ' ';
        i += space.size();
      } else {
        result += text[i++];
      }
    }
    if (!result.empty() && result.front() == ' ') result.erase(0, 1);
    return result;
  }

 private:
  struct special {
    std::size_t position = std::string_view::npos;
    std::size_t length = 0;
    std::int32_t id = -1;
  };

  /// The first special string of a text: </s>, <pad>, <unk>, <extra_id_0> to <extra_id_99>.
  [[nodiscard]] special find_special(std::string_view text) const {
    for (std::size_t at = text.find('<'); at != std::string_view::npos; at = text.find('<', at + 1)) {
      const std::string_view rest = text.substr(at);
      if (rest.starts_with("</s>")) return {at, 4, eos_id};
      if (rest.starts_with("<pad>")) return {at, 5, pad_id};
      if (rest.starts_with("<unk>")) return {at, 5, unk_id};
      static constexpr std::string_view prefix = "<extra_id_";
      if (!rest.starts_with(prefix)) continue;
      const std::size_t end = rest.find('>');
      if (end == std::string_view::npos || end == prefix.size() || end > prefix.size() + 2) continue;
      const std::string_view digits = rest.substr(prefix.size(), end - prefix.size());
      const bool plain = digits.find_first_not_of("0123456789") == std::string_view::npos &&
                         (digits.size() == 1 || digits[0] != '0');
      if (!plain) continue;
      const int number = digits.size() == 1 ? digits[0] - '0' : 10 * (digits[0] - '0') + digits[1] - '0';
      return {at, end + 1, static_cast<std::int32_t>(processor_->GetPieceSize() + n_extra_ids - 1 - number)};
    }
    return {};
  }

  /// Each stretch between special strings is normalised alone; before a special string its trailing spaces
  /// go.
  void append_pieces(std::string_view text, bool before_special, std::vector<std::int32_t>& ids) const {
    if (before_special) {
      const std::size_t last = text.find_last_not_of(" \t\r\n");
      text = text.substr(0, last == std::string_view::npos ? 0 : last + 1);
    }
    if (text.empty()) return;
    std::vector<int> pieces;
    const auto status = processor_->Encode(std::string(text), &pieces);
    if (!status.ok()) throw error("SentencePiece failed to encode a text: " + std::string(status.message()));
    ids.insert(ids.end(), pieces.begin(), pieces.end());
  }

  std::string model_;
  std::unique_ptr<sentencepiece::SentencePieceProcessor> processor_;
};

}  // namespace t5zero
