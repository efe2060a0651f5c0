// A run's tokenizer, and the embedding rows that it needs.
#pragma once

#include <iostream>
#include <string>
#include <vector>

#include <t5zero/cli/find_model.hpp>
#include <t5zero/cli/options.hpp>
#include <t5zero/core/error.hpp>
#include <t5zero/core/integers.hpp>
#include <t5zero/data/tokenizer.hpp>
#include <t5zero/data/train_sentencepiece.hpp>
#include <t5zero/data/translation_pairs.hpp>

namespace t5zero::cli {

/// A tokenizer trained on the pairs. Throws input_error naming the flag that gave them.
[[nodiscard]] inline tokenizer train_tokenizer(const options& chosen, const std::vector<text_pair>& pairs) {
  const std::string prefix = chosen.source_prefix.value_or("");
  std::vector<std::string> texts;
  for (const text_pair& pair : pairs) {
    texts.push_back(prefix + pair.source);
    texts.push_back(pair.target);
  }
  try {
    return {train_sentencepiece(texts, 32000), "the SentencePiece model trained on the given text"};
  } catch (const input_error& failure) {
    const std::string source = chosen.dataset_name ? "--dataset_name " + *chosen.dataset_name
                                                   : "--train_file " + chosen.train_file.value_or("");
    throw input_error(source + ": " + failure.what());
  }
}

/// The tokenizer that `files` name, or one trained on `pairs`, which is said.
[[nodiscard]] inline tokenizer find_or_train_tokenizer(const options& chosen, const model_files& files,
                                                       const std::vector<text_pair>& pairs) {
  const bool trains = !files.tokenizer_file;
  if (trains && pairs.empty()) {
    throw input_error(
        "--from_scratch without --do_train has no text to train a tokenizer on: give --tokenizer_name");
  }
  if (!trains) return tokenizer::from_file(*files.tokenizer_file);
  tokenizer text = train_tokenizer(chosen, pairs);
  std::cerr << "Tokenizer: " << text.vocab_size() - tokenizer::n_extra_ids
            << " pieces, trained on the source and target sentences of " << pairs.size()
            << " pairs; --tokenizer_name names another\n";
  return text;
}

/// Throws input_error if a tokenizer of `ids` has more than the model has embedding rows. flag: what named
/// the tokenizer, empty if it is the model's own.
inline void check_tokenizer_fits(const model_files& files, index_t ids, const std::string& flag) {
  const index_t rows = files.config.shape.vocab_size;
  if (ids <= rows) return;
  throw input_error((flag.empty() ? "" : flag + ": ") + files.tokenizer_file->string() + " has " +
                    std::to_string(ids) + " ids, " + files.source + " " + std::to_string(rows) +
                    " embedding rows: they do not belong together; give the model's own tokenizer" +
                    (flag.empty() ? "" : ", which is found without the flag"));
}

/// The embedding rows of a model that begins anew follow its tokenizer; others must have enough. A
/// config.json's number stays where it is enough. own_tokenizer: trained for this run.
inline void fit_vocabulary(const options& chosen, model_files& files, index_t ids, bool own_tokenizer) {
  model_shape& shape = files.config.shape;
  const bool follows = own_tokenizer || (chosen.from_scratch && files.config.json.empty());
  // Rounded up as the published one is (32100 to 32128).
  if (follows || (chosen.from_scratch && ids > shape.vocab_size)) shape.vocab_size = round_up(ids, 64);
  check_tokenizer_fits(files, ids, chosen.tokenizer_name ? "--tokenizer_name " + *chosen.tokenizer_name : "");
}

}  // namespace t5zero::cli
