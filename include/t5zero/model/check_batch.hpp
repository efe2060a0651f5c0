// Batches come from callers' own code, too: what the kernels rely on is checked once, before they run.
#pragma once

#include <cstdint>

#include <t5zero/core/error.hpp>
#include <t5zero/core/integers.hpp>
#include <t5zero/plan/batch_shape.hpp>
#include <t5zero/tensor/batch_view.hpp>
#include <t5zero/tensor/ragged_view.hpp>

namespace t5zero {

/// The label that does not count, PyTorch's ignore_index.
inline constexpr std::int32_t ignored_label = -100;

namespace detail {

inline void check_side(const ragged_view& side, const std::int32_t* ids, index_t vocab_size) {
  require(side.offsets[0] == 0 && side.offsets[side.batch] == side.tokens,
          "batch: the offsets must run from 0 to the number of tokens");
  for (index_t b = 0; b < side.batch; ++b) {
    require(side.length(b) > 0, "batch: a sequence has no token");
    require(side.length(b) <= side.max_length, "batch: a sequence is longer than max_length says");
  }
  for (index_t t = 0; t < side.tokens; ++t)
    require(ids[t] >= 0 && ids[t] < vocab_size, "batch: a token id is not in [0, vocab_size)");
}

}  // namespace detail

/// Throws contract_error if the sources of a batch are malformed or larger than `planned`.
inline void check_sources(const batch_view& batch, const batch_shape& planned, index_t vocab_size) {
  require(batch.source.batch > 0 && batch.source.batch <= planned.batch &&
              batch.source.tokens <= planned.source_tokens &&
              batch.source.max_length <= planned.max_source_length,
          "batch: no sentence, or larger than the batch_shape that the trainer was made for");
  detail::check_side(batch.source, batch.source_ids, vocab_size);
}

/// Throws contract_error if the batch is malformed or larger than `planned`. Returns the labels that count.
inline index_t check_batch(const batch_view& batch, const batch_shape& planned, index_t vocab_size) {
  require(batch.source.batch > 0 && batch.source.batch == batch.target.batch,
          "batch: as many sources as targets are needed, and at least one");
  require(batch.source.batch <= planned.batch && batch.source.tokens <= planned.source_tokens &&
              batch.target.tokens <= planned.target_tokens &&
              batch.source.max_length <= planned.max_source_length &&
              batch.target.max_length <= planned.max_target_length,
          "batch: larger than the batch_shape that the trainer was made for");
  detail::check_side(batch.source, batch.source_ids, vocab_size);
  detail::check_side(batch.target, batch.decoder_ids, vocab_size);
  index_t labels = 0;
  for (index_t t = 0; t < batch.target.tokens; ++t) {
    if (batch.labels[t] == ignored_label) continue;
    require(batch.labels[t] >= 0 && batch.labels[t] < vocab_size,
            "batch: a label is neither in [0, vocab_size) nor -100");
    ++labels;
  }
  return labels;
}

}  // namespace t5zero
