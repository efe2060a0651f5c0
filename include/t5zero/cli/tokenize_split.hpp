// The rows of a split as token ids, with a progress bar.
#pragma once

#include <iostream>
#include <string>
#include <vector>

#include <t5zero/cli/bar_mode.hpp>
#include <t5zero/cli/options.hpp>
#include <t5zero/core/integers.hpp>
#include <t5zero/data/batcher.hpp>
#include <t5zero/data/tokenizer.hpp>
#include <t5zero/data/translation_pairs.hpp>
#include <t5zero/train/progress_bar.hpp>

namespace t5zero::cli {

/// Whether a tokenizer does not fit the texts: in those that it was made for, few tokens in a thousand are
/// unknown.
[[nodiscard]] inline bool has_many_unknown(const tokenizing_statistics& statistics) {
  return statistics.unknown_tokens * 20 > statistics.tokens;
}

/// Says on standard error what became of the texts. label: of the bar and of that line.
[[nodiscard]] inline tokenized_dataset tokenize_split(const std::vector<text_pair>& pairs,
                                                      const tokenizer& text, const options& chosen,
                                                      index_t max_target_length, const std::string& label) {
  progress_bar bar("Tokenising " + label, static_cast<index_t>(pairs.size()), bar_mode(chosen));
  tokenized_dataset data(pairs, text, chosen.source_prefix.value_or(""), chosen.max_source_length,
                         max_target_length, [&] { bar.advance(); });
  bar.close();
  const tokenizing_statistics& statistics = data.statistics();
  std::cerr << label << ": " << data.size() << " pairs, " << statistics.tokens
            << " tokens; cut to length: " << statistics.truncated_sources << " sources, "
            << statistics.truncated_targets << " targets; unknown tokens: " << statistics.unknown_tokens
            << "\n";
  if (has_many_unknown(statistics)) {
    std::cerr << "warning: " << 100 * statistics.unknown_tokens / statistics.tokens << " % of the tokens of "
              << label
              << " are unknown to the tokenizer: what they stand for can be neither learnt nor written; "
                 "--tokenizer_name names one of these languages\n";
  }
  return data;
}

}  // namespace t5zero::cli
