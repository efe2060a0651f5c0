// Tokenised examples and the micro-batches made of them: ragged, without padding.
#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <numeric>
#include <span>
#include <string>
#include <vector>

#include <t5zero/core/error.hpp>
#include <t5zero/core/integers.hpp>
#include <t5zero/data/tokenizer.hpp>
#include <t5zero/data/translation_pairs.hpp>
#include <t5zero/plan/batch_shape.hpp>
#include <t5zero/tensor/batch_view.hpp>

namespace t5zero {

/// What becomes of the places behind the end of a target that is shorter than the batch's longest. Padding of
/// sources is masked and never counts, so sources need no such choice.
struct target_padding {
  bool counts_in_loss = false;  ///< labels are the pad id, not -100: each place is a token to be learnt
  index_t multiple = 1;         ///< the longest is rounded up to it: 8 under fp16, as in transformers
  index_t fixed_length = 0;     ///< above 0: every target is padded to it, not to the batch's longest

  /// Tokens of each target of a batch whose longest has `longest`.
  [[nodiscard]] index_t padded(index_t longest) const {
    return fixed_length > 0 ? std::max(fixed_length, longest) : round_up(longest, multiple);
  }
};

/// What tokenising a split met.
struct tokenizing_statistics {
  index_t truncated_sources = 0;
  index_t truncated_targets = 0;
  index_t unknown_tokens = 0;
  index_t tokens = 0;
};

/// Token ids of all pairs of a split, one after another.
class tokenized_dataset {
 public:
  /// Lengths count eos. `progress` is called after each pair.
  tokenized_dataset(const std::vector<text_pair>& pairs, const tokenizer& text, const std::string& prefix,
                    index_t max_source_length, index_t max_target_length,
                    const std::function<void()>& progress) {
    for (const text_pair& pair : pairs) {
      const encoding source = text.encode(prefix + pair.source, max_source_length);
      const encoding target = text.encode(pair.target, max_target_length);
      source_.add(source.ids);
      target_.add(target.ids);
      statistics_.truncated_sources += source.truncated ? 1 : 0;
      statistics_.truncated_targets += target.truncated ? 1 : 0;
      statistics_.unknown_tokens += source.unknown + target.unknown;
      statistics_.tokens += static_cast<index_t>(source.ids.size() + target.ids.size());
      if (progress) progress();
    }
  }

  [[nodiscard]] index_t size() const { return static_cast<index_t>(source_.offsets.size()) - 1; }
  [[nodiscard]] std::span<const std::int32_t> source(index_t i) const { return source_.at(i); }
  [[nodiscard]] std::span<const std::int32_t> target(index_t i) const { return target_.at(i); }
  [[nodiscard]] const tokenizing_statistics& statistics() const { return statistics_; }

  /// Of the batch of these examples.
  [[nodiscard]] batch_shape shape_of(std::span<const index_t> examples,
                                     const target_padding& padding = {}) const {
    batch_shape shape{.batch = static_cast<index_t>(examples.size())};
    for (const index_t example : examples) {
      const auto source_length = static_cast<index_t>(source(example).size());
      const auto target_length = static_cast<index_t>(target(example).size());
      shape.source_tokens += source_length;
      shape.target_tokens += target_length;
      shape.max_source_length = std::max(shape.max_source_length, source_length);
      shape.max_target_length = std::max(shape.max_target_length, target_length);
    }
    if (padding.counts_in_loss) pad_targets(shape, padding);
    return shape;
  }
  /// Holds every batch of `batch` examples in any order: the longest ones together.
  [[nodiscard]] batch_shape largest_batch_of_any_order(index_t batch,
                                                       const target_padding& padding = {}) const {
    batch_shape shape{.batch = std::min(batch, size())};
    source_.longest(shape.batch, shape.source_tokens, shape.max_source_length);
    target_.longest(shape.batch, shape.target_tokens, shape.max_target_length);
    if (padding.counts_in_loss) pad_targets(shape, padding);
    return shape;
  }
  /// Holds every batch that all examples are cut into in their order, as an evaluation does.
  [[nodiscard]] batch_shape largest_batch(index_t batch, const target_padding& padding = {}) const {
    std::vector<index_t> order(static_cast<std::size_t>(size()));
    std::iota(order.begin(), order.end(), index_t{0});
    batch_shape shape;
    for (index_t first = 0; first < size(); first += batch) {
      shape = shape.covering(
          shape_of(std::span(order).subspan(static_cast<std::size_t>(first),
                                            static_cast<std::size_t>(std::min(batch, size() - first))),
                   padding));
    }
    return shape;
  }

 private:
  struct sequences {
    std::vector<std::int32_t> ids;
    std::vector<index_t> offsets{0};

