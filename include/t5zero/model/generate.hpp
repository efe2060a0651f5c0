// Generation: the encoder once, then one step of the decoder for each position, until every sentence is done.
// The search is the program's own (search_state.hpp), or, where the backend keeps searches and the options
// allow it, the backend's (device_search.hpp): then the program submits steps ahead and waits for nothing.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include <t5zero/model/activations.hpp>
#include <t5zero/model/device_search.hpp>
#include <t5zero/model/generation_options.hpp>
#include <t5zero/model/sampling.hpp>
#include <t5zero/model/score_processors.hpp>
#include <t5zero/model/search_state.hpp>
#include <t5zero/model/t5.hpp>
#include <t5zero/plan/generation_plan.hpp>
#include <t5zero/tensor/batch_view.hpp>

namespace t5zero::model {

/// Ops: a backend's primitive operations for element type T. SearchSteps: the backend's search_steps. `plan`
/// and `shape` outlive the generator; all of its memory is the plan's (`host`: host_search), but for
/// bookkeeping, which the constructor takes.
template <class Ops, element T, index_t SearchSteps>
class generator {
 public:
  generator(std::byte* arena, std::byte* host, const generation_plan& plan, const generation_shape& largest,
            index_t max_batch, const model_shape& shape)
      : arena_(arena),
        plan_(&plan),
        largest_(largest),
        shape_(&shape),
        activations_(arena, plan.step, shape),
        search_(max_batch, largest.num_beams, largest.max_length),
        device_search_(arena, host, plan, max_batch, largest),
        input_places_(plan.rows, largest.max_length),
        inputs_(static_cast<std::size_t>(input_places_.bytes)),
        scores_(static_cast<std::size_t>(plan.rows * largest.candidates)),
        ids_(static_cast<std::size_t>(plan.rows * largest.candidates)),
        chosen_(static_cast<std::size_t>(plan.rows)),
        lengths_(static_cast<std::size_t>(max_batch)),
        best_scores_(static_cast<std::size_t>(max_batch)),
        best_tokens_(static_cast<std::size_t>(max_batch * largest.max_length)) {}

  /// Generates for the sources of `batch`; its targets are not read. staged: the same batch as the device has
  /// it. Throws contract_error if the options exceed what was planned.
  template <class Device, class Model, parameter_source_of<T> Source>
  void generate(Device& device, const Model& model, Source& source, const batch_view& batch,
                const batch_view& staged, const generation_options& options) {
    check_generation_options(options, shape_->vocab_size);
    const index_t candidates = options.candidates(shape_->vocab_size);
    require(candidates <= largest_.candidates, "generate: more candidates of a step than were planned");
    device.replay(step_kind::encode, staged,
                  [&] { model.encode(device.main(), source, staged, activations_); });
    if constexpr (SearchSteps > 0) {
      if (device_can_search(options))
        return search_on_device(device, model, source, batch, staged, candidates, options);
    }
    search_.start(batch.source.batch, options);
    while (search_.rows() > 0) {
      const index_t rows = search_.rows();
      place_inputs(batch);
      Ops::from_host(device.main(), inputs_.data(), at<std::byte>(plan_->inputs), input_places_.bytes);
      submit_step(device, model, source, staged, rows, candidates, options);
      const matrix_view<float> scores(scores_.data(), rows, candidates);
      const matrix_view<std::int32_t> ids(ids_.data(), rows, candidates);
      Ops::to_host(device.main(), at<std::byte>(plan_->candidate_scores), scores.data, rows * candidates * 4);
      Ops::to_host(device.main(), at<std::byte>(plan_->candidate_ids), ids.data, rows * candidates * 4);
      choose(batch, options, scores, ids);
    }
    for (index_t b = 0; b < batch.source.batch; ++b)
      keep_result(b, search_.best_tokens(b), search_.best_score(b));
  }

  /// After generate: the best tokens of a sentence, without the start token, with the end if there is one.
  [[nodiscard]] std::span<const std::int32_t> tokens(index_t sentence) const {
    return std::span(best_tokens_)
        .subspan(static_cast<std::size_t>(sentence * largest_.max_length),
                 static_cast<std::size_t>(lengths_[static_cast<std::size_t>(sentence)]));
  }
  /// After a beam search: sum of log probabilities / length^length_penalty. 0 without beams.
  [[nodiscard]] float score(index_t sentence) const {
    return best_scores_[static_cast<std::size_t>(sentence)];
  }

