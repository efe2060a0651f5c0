// The CUDA backend: one NVIDIA GPU a rank, a step as a graph of kernels.
#pragma once

#include <algorithm>
#include <string>
#include <string_view>
#include <type_traits>

#include <t5zero/backend/backend.hpp>
#include <t5zero/backend/cuda/attention_workspace.hpp>
#include <t5zero/backend/cuda/batch_staging.hpp>
#include <t5zero/backend/cuda/device.hpp>
#include <t5zero/backend/cuda/execution.hpp>
#include <t5zero/backend/cuda/memory.hpp>
#include <t5zero/backend/cuda/operations.hpp>
#include <t5zero/backend/cuda/reduction_workspace.hpp>
#include <t5zero/backend/cuda/sublayers.hpp>
#include <t5zero/core/error.hpp>
#include <t5zero/plan/parameter_table.hpp>

namespace t5zero::cuda {

/// Fourth argument of run<Model, Zero, Precision, Backend>.
struct backend {
  static constexpr std::string_view name = "cuda";
  using execution = cuda::execution;
  using memory = cuda::memory;
  using host_memory = cuda::pinned_memory;  ///< that the device copies from and to
  using device = cuda::device;
  using batch_staging = cuda::batch_staging;

  template <precision_policy Precision>
  static constexpr bool supports =
      std::is_same_v<typename Precision::compute_type, typename Precision::param_type>;

  template <precision_policy Precision>
  using operations = cuda::operations<typename Precision::param_type>;
  template <precision_policy Precision>
  using sublayers = cuda::sublayers<typename Precision::param_type>;

  /// One for each branch of sublayers.
  static constexpr index_t scratch_sets = 3;
  /// Parts of the sum of squares of `count` gradients: one for each block, at most some for each
  /// multiprocessor. No more for a range than for the tensors in it together.
  [[nodiscard]] static constexpr index_t square_parts(index_t count) {
    return std::min(index_t{1024}, ceil_div(count, index_t{1} << 14));
  }
  /// Is the gradients' norm taken while backward goes on, and the optimizer's step left to the next forward,
  /// which it then runs beside?
  static constexpr bool overlaps_optimizer = true;
  /// Elements: what takes about as long as a layer of a small model, so that the pieces are few.
  static constexpr index_t least_optimizer_piece = index_t{2} << 20;
  /// Gradients whose squares are summed at once: little beside the second-level cache, so that they are found
  /// there, and enough for a launch.
  static constexpr index_t least_squares_bytes = index_t{4} << 20;
  /// Tokens that a search goes on before the program looks whether it has ended: one graph.
  static constexpr index_t search_steps = 8;
  /// Updates whose results may be outstanding: the host runs ahead of the device.
  static constexpr index_t updates_in_flight = max_updates_in_flight;
  /// What a batch becomes on the device.
  [[nodiscard]] static constexpr batch_shape padded(const batch_shape& batch) { return cuda::padded(batch); }
  /// Is there a GPU that CUDA can use?
  [[nodiscard]] static bool is_available() { return why_unavailable().empty(); }
  /// Why there is none, in CUDA's words; empty where there is one.
  [[nodiscard]] static std::string why_unavailable() {
    int count = 0;
    const cudaError_t status = cudaGetDeviceCount(&count);
    if (status == cudaSuccess) return count > 0 ? "" : "the driver lists no GPU";
    (void)cudaGetLastError();
    return cudaGetErrorString(status);
  }
  /// Of the host, which only submits.
  [[nodiscard]] static int default_threads() { return 1; }

  /// Throws input_error for a model that the kernels do not take.
  static constexpr void check_shape(const model_shape& shape) {
    const auto takes = [](bool holds, const char* what) {
      if (!holds) throw input_error(std::string("the CUDA backend takes no model of this shape: ") + what);
    };
    takes(shape.d_kv <= 128, "d_kv is at most 128");
    takes(shape.d_model <= 4096, "d_model is at most 4096");
    takes(shape.n_buckets <= 64, "n_buckets (relative_attention_num_buckets) is at most 64");
    takes(shape.max_distance <= 4096, "max_distance (relative_attention_max_distance) is at most 4096");
    takes(shape.n_buckets * shape.n_heads % 8 == 0, "n_buckets times n_heads is a multiple of 8");
  }
  /// Memory for graphs of steps.
  [[nodiscard]] static constexpr index_t graph_bytes(const model_shape& shape, bool trains) {
    return step_graphs_bytes(shape, trains);
  }
  /// Of the workspace, what matmuls may use.
  [[nodiscard]] static constexpr index_t matmul_workspace_bytes(const model_shape& shape) {
    return std::min(most_matmul_workspace_bytes,
                    round_up(16 * shape.d_model * shape.widest(), index_t{1024}));
  }
  /// The largest workspace of any operation, and that of the branches' matmuls. `batch` is padded.
  template <precision_policy Precision>
  [[nodiscard]] static constexpr index_t workspace_bytes(const model_shape& shape, const batch_shape& batch,
                                                         int /*threads*/) {
    const index_t tokens = std::max(batch.source_tokens, batch.target_tokens);
    const index_t longest = std::max(batch.max_source_length, batch.max_target_length);
    const index_t largest =
        std::max({matmul_workspace_bytes(shape), top_candidates_workspace_bytes(1, shape.vocab_size),
                  rms_norm_workspace_bytes(tokens, shape.d_model),
                  attention_workspace_bytes(batch.batch, longest, shape.n_heads, shape.n_buckets),
                  adafactor_workspace_bytes(shape.vocab_size, shape.d_model),
                  adafactor_workspace_bytes(shape.widest(), shape.d_model),
                  adafactor_workspace_bytes(shape.d_model, shape.widest())});
    return workspace_division::of_main(round_up(largest, index_t{1024})).total_bytes();
  }
};

static_assert(backend_for<backend, fp32> && backend_for<backend, tf32> && backend_for<backend, fp16> &&
                  backend_for<backend, bf16>,
              "the CUDA backend offers every precision");

}  // namespace t5zero::cuda
