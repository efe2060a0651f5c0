// The exact bytes of a run, known before anything is allocated.
#pragma once

#include <array>
#include <concepts>
#include <string_view>

#include <t5zero/core/dtype.hpp>
#include <t5zero/core/integers.hpp>
#include <t5zero/plan/activation_plan.hpp>
#include <t5zero/plan/batch_shape.hpp>
#include <t5zero/plan/generation_plan.hpp>
#include <t5zero/plan/optimizer_state.hpp>
#include <t5zero/plan/parameter_table.hpp>
#include <t5zero/policy/model_size.hpp>
#include <t5zero/policy/precision.hpp>
#include <t5zero/tensor/slice.hpp>

namespace t5zero {

/// What the plan depends on beside the model and the batch.
struct plan_options {
  int threads = 1;            ///< of the CPU backend: each has packing buffers
  index_t micro_batches = 1;  ///< of an update; gradients of several are fp32 in every precision
  bool trains = true;         ///< false: evaluation only, weights and activations
  optimizer_kind optimizer = optimizer_kind::adamw;
  bool recomputes_activations = false;  ///< training keeps the layers' inputs alone
  batch_shape evaluation{.batch = 0};   ///< the largest evaluation batch; batch 0: as in training
  generation_shape generation = {};     ///< for the sentences of an evaluation batch; default: none
  bool uses_graphs = true;              ///< a GPU's steps as graphs
};

// Sizes of what optim/ keeps in a step's memory; it stands above this room, and train/trainer.hpp compares.
inline constexpr index_t step_state_bytes = 512;
inline constexpr index_t loss_sums_bytes = 24;
inline constexpr index_t update_outcome_bytes = 64;

/// One line of the printed table.
struct plan_line {
  std::string_view name;
  index_t bytes = 0;
};

/// Slices of the one arena of a rank, and what the device keeps beside it.
struct memory_plan {
  slice weights;               ///< param [parameters]
  slice master_weights;        ///< float [parameters]; empty where weights are fp32
  slice first_moments;         ///< float [first_moment_elements]
  slice second_moments;        ///< float [second_moment_elements]
  slice gradients;             ///< grad_type (or float) [parameters]
  slice gradient_sums;         ///< float: 16-bit gradients of several contributions are summed in fp32
  activation_plan training;    ///< activations; empty without training
  activation_plan evaluation;  ///< activations of evaluation, in the same bytes
  generation_plan generation;  ///< cache and step of generation, in the same bytes
  index_t activation_bytes = 0;
  slice workspace;         ///< packing buffers and partial sums of the backend
  slice step;              ///< step_state
  slice squares;           ///< double: parts of the gradients' sum of squares
  slice losses;            ///< loss_sums [micro_batches]
  slice decay_boundaries;  ///< index_t [tensors]: where weight decay begins and ends
  slice batch;             ///< the batch at hand, where the backend keeps a copy of it
  index_t arena_bytes = 0;
  index_t graph_bytes = 0;  ///< at most, of the driver's memory: the steps' graphs
  index_t total_bytes = 0;
  // Memory of the host that the device copies from and to; the CPU backend needs the outcomes alone.
  slice outcomes;      ///< [updates in flight] update_outcome, then loss_sums [micro_batches]
  slice host_batches;  ///< batches on their way to the device
  slice host_search;   ///< where a search tells which sentences are closed
  index_t host_bytes = 0;
  dtype gradient_type = dtype::f32;