 private:
  template <class U>
  [[nodiscard]] U* at(slice where) const {
    return reinterpret_cast<U*>(arena_ + where.offset);
  }

  void keep_result(index_t sentence, std::span<const std::int32_t> tokens, float score) {
    lengths_[static_cast<std::size_t>(sentence)] = static_cast<index_t>(tokens.size());
    best_scores_[static_cast<std::size_t>(sentence)] = score;
    std::copy(tokens.begin(), tokens.end(),
              best_tokens_.begin() + static_cast<std::ptrdiff_t>(sentence * largest_.max_length));
  }
  [[nodiscard]] auto cache_of_layers() const {
    return [this](index_t layer) {
      const slice where = plan_->cache[layer];
      return matrix_view<T>(reinterpret_cast<T*>(arena_ + where.offset), largest_.max_length * plan_->rows,
                            2 * shape_->inner_dim());
    };
  }

  /// SearchSteps steps at a time. While the next ones run, the program looks whether those before were the
  /// last; steps of sentences that have ended change nothing, so what comes out does not depend on when.
  template <class Device, class Model, parameter_source_of<T> Source>
  void search_on_device(Device& device, const Model& model, Source& source, const batch_view& batch,
                        const batch_view& staged, index_t candidates, const generation_options& options) {
    const std::span<const std::byte> start = device_search_.start(batch, options);
    Ops::from_host(device.main(), start.data(), device_search_.start_place(),
                   static_cast<index_t>(start.size()));
    const search_arrays search = device_search_.arrays();
    const nn::decode_rows step = device_search_.next_step(staged);
    const index_t rows = device_search_.rows();
    const matrix_view<float> scores(at<float>(plan_->candidate_scores), rows, candidates);
    const matrix_view<std::int32_t> ids(at<std::int32_t>(plan_->candidate_ids), rows, candidates);
    batch_view shape = staged;
    shape.target.tokens = rows;
    shape.target.max_length = search.beams;
    for (index_t turn = 0; turn * SearchSteps < options.max_length - 1; ++turn) {
      device.replay(step_kind::search, shape, [&] {
        for (index_t i = 0; i < SearchSteps; ++i) {
          model.decode(device.main(), source, step, staged.source.tokens, cache_of_layers(), activations_);
          model.next_token_logits(
              device.main(), source, rows, activations_, [&](index_t first, matrix_view<float> logits) {
                Ops::rank_tokens(device.main(), search, first, logits, scores.row_block(first, logits.rows),
                                 ids.row_block(first, logits.rows));
              });
          if (search.beams > 1) Ops::advance_search(device.main(), search, scores, ids);
        }
      });
      device.mark(turn % 2);
      if (turn == 0) continue;
      device.wait_for((turn - 1) % 2);
      if (device_search_.all_closed()) break;
    }
    const std::span<std::byte> end = device_search_.end_block();
    Ops::to_host(device.main(), device_search_.start_place(), end.data(), static_cast<index_t>(end.size()));
    device_search_.read([this](index_t b, std::span<const std::int32_t> tokens, float score) {
      keep_result(b, tokens, score);
    });
  }

  /// One position of all rows up to their candidates.
  template <class Device, class Model, parameter_source_of<T> Source>
  void submit_step(Device& device, const Model& model, Source& source, const batch_view& staged, index_t rows,
                   index_t candidates, const generation_options& options) {
    const nn::decode_rows step = next_step(staged, rows);
    const matrix_view<float> scores(at<float>(plan_->candidate_scores), rows, candidates);
    const matrix_view<std::int32_t> ids(at<std::int32_t>(plan_->candidate_ids), rows, candidates);
    batch_view shape = staged;
    shape.target.tokens = rows;
    shape.target.max_length = candidates;
    const auto decode = [&] {
      model.decode(device.main(), source, step, staged.source.tokens, cache_of_layers(), activations_);
    };
    const auto rank = [&](const auto& process) {
      model.next_token_logits(
          device.main(), source, rows, activations_, [&](index_t first, matrix_view<float> logits) {
            if (options.num_beams > 1) Ops::log_softmax_rows(device.main(), logits);
            process(first, logits);
            Ops::top_candidates(device.main(), logits, scores.row_block(first, logits.rows),
                                ids.row_block(first, logits.rows));
          });
    };
    if (!options.processes_scores()) {
      device.replay(options.num_beams > 1 ? step_kind::decode_beams : step_kind::decode, shape, [&] {
        decode();
        rank([](index_t, matrix_view<float>) {});
      });
      return;
    }
    // The rules look at the tokens so far, which the host has: scores go there and back.
    decode();
    rank([&](index_t first, matrix_view<float> logits) {
      processed_.resize(static_cast<std::size_t>(logits.size()));
      const matrix_view<float> rows_on_host(processed_.data(), logits.rows, logits.cols);
      Ops::to_host(device.main(), logits.data, processed_.data(), logits.size() * 4);
      for (index_t i = 0; i < logits.rows; ++i)
        process_scores(options, search_.tokens(first + i), rows_on_host.row(i));
      Ops::from_host(device.main(), processed_.data(), logits.data, logits.size() * 4);
    });
  }

