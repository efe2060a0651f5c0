// A SentencePiece model from the training text, for runs from scratch.
#pragma once

#include <sentencepiece_trainer.h>

#include <cstddef>
#include <string>
#include <unordered_map>
#include <vector>

#include <t5zero/core/error.hpp>
#include <t5zero/core/integers.hpp>

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

}  // namespace detail

/// The bytes of a unigram model with T5's conventions (pad 0, eos 1, unk 2, no bos, nmt_nfkc). A text too
/// small for `vocab_size` pieces gives fewer. Throws input_error if there is no text.
[[nodiscard]] inline std::string train_sentencepiece(const std::vector<std::string>& texts,
                                                     index_t vocab_size) {
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
  detail::text_iterator sentences(texts);
  const auto status = sentencepiece::SentencePieceTrainer::Train(arguments, &sentences, &model);
  if (!status.ok()) {
    throw input_error("no SentencePiece model can be trained on the given text (" +
                      std::string(status.message()) + "); give more text, or a model with --tokenizer_name");
  }
  return model;
}

}  // namespace t5zero
