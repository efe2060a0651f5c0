// The CPU backend: all cores, fp32 arithmetic, any storage type.
#pragma once

#include <sched.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <string>
#include <string_view>
#include <thread>

#include <t5zero/backend/backend.hpp>
#include <t5zero/backend/cpu/execution.hpp>
#include <t5zero/backend/cpu/memory.hpp>
#include <t5zero/backend/cpu/operations.hpp>
#include <t5zero/backend/cpu/thread_pool.hpp>
#include <t5zero/nn/composed_sublayers.hpp>
#include <t5zero/plan/parameter_table.hpp>
#include <t5zero/tensor/batch_view.hpp>

namespace t5zero::cpu {

/// Fourth argument of run<Model, Zero, Precision, Backend>.
struct backend {
  static constexpr std::string_view name = "cpu";
  using execution = cpu::execution;
  using memory = cpu::memory;
  using host_memory = cpu::memory;  ///< that the device copies from and to

  /// Storage in fp32, fp16 or bf16; tf32 is a property of tensor cores.
  template <precision_policy Precision>
  static constexpr bool supports =
      !Precision::allows_tf32 &&
      std::is_same_v<typename Precision::compute_type, typename Precision::param_type>;

  template <precision_policy Precision>
  using operations = cpu::operations<typename Precision::param_type>;
  template <precision_policy Precision>
  using sublayers = nn::composed_sublayers<operations<Precision>, typename Precision::param_type>;

  /// Is there a device to run on?
  [[nodiscard]] static bool is_available() { return true; }
  /// Why there is none: empty, as there is one.
  [[nodiscard]] static std::string why_unavailable() { return {}; }
  /// The threads of one rank. What is submitted is done when the call returns.
  class device {
   public:
    explicit device(const device_options& options)
        : threads_(options.threads), execution_(threads_, nullptr, 0) {}
    [[nodiscard]] cpu::execution& main() { return execution_; }
    /// From the arena, as long as the plan said.
    void set_workspace(std::byte* workspace, index_t bytes) { execution_ = {threads_, workspace, bytes}; }
    /// Does what a step of this kind and shape submits.
    template <class Submit>
    void replay(step_kind /*kind*/, const batch_view& /*batch*/, const Submit& submit) {
      submit();
    }
    void wait() {}
    void mark(index_t /*slot*/) {}
    void wait_for(index_t /*slot*/) {}

   private:
    thread_pool threads_;
    cpu::execution execution_;
  };

  /// Batches are used where they are.
  class batch_staging {
   public:
    batch_staging(std::byte* /*device*/, std::byte* /*host*/, const batch_shape& /*largest*/) {}
    [[nodiscard]] batch_view stage(execution& /*e*/, const batch_view& batch) { return batch; }
    [[nodiscard]] static constexpr index_t device_bytes(const batch_shape& /*largest*/) { return 0; }
    [[nodiscard]] static constexpr index_t host_bytes(const batch_shape& /*largest*/) { return 0; }
  };
  /// Takes all shapes.
  static constexpr void check_shape(const model_shape& /*shape*/) {}
  /// Nothing is captured.
  [[nodiscard]] static constexpr index_t graph_bytes(const model_shape& /*shape*/, bool /*trains*/) {
    return 0;
  }
  /// No batch is padded.
  [[nodiscard]] static constexpr batch_shape padded(const batch_shape& batch) { return batch; }
  /// Nothing runs beside anything else.
  static constexpr index_t scratch_sets = 1;
  /// Parts of the sum of squares of `count` gradients.
  [[nodiscard]] static constexpr index_t square_parts(index_t /*count*/) { return 1; }
  /// Is the gradients' norm taken while backward goes on, and the optimizer's step left to the next forward?
  static constexpr bool overlaps_optimizer = false;
  static constexpr index_t least_optimizer_piece = 1;
  static constexpr index_t least_squares_bytes = 1;
  /// Tokens that a search in the backend's memory goes on before the program looks at it; 0: the search is
  /// the program's own, which drops finished sentences at once.
  static constexpr index_t search_steps = 0;
  /// Updates whose results may be outstanding.
  static constexpr index_t updates_in_flight = 1;

  /// Cores that this process may use: what its affinity mask and its control group's quota allow.
  [[nodiscard]] static int default_threads() {
    int cores = static_cast<int>(std::thread::hardware_concurrency());
    cpu_set_t allowed;
    if (::sched_getaffinity(0, sizeof(allowed), &allowed) == 0) cores = CPU_COUNT(&allowed);
    double quota = 0.0;
    double period = 0.0;
    std::ifstream limit("/sys/fs/cgroup/cpu.max");  // "max 100000" without a limit
    if (limit >> quota >> period && quota > 0.0 && period > 0.0)
      cores = std::min(cores, static_cast<int>(std::ceil(quota / period)));
    return std::max(1, cores);
  }

  /// Of a GPU's matmuls.
  [[nodiscard]] static constexpr index_t matmul_workspace_bytes(const model_shape& /*shape*/) { return 0; }
  /// The largest workspace of any operation of a training step.
  template <precision_policy Precision>
  [[nodiscard]] static constexpr index_t workspace_bytes(const model_shape& shape, const batch_shape& batch,
                                                         int threads) {
    const index_t tokens = std::max(batch.source_tokens, batch.target_tokens);
    const index_t longest = std::max(batch.max_source_length, batch.max_target_length);
    // 16-bit results are products over a layer's width or, for weight gradients, over the tokens.
    const index_t depth = std::max(tokens, shape.widest());
    return std::max(
        {cpu::matmul_workspace_bytes(threads, depth), rms_norm_workspace_bytes(tokens, shape.d_model),
         attention_workspace_bytes(batch.batch, longest, longest, shape.n_heads, shape.d_kv, shape.n_buckets,
                                   threads),
         decode_attention_workspace_bytes(longest, shape.d_kv, threads),
         sum_of_squares_workspace_bytes(parameter_count(shape)), adafactor_workspace_bytes(shape.widest())});
  }
};

static_assert(backend_for<backend, fp32> && backend_for<backend, fp16> && backend_for<backend, bf16>,
              "the CPU backend offers fp32, fp16 and bf16 storage");
static_assert(!backend_for<backend, tf32>, "tf32 rounds operands inside tensor cores; a CPU has none");

}  // namespace t5zero::cpu