  /// The rows go on with the best beams, the best token or a sampled one. Throws numeric_error where no score
  /// is finite.
  void choose(const batch_view& batch, const generation_options& options, matrix_view<float> scores,
              matrix_view<const std::int32_t> ids) {
    if (options.num_beams > 1) return search_.advance_beams(scores, ids);
    for (index_t row = 0; row < scores.rows; ++row) {
      if (!std::isfinite(scores(row, 0))) throw_not_finite();
      index_t pick = 0;
      if (options.do_sample) {
        const auto sentence = batch.source.rows[batch.source.offsets[search_.sentence(row)]];
        pick = sample(options, scores.row(row), sampling_uniform(options.seed, sentence, search_.position()));
      }
      chosen_[static_cast<std::size_t>(row)] = ids(row, pick);
    }
    search_.advance_tokens(chosen_.data());
  }

  /// What the search says of this step's rows, into the block that goes to the device.
  void place_inputs(const batch_view& batch) {
    const index_t rows = search_.rows();
    const auto place = [this]<class U>(slice where, U) {
      return reinterpret_cast<U*>(inputs_.data() + where.offset);
    };
    auto* const ids = place(input_places_.ids, std::int32_t{});
    auto* const cache_rows = place(input_places_.cache_rows, index_t{});
    auto* const counts = place(input_places_.key_counts, index_t{});
    auto* const first = place(input_places_.first_source, index_t{});
    auto* const lengths = place(input_places_.source_counts, index_t{});
    std::copy_n(search_.last_tokens(), rows, ids);
    std::copy_n(search_.cache_rows(), rows, cache_rows);
    std::copy_n(search_.key_rows(), rows * search_.key_row_stride(),
                place(input_places_.key_rows, index_t{}));
    for (index_t row = 0; row < rows; ++row) {
      const index_t sentence = search_.sentence(row);
      counts[row] = search_.position() + 1;
      first[row] = batch.source.offsets[sentence];
      lengths[row] = batch.source.length(sentence);
    }
  }
  [[nodiscard]] nn::decode_rows next_step(const batch_view& staged, index_t rows) const {
    const auto input = [this]<class U>(slice where, U) {
      return reinterpret_cast<const U*>(arena_ + plan_->inputs.offset + where.offset);
    };
    nn::decode_rows step;
    step.rows = rows;
    step.ids = input(input_places_.ids, std::int32_t{});
    step.cache_rows = input(input_places_.cache_rows, index_t{});
    step.self_keys.table = input(input_places_.key_rows, index_t{});
    step.self_keys.stride = search_.key_row_stride();
    step.self_keys.counts = input(input_places_.key_counts, index_t{});
    step.self_keys.max_count = largest_.max_length;
    step.cross_keys.first = input(input_places_.first_source, index_t{});
    step.cross_keys.counts = input(input_places_.source_counts, index_t{});
    step.cross_keys.max_count = staged.source.max_length;
    return step;
  }

  std::byte* arena_;
  const generation_plan* plan_;
  generation_shape largest_;
  const model_shape* shape_;
  activations<T> activations_;
  search_state search_;
  device_search device_search_;
  decode_input_slices input_places_;
  std::vector<std::byte> inputs_;          ///< the block of input_places_ on the host
  std::vector<float> scores_;              ///< [rows, candidates]
  std::vector<std::int32_t> ids_;          ///< [rows, candidates]
  std::vector<std::int32_t> chosen_;       ///< [rows]
  std::vector<index_t> lengths_;           ///< [batch]
  std::vector<float> best_scores_;         ///< [batch]
  std::vector<std::int32_t> best_tokens_;  ///< [batch, max_length]
  std::vector<float> processed_;           ///< [rows, vocab_size]: taken when a rule first needs it
};

}  // namespace t5zero::model
