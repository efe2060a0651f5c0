// Generation: the encoder once, then one step of the decoder for each position, until every sentence is done.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include <t5zero/model/activations.hpp>
#include <t5zero/model/generation_options.hpp>
#include <t5zero/model/sampling.hpp>
#include <t5zero/model/score_processors.hpp>
#include <t5zero/model/search_state.hpp>
#include <t5zero/model/t5.hpp>
#include <t5zero/plan/generation_plan.hpp>
#include <t5zero/tensor/batch_view.hpp>

namespace t5zero::model {

/// Ops: a backend's primitive operations for element type T. `plan` and `shape` outlive the generator; all of
/// its memory is the plan's, but for the search's bookkeeping, which the constructor takes.
template <class Ops, element T>
class generator {
 public:
  generator(std::byte* arena, const generation_plan& plan, const generation_shape& largest,
            const batch_shape& batch, const model_shape& shape)
      : arena_(arena),
        plan_(&plan),
        largest_(largest),
        shape_(&shape),
        activations_(arena, plan.step, shape),
        search_(batch.batch, largest.num_beams, largest.max_length),
        first_source_(static_cast<std::size_t>(plan.rows)),
        source_lengths_(static_cast<std::size_t>(plan.rows)),
        chosen_(static_cast<std::size_t>(plan.rows)) {}

  /// Generates for the sources of `batch`; its targets are not read. Throws contract_error if the options
  /// exceed what was planned.
  template <class Execution, class Model, parameter_source_of<T> Source>
  void generate(Execution& execution, const Model& model, Source& source, const batch_view& batch,
                const generation_options& options) {
    check_generation_options(options, shape_->vocab_size);
    const index_t candidates = options.candidates(shape_->vocab_size);
    require(candidates <= largest_.candidates, "generate: more candidates of a step than were planned");
    search_.start(batch.source.batch, options);
    model.encode(execution, source, batch, activations_);
    const auto cache = [this](index_t layer) {
      const slice where = plan_->cache[layer];
      return matrix_view<T>(reinterpret_cast<T*>(arena_ + where.offset), largest_.max_length * plan_->rows,
                            2 * shape_->inner_dim());
    };
    while (search_.rows() > 0) {
      const nn::decode_rows step = next_step(batch);
      model.decode(execution, source, step, batch.source.tokens, cache, activations_);
      const matrix_view<float> scores(at<float>(plan_->candidate_scores), step.rows, candidates);
      const matrix_view<std::int32_t> ids(at<std::int32_t>(plan_->candidate_ids), step.rows, candidates);
      model.logits(execution, source, step.rows, activations_, [&](index_t first, matrix_view<float> logits) {
        if (options.num_beams > 1) Ops::log_softmax_rows(execution, logits);
        if (options.processes_scores()) {
          for (index_t i = 0; i < logits.rows; ++i)
            process_scores(options, search_.tokens(first + i), logits.row(i));
        }
        Ops::top_candidates(execution, logits, scores.row_block(first, logits.rows),
                            ids.row_block(first, logits.rows));
      });
      if (options.num_beams > 1) {
        search_.advance_beams(scores, ids);
        continue;
      }
      for (index_t row = 0; row < step.rows; ++row) {
        index_t pick = 0;
        if (options.do_sample) {
          const auto sentence = batch.source.rows[batch.source.offsets[search_.sentence(row)]];
          pick =
              sample(options, scores.row(row), sampling_uniform(options.seed, sentence, search_.position()));
        }
        chosen_[static_cast<std::size_t>(row)] = ids(row, pick);
      }
      search_.advance_tokens(chosen_.data());
    }
  }

  /// After generate: the best tokens of a sentence, without the start token, with the end if there is one.
  [[nodiscard]] std::span<const std::int32_t> tokens(index_t sentence) const {
    return search_.best_tokens(sentence);
  }
  /// After a beam search: sum of log probabilities / length^length_penalty.
  [[nodiscard]] float score(index_t sentence) const { return search_.best_score(sentence); }

 private:
  template <class U>
  [[nodiscard]] U* at(slice where) const {
    return reinterpret_cast<U*>(arena_ + where.offset);
  }

  nn::decode_rows next_step(const batch_view& batch) {
    nn::decode_rows step;
    step.rows = search_.rows();
    step.ids = search_.last_tokens();
    step.cache_rows = search_.cache_rows();
    step.self_keys.table = search_.key_rows();
    step.self_keys.stride = search_.key_row_stride();
    step.self_keys.max_count = search_.position() + 1;
    for (index_t row = 0; row < step.rows; ++row) {
      const index_t sentence = search_.sentence(row);
      first_source_[static_cast<std::size_t>(row)] = batch.source.offsets[sentence];
      source_lengths_[static_cast<std::size_t>(row)] = batch.source.length(sentence);
    }
    step.cross_keys.first = first_source_.data();
    step.cross_keys.counts = source_lengths_.data();
    step.cross_keys.max_count = batch.source.max_length;
    return step;
  }

  std::byte* arena_;
  const generation_plan* plan_;
  generation_shape largest_;
  const model_shape* shape_;
  activations<T> activations_;
  search_state search_;
  std::vector<index_t> first_source_;    ///< [rows]
  std::vector<index_t> source_lengths_;  ///< [rows]
  std::vector<std::int32_t> chosen_;     ///< [rows]
};

}  // namespace t5zero::model
