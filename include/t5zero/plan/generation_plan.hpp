// Where generation keeps its keys, values and candidates. A step of the decoder is a batch of one token for
// each row, so its buffers are an evaluation's activation plan with as many target tokens as rows.
#pragma once

#include <t5zero/core/integers.hpp>
#include <t5zero/plan/activation_plan.hpp>
#include <t5zero/plan/batch_shape.hpp>
#include <t5zero/policy/model_size.hpp>
#include <t5zero/tensor/slice.hpp>

namespace t5zero {

/// Bounds of every generation of a run.
struct generation_shape {
  index_t num_beams = 0;   ///< 0: nothing is generated
  index_t max_length = 0;  ///< tokens of a result, the start token included
  index_t candidates = 0;  ///< best next tokens that a step keeps of each row

  [[nodiscard]] constexpr bool generates() const { return num_beams > 0; }
};

/// What a step reads of the search. Where the search is the host's: one block, copied before each step.
struct decode_input_slices {
  slice ids;            ///< int32 [rows]
  slice cache_rows;     ///< index_t [rows]
  slice key_rows;       ///< index_t [rows, max_length]
  slice key_counts;     ///< index_t [rows]
  slice first_source;   ///< index_t [rows]
  slice source_counts;  ///< index_t [rows]
  index_t bytes = 0;    ///< of a block of its own

  constexpr decode_input_slices() = default;
  /// A block of its own: offsets from its start.
  constexpr decode_input_slices(index_t rows, index_t max_length) {
    slice_builder builder;
    *this = decode_input_slices(rows, max_length, builder);
    bytes = builder.high_water();
  }
  /// A part of the block that `builder` divides.
  constexpr decode_input_slices(index_t rows, index_t max_length, slice_builder& builder)
      : ids(builder.take(rows * 4)),
        cache_rows(builder.take(rows * 8)),
        key_rows(builder.take(rows * max_length * 8)),
        key_counts(builder.take(rows * 8)),
        first_source(builder.take(rows * 8)),
        source_counts(builder.take(rows * 8)) {}
};

inline constexpr index_t search_rules_bytes = 64;
inline constexpr index_t search_sentence_bytes = 16;
inline constexpr index_t search_hypothesis_bytes = 12;

/// The arrays of a search in the backend's memory, in one block. It begins with what the program writes.
struct search_slices {
  slice rules;
  slice penalties;  ///< float [max_length]
  slice states;     ///< [sentences]
  slice finished;   ///< hypotheses [rows]
  slice scores;     ///< float [rows]
  decode_input_slices inputs;
  index_t start_bytes = 0;
  slice tokens;        ///< int32 [max_length, rows]
  slice parents;       ///< int32 [max_length, rows]
  slice final_tokens;  ///< int32 [rows]
  slice final_beams;   ///< int32 [rows]
  index_t bytes = 0;

  constexpr search_slices() = default;
  /// Offsets from the block's start.
  constexpr search_slices(index_t sentences, index_t rows, index_t max_length) {
    slice_builder builder;
    rules = builder.take(search_rules_bytes);
    penalties = builder.take(max_length * 4);
    states = builder.take(sentences * search_sentence_bytes);
    finished = builder.take(rows * search_hypothesis_bytes);
    scores = builder.take(rows * 4);
    inputs = decode_input_slices(rows, max_length, builder);
    start_bytes = builder.high_water();
    tokens = builder.take(rows * max_length * 4);
    parents = builder.take(rows * max_length * 4);
    final_tokens = builder.take(rows * 4);
    final_beams = builder.take(rows * 4);
    bytes = builder.high_water();
  }
};
/// Memory of the host where a search tells which of its sentences are closed: int32 [sentences].
constexpr index_t search_host_bytes(index_t sentences) {
  return sentences * 4;
}

struct generation_plan {
  activation_plan step;    ///< encoder of a batch, decoder of one token for each row
  slice_array cache;       ///< param [max_length * rows, 2 * inner_dim] of each decoder layer: key, value
  slice candidate_scores;  ///< float [rows, candidates]
  slice candidate_ids;     ///< int32 [rows, candidates]
  slice inputs;            ///< decode_input_slices
  search_slices search_places;
  slice search;      ///< search_slices; empty where the search is the host's
  index_t rows = 0;  ///< sentences times beams

  /// Of the key/value cache alone, for the printed table.
  [[nodiscard]] constexpr index_t cache_bytes() const { return cache.stride * cache.period; }
};

/// `sentences`: that are generated for at a time; `batch`: bounds their batches, padded (its targets do not
/// matter); `searches`: may the search lie in the backend's memory?
constexpr generation_plan plan_generation(const model_shape& shape, index_t sentences,
                                          const batch_shape& batch, const generation_shape& generation,
                                          index_t param_bytes, bool searches, slice_builder& builder) {
  generation_plan plan;
  plan.rows = sentences * generation.num_beams;
  batch_shape step = batch;
  step.target_tokens = plan.rows;
  step.max_target_length = 1;
  plan.step =
      plan_activations(shape, step, activation_use::evaluation, param_bytes, /*scratch_sets=*/1, builder);
  plan.cache = builder.take_array(shape.n_decoder_layers,
                                  generation.max_length * plan.rows * 2 * shape.inner_dim() * param_bytes);
  plan.candidate_scores = builder.take(plan.rows * generation.candidates * 4);
  plan.candidate_ids = builder.take(plan.rows * generation.candidates * 4);
  plan.search_places = search_slices(sentences, plan.rows, generation.max_length);
  plan.search = builder.take(searches ? plan.search_places.bytes : 0);
  plan.inputs = builder.take(decode_input_slices(plan.rows, generation.max_length).bytes);
  return plan;
}

}  // namespace t5zero