    void add(const std::vector<std::int32_t>& sequence) {
      ids.insert(ids.end(), sequence.begin(), sequence.end());
      offsets.push_back(static_cast<index_t>(ids.size()));
    }
    [[nodiscard]] std::span<const std::int32_t> at(index_t i) const {
      const auto k = static_cast<std::size_t>(i);
      return {ids.data() + offsets[k], static_cast<std::size_t>(offsets[k + 1] - offsets[k])};
    }
    void longest(index_t count, index_t& sum, index_t& maximum) const {
      std::vector<index_t> lengths;
      for (std::size_t i = 0; i + 1 < offsets.size(); ++i) lengths.push_back(offsets[i + 1] - offsets[i]);
      const auto middle = lengths.begin() + count;
      std::partial_sort(lengths.begin(), middle, lengths.end(), std::greater<>());
      sum = std::accumulate(lengths.begin(), middle, index_t{0});
      maximum = lengths.empty() ? 0 : lengths.front();
    }
  };

  static void pad_targets(batch_shape& shape, const target_padding& padding) {
    shape.max_target_length = padding.padded(shape.max_target_length);
    shape.target_tokens = shape.batch * shape.max_target_length;
  }

  sequences source_;
  sequences target_;
  tokenizing_statistics statistics_;
};

/// The arrays of one micro-batch, reserved once.
class micro_batch {
 public:
  /// Room for batches up to `largest`.
  explicit micro_batch(const batch_shape& largest)
      : source_(largest.batch, largest.source_tokens), target_(largest.batch, largest.target_tokens) {
    labels_.reserve(static_cast<std::size_t>(largest.target_tokens));
  }

  /// Fills the batch with the given examples; their rows of the global batch count from first_row. Allocates
  /// nothing within the planned shape. `padding` must be the one the shape was planned with.
  void fill(const tokenized_dataset& data, std::span<const index_t> examples, std::uint32_t first_row,
            std::int32_t decoder_start_id = tokenizer::pad_id, const target_padding& padding = {}) {
    fill_rows(
        data, examples, [=](std::size_t b) { return first_row + static_cast<std::uint32_t>(b); },
        decoder_start_id, padding);
  }
  /// The same with a row of its own for each example.
  void fill(const tokenized_dataset& data, std::span<const index_t> examples,
            std::span<const std::uint32_t> rows, std::int32_t decoder_start_id = tokenizer::pad_id,
            const target_padding& padding = {}) {
    require(rows.size() == examples.size(), "micro_batch: every example needs a row");
    fill_rows(
        data, examples, [=](std::size_t b) { return rows[b]; }, decoder_start_id, padding);
  }

  [[nodiscard]] batch_view view() const {
    return {source_.view(), target_.view(), source_.ids.data(), target_.ids.data(), labels_.data()};
  }

 private:
  template <class RowOf>
  void fill_rows(const tokenized_dataset& data, std::span<const index_t> examples, const RowOf& row_of,
                 std::int32_t decoder_start_id, const target_padding& padding) {
    source_.clear();
    target_.clear();
    labels_.clear();
    index_t padded_length = 0;
    if (padding.counts_in_loss) {
      for (const index_t example : examples)
        padded_length = std::max(padded_length, static_cast<index_t>(data.target(example).size()));
      padded_length = padding.padded(padded_length);
    }
    for (std::size_t b = 0; b < examples.size(); ++b) {
      const std::uint32_t row = row_of(b);
      for (const std::int32_t id : data.source(examples[b])) source_.add(id, row);
      source_.end_sequence();
      std::int32_t previous = decoder_start_id;
      const auto add_label = [&](std::int32_t id) {
        target_.add(previous, row);
        labels_.push_back(id);
        previous = id;
      };
      const std::span<const std::int32_t> target = data.target(examples[b]);
      for (const std::int32_t id : target) add_label(id);
      for (auto t = static_cast<index_t>(target.size()); t < padded_length; ++t) add_label(tokenizer::pad_id);
      target_.end_sequence();
    }
  }

  struct side {
    side(index_t batch, index_t tokens) {
      offsets.reserve(static_cast<std::size_t>(batch) + 1);
      ids.reserve(static_cast<std::size_t>(tokens));
      rows.reserve(static_cast<std::size_t>(tokens));
      positions.reserve(static_cast<std::size_t>(tokens));
    }
    void clear() {
      offsets.assign(1, 0);
      ids.clear();
      rows.clear();
      positions.clear();
      longest = 0;
    }
    void add(std::int32_t id, std::uint32_t row) {
      positions.push_back(static_cast<std::uint32_t>(static_cast<index_t>(ids.size()) - offsets.back()));
      ids.push_back(id);
      rows.push_back(row);
    }
    void end_sequence() {
      const auto end = static_cast<index_t>(ids.size());
      longest = std::max(longest, end - offsets.back());
      offsets.push_back(end);
    }
    [[nodiscard]] ragged_view view() const {
      return {offsets.data(),
              rows.data(),
              positions.data(),
              static_cast<index_t>(offsets.size()) - 1,
              static_cast<index_t>(ids.size()),
              longest};
    }
    std::vector<index_t> offsets;
    std::vector<std::int32_t> ids;
    std::vector<std::uint32_t> rows;
    std::vector<std::uint32_t> positions;
    index_t longest = 0;
  };

  side source_;
  side target_;
  std::vector<std::int32_t> labels_;
};

}  // namespace t5zero