  /// Bytes of one slot of `outcomes`.
  [[nodiscard]] static constexpr index_t outcome_bytes(index_t micro_batches) {
    return round_up(update_outcome_bytes + micro_batches * loss_sums_bytes, slice_alignment);
  }
  /// Bytes that depend on the model alone: checked before any name is resolved or any text read.
  [[nodiscard]] constexpr index_t model_state_bytes() const {
    return weights.bytes + master_weights.bytes + first_moments.bytes + second_moments.bytes +
           gradients.bytes + gradient_sums.bytes;
  }
  [[nodiscard]] constexpr std::array<plan_line, 11> lines() const {
    return {{{"weights", weights.bytes},
             {"master weights (fp32)", master_weights.bytes},
             {"first moments (fp32)", first_moments.bytes},
             {"second moments (fp32)", second_moments.bytes},
             {"gradients", gradients.bytes},
             {"sums of gradients (fp32)", gradient_sums.bytes},
             {generation.rows > 0 ? "activations, generation cache" : "activations", activation_bytes},
             {"backend workspace", workspace.bytes},
             {"batch, state of the step",
              step.bytes + squares.bytes + losses.bytes + decay_boundaries.bytes + batch.bytes},
             {"graphs of steps, at most", graph_bytes},
             {"total", total_bytes}}};
  }
};

/// Elements of all gradients that are sums of contributions.
[[nodiscard]] constexpr index_t gradient_sum_elements(const model_shape& shape) {
  return for_each_gradient_sum(shape, [](const parameter_row&, index_t) {});
}

/// Plans one rank at world size 1, where no ZeRO stage holds less than the whole: the ZeRO policy does not
/// appear. Backend::template workspace_bytes<Precision>(shape, batch, threads) says what its operations
/// borrow, Backend::padded(batch) how it pads a batch, Backend::batch_staging what its copy of one takes,
/// Backend::graph_bytes(shape, trains) what it keeps of steps to replay them. Throws what
/// Backend::check_shape(shape) throws where its operations do not take a model of these sizes.
template <class Backend, precision_policy Precision>
[[nodiscard]] constexpr memory_plan plan_memory(const model_shape& shape, const batch_shape& largest_batch,
                                                const plan_options& options = {}) {
  Backend::check_shape(shape);
  const batch_shape batch = Backend::padded(largest_batch);
  constexpr index_t param_bytes = sizeof(typename Precision::param_type);
  const index_t parameters = parameter_count(shape);
  memory_plan plan;
  slice_builder builder;
  plan.weights = builder.take(parameters * param_bytes);
  if (options.trains) {
    plan.gradient_type = options.micro_batches > 1 ? dtype::f32 : dtype_of<typename Precision::grad_type>;
    plan.master_weights = builder.take(Precision::has_master_weights ? parameters * 4 : 0);
    plan.first_moments = builder.take(first_moment_elements(shape, options.optimizer) * 4);
    plan.second_moments = builder.take(second_moment_elements(shape, options.optimizer) * 4);
    plan.gradients = builder.take(parameters * byte_size(plan.gradient_type));
    plan.gradient_sums =
        builder.take(plan.gradient_type == dtype::f32 ? 0 : gradient_sum_elements(shape) * 4);
  }
  // Training, evaluation and generation never run at the same time.
  const batch_shape evaluation = options.evaluation.batch > 0 ? Backend::padded(options.evaluation) : batch;
  const index_t start = builder.position();
  if (options.trains) {
    plan.training = plan_activations(
        shape, batch,
        options.recomputes_activations ? activation_use::recomputed_training : activation_use::training,
        param_bytes, Backend::scratch_sets, builder);
    builder.rewind(start);
  }
  plan.evaluation = plan_activations(shape, evaluation, activation_use::evaluation, param_bytes,
                                     /*scratch_sets=*/1, builder);
  batch_shape largest = batch.covering(evaluation);
  const index_t sentences = options.evaluation.batch > 0 ? options.evaluation.batch : largest_batch.batch;
  if (options.generation.generates()) {
    builder.rewind(start);
    plan.generation = plan_generation(shape, sentences, evaluation, options.generation, param_bytes,
                                      Backend::search_steps > 0, builder);
    largest = largest.covering({.batch = evaluation.batch,
                                .source_tokens = 0,
                                .target_tokens = plan.generation.rows,
                                .max_source_length = 0,
                                .max_target_length = options.generation.max_length});
  }
  builder.skip_to_high_water();
  plan.activation_bytes = builder.position() - start;
  plan.workspace =
      builder.take(Backend::template workspace_bytes<Precision>(shape, largest, options.threads));
  plan.step = builder.take(step_state_bytes);
  // Ranges of several tensors have no more.
  index_t square_parts = 0;
  for_each_parameter(shape,
                     [&](const parameter_row& row) { square_parts += Backend::square_parts(row.count()); });
  plan.squares = builder.take(options.trains ? square_parts * 8 : 0);
  plan.losses = builder.take(options.micro_batches * loss_sums_bytes);
  plan.decay_boundaries = builder.take((tensor_count(shape) + 1) * 8);
  plan.batch = builder.take(Backend::batch_staging::device_bytes(batch.covering(evaluation)));
  plan.arena_bytes = builder.high_water();
  plan.graph_bytes = options.uses_graphs ? Backend::graph_bytes(shape, options.trains) : 0;
  plan.total_bytes = plan.arena_bytes + plan.graph_bytes;
  slice_builder host;
  plan.outcomes = host.take(Backend::updates_in_flight * memory_plan::outcome_bytes(options.micro_batches));
  plan.host_batches = host.take(Backend::batch_staging::host_bytes(batch.covering(evaluation)));
  plan.host_search = host.take(plan.generation.search.bytes > 0 ? search_host_bytes(sentences) : 0);
  plan.host_bytes = host.high_water();
  return plan;
}

}  // namespace t5zero
