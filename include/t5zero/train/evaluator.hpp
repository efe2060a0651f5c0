// Evaluation and prediction over a data set: loss, generated texts, BLEU; the keys and conventions are those
// of run_translation.py and Seq2SeqTrainer.
#pragma once

#include <algorithm>
#include <chrono>
#include <numeric>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <t5zero/core/integers.hpp>
#include <t5zero/data/batcher.hpp>
#include <t5zero/data/decoded_text.hpp>
#include <t5zero/data/tokenizer.hpp>
#include <t5zero/model/generation_options.hpp>
#include <t5zero/train/bleu.hpp>
#include <t5zero/train/chrf.hpp>
#include <t5zero/train/progress_bar.hpp>
#include <t5zero/train/python_repr.hpp>
#include <t5zero/train/stop_signal.hpp>
#include <t5zero/train/trainer.hpp>

namespace t5zero {

struct evaluation_options {
  index_t batch_size = 8;
  std::int32_t decoder_start_token_id = 0;
  target_padding padding;
  bool has_references = true;  ///< false: no loss and no BLEU
  bool cleans_up = false;      ///< the tokenizer's clean_up_tokenization_spaces, for the metric's texts
  std::optional<generation_options> generation;  ///< none: the loss only
  bool ends_on_signal = false;                   ///< between batches, if stop_signal noted one
};

struct evaluation_result {
  /// Without the prefix, in the order of Trainer's log line: loss, bleu, gen_len, runtime, ...
  std::vector<std::pair<std::string, double>> values;
  index_t samples = 0;
  bool ended_by_signal = false;  ///< the other fields are then of no use
  std::optional<bleu_score> bleu;
  double chrf = 0.0;                     ///< where there is a BLEU
  std::vector<std::string> predictions;  ///< stripped, cleaned up: as generated_predictions.txt has them
  std::vector<std::string> references;

  [[nodiscard]] const double* find(const std::string& key) const {
    for (const auto& [name, value] : values) {
      if (name == key) return &value;
    }
    return nullptr;
  }
};

/// Evaluates in file order. `data`: its targets are the labels and, decoded, the references.
template <class Run>
[[nodiscard]] evaluation_result evaluate_dataset(trainer<Run>& trained, const tokenized_dataset& data,
                                                 const tokenizer& text, const evaluation_options& options,
                                                 progress_bar& bar) {
  const auto start = std::chrono::steady_clock::now();
  const index_t n = data.size();
  std::vector<index_t> order(static_cast<std::size_t>(n));
  std::iota(order.begin(), order.end(), index_t{0});
  micro_batch batch(data.largest_batch(options.batch_size, options.padding));
  evaluation_result result;
  result.samples = n;
  std::vector<std::string> hypotheses;  // as the metric sees them
  double loss = 0.0;
  index_t batches = 0;
  index_t generated = 0;
  for (index_t first = 0; first < n; first += options.batch_size, ++batches) {
    if (options.ends_on_signal && stop_signal::number() != 0) {
      result.ended_by_signal = true;
      return result;
    }
    const auto examples = std::span(order).subspan(
        static_cast<std::size_t>(first), static_cast<std::size_t>(std::min(options.batch_size, n - first)));
    batch.fill(data, examples, static_cast<std::uint32_t>(first), options.decoder_start_token_id,
               options.padding);
    const batch_view view = batch.view();
    if (options.has_references) loss += trained.evaluate(view);
    if (options.generation) {
      const auto& generator = trained.generate(view, *options.generation);
      for (index_t b = 0; b < view.source.batch; ++b) {
        const std::span<const std::int32_t> tokens = generator.tokens(b);
        generated += std::count_if(tokens.begin(), tokens.end(),
                                   [](std::int32_t id) { return id != tokenizer::pad_id; });
        const std::string decoded = text.decode(tokens);
        hypotheses.push_back(stripped(options.cleans_up ? clean_up_tokenization(decoded) : decoded));
        result.predictions.push_back(stripped(clean_up_tokenization(decoded)));
        if (!options.has_references) continue;
        // References are decoded labels, not the raw text: cut at the same length, unknown characters lost.
        const std::string reference = text.decode(data.target(first + b));
        result.references.push_back(
            stripped(options.cleans_up ? clean_up_tokenization(reference) : reference));
      }
    }
    bar.advance();
  }
  // A plain mean over batches, also where the last one is short, as Seq2SeqTrainer's.
  if (options.has_references) result.values.emplace_back("loss", loss / static_cast<double>(batches));
  if (options.generation) {
    if (options.has_references) {
      result.bleu = corpus_bleu(hypotheses, result.references);
      result.chrf = corpus_chrf(hypotheses, result.references);
      result.values.emplace_back("bleu", python_round(result.bleu->score, 4));
    }
    result.values.emplace_back("gen_len",
                               python_round(static_cast<double>(generated) / static_cast<double>(n), 4));
  }
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  result.values.emplace_back("runtime", python_round(seconds, 4));
  result.values.emplace_back("samples_per_second", python_round(static_cast<double>(n) / seconds, 3));
  result.values.emplace_back("steps_per_second", python_round(static_cast<double>(batches) / seconds, 3));
  return result;
}

}  // namespace t5zero
