// The exact bytes of a run, known before anything is allocated.
#pragma once

#include <array>
#include <concepts>
#include <string_view>

#include <t5zero/core/dtype.hpp>
#include <t5zero/core/integers.hpp>
#include <t5zero/plan/activation_plan.hpp>
#include <t5zero/plan/batch_shape.hpp>
#include <t5zero/plan/parameter_table.hpp>
#include <t5zero/policy/model_size.hpp>
#include <t5zero/policy/precision.hpp>
#include <t5zero/tensor/slice.hpp>

namespace t5zero {

/// What the plan depends on beside the model and the batch.
struct plan_options {
  int threads = 1;                         ///< of the CPU backend: each has packing buffers
  bool accumulates_micro_batches = false;  ///< gradients are then fp32 in every precision
  bool trains = true;                      ///< false: evaluation only, weights and activations
};

/// One line of the printed table.
struct plan_line {
  std::string_view name;
  index_t bytes = 0;
};

/// Slices of the one arena of a rank, and their sum.
struct memory_plan {
  slice weights;             ///< param [parameters]
  slice master_weights;      ///< float [parameters]; empty where weights are fp32
  slice first_moments;       ///< float [parameters]
  slice second_moments;      ///< float [parameters]
  slice gradients;           ///< grad_type (or float) [parameters]
  slice tied_gradient_sums;  ///< float: 16-bit gradients with several contributions are summed in fp32
  activation_plan activations;
  slice workspace;  ///< packing buffers and partial sums of the backend
  index_t total_bytes = 0;
  dtype gradient_type = dtype::f32;

  /// Bytes that depend on the model alone: checked before any name is resolved or any text read.
  [[nodiscard]] constexpr index_t model_state_bytes() const {
    return weights.bytes + master_weights.bytes + first_moments.bytes + second_moments.bytes +
           gradients.bytes + tied_gradient_sums.bytes;
  }
  [[nodiscard]] constexpr std::array<plan_line, 9> lines() const {
    return {{{"weights", weights.bytes},
             {"master weights (fp32)", master_weights.bytes},
             {"first moments (fp32)", first_moments.bytes},
             {"second moments (fp32)", second_moments.bytes},
             {"gradients", gradients.bytes},
             {"sums of tied gradients (fp32)", tied_gradient_sums.bytes},
             {"activations", activations.bytes},
             {"backend workspace", workspace.bytes},
             {"total", total_bytes}}};
  }
};

/// Elements of the largest gradient with several contributions.
[[nodiscard]] constexpr index_t tied_gradient_elements(const model_shape& shape) {
  index_t count = 0;
  for_each_parameter(shape, [&](const parameter_row& row) {
    if (row.use_sites > 1) count += round_up(row.count(), slice_alignment / 4);
  });
  return count;
}

/// Plans one rank at world size 1, where no ZeRO stage holds less than the whole: the ZeRO policy does not
/// appear. Backend::template workspace_bytes<Precision>(shape, batch, threads) says what its operations
/// borrow.
template <class Backend, precision_policy Precision>
[[nodiscard]] constexpr memory_plan plan_memory(const model_shape& shape, const batch_shape& batch,
                                                const plan_options& options = {}) {
  constexpr index_t param_bytes = sizeof(typename Precision::param_type);
  const index_t parameters = parameter_count(shape);
  memory_plan plan;
  slice_builder builder;
  plan.weights = builder.take(parameters * param_bytes);
  if (options.trains) {
    plan.gradient_type =
        options.accumulates_micro_batches ? dtype::f32 : dtype_of<typename Precision::grad_type>;
    plan.master_weights = builder.take(Precision::has_master_weights ? parameters * 4 : 0);
    plan.first_moments = builder.take(parameters * 4);
    plan.second_moments = builder.take(parameters * 4);
    plan.gradients = builder.take(parameters * byte_size(plan.gradient_type));
    plan.tied_gradient_sums =
        builder.take(plan.gradient_type == dtype::f32 ? 0 : tied_gradient_elements(shape) * 4);
  }
  plan.activations = plan_activations(shape, batch, param_bytes, builder);
  plan.workspace = builder.take(Backend::template workspace_bytes<Precision>(shape, batch, options.threads));
  plan.total_bytes = builder.high_water();
  return plan;
}

}  // namespace t5zero
