// A SentencePiece model from the training text, for runs from scratch.
#pragma once

#include <sentencepiece_processor.h>
#include <sentencepiece_trainer.h>

#include <algorithm>
#include <cstddef>
#include <string>
#include <unordered_map>
#include <vector>

#include <t5zero/core/error.hpp>
#include <t5zero/core/integers.hpp>
#include <t5zero/core/replaced.hpp>
#include <t5zero/data/sentence_parts.hpp>

namespace t5zero {

namespace detail {

/// Feeds texts to SentencePiece without a file.
class text_iterator final : public sentencepiece::SentenceIterator {
 public:
  explicit text_iterator(const std::vector<std::string>& texts) : texts_(&texts) {}
  [[nodiscard]] bool done() const override { return position_ >= texts_->size(); }
  void Next() override { ++position_; }
  [[nodiscard]] const std::string& value() const override { return (*texts_)[position_]; }
  [[nodiscard]] sentencepiece::util::Status status() const override { return {}; }

 private:
  const std::vector<std::string>* texts_;
  std::size_t position_ = 0;
};

inline std::string train_unigram_model(const std::vector<std::string>& sentences, index_t vocab_size) {
  std::string model;
  const std::unordered_map<std::string, std::string> arguments{{"model_type", "unigram"},
                                                               {"vocab_size", std::to_string(vocab_size)},
                                                               {"hard_vocab_limit", "false"},
                                                               {"pad_id", "0"},
                                                               {"eos_id", "1"},
                                                               {"unk_id", "2"},
                                                               {"bos_id", "-1"},
                                                               {"normalization_rule_name", "nmt_nfkc"},
                                                               {"character_coverage", "1.0"},
                                                               {"minloglevel", "2"},
                                                               {"num_threads", "1"}};
  text_iterator all(sentences);
  const auto status = sentencepiece::SentencePieceTrainer::Train(arguments, &all, &model);
  if (!status.ok()) {
    throw input_error("no SentencePiece model can be trained on the given text (" +
                      std::string(status.message()) + "); give more text, or a model with --tokenizer_name");
  }
  return model;
}

/// Whether anything is left of the sentences when they are normalised: white space and control characters
/// are not. (SentencePiece ends the program where nothing is.)
inline bool hold_text(const std::vector<std::string>& sentences) {
  sentencepiece::SentencePieceProcessor normalizes;
  if (!normalizes.LoadFromSerializedProto(train_unigram_model({"a"}, 8)).ok()) return true;
  return std::any_of(sentences.begin(), sentences.end(), [&](const std::string& sentence) {
    std::vector<std::string> pieces;
    const bool encoded = normalizes.Encode(sentence, &pieces).ok();
    return encoded && std::any_of(pieces.begin(), pieces.end(),
                                  [](const std::string& piece) { return piece != "\u2581"; });
  });
}

}  // namespace detail

/// The bytes of a unigram model with T5's conventions (pad 0, eos 1, unk 2, no bos, nmt_nfkc). A text too
/// small for `vocab_size` pieces gives fewer. Throws input_error if there is no text.
[[nodiscard]] inline std::string train_sentencepiece(const std::vector<std::string>& texts,
                                                     index_t vocab_size) {
  // SentencePiece leaves out, without a word, a sentence of more bytes, and one that has the mark that it
  // puts between sentences (U+2585).
  constexpr std::size_t longest_sentence = 4192;
  std::vector<std::string> sentences;
  for (const std::string& text : texts)
    add_in_parts(replaced(text, "\u2585", " "), longest_sentence, sentences);
  if (!detail::hold_text(sentences)) {
    throw input_error(
        "no SentencePiece model can be trained on the given text (there is nothing but white space in it); "
        "give more text, or a model with --tokenizer_name");
  }
  return detail::train_unigram_model(sentences, vocab_size);
}

}  // namespace t5zero
