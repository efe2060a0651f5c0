// Refusals for want of memory or disk, before anything is read, trained or written.
#pragma once

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <limits>
#include <string>
#include <system_error>

#include <t5zero/cli/options.hpp>
#include <t5zero/core/error.hpp>
#include <t5zero/core/integers.hpp>
#include <t5zero/plan/memory_plan.hpp>
#include <t5zero/policy/model_size.hpp>
#include <t5zero/train/report.hpp>
#include <t5zero/train/run.hpp>
#include <t5zero/train/step_arithmetic.hpp>

namespace t5zero::cli {

/// Weights, moments and gradients alone: known before any name is resolved or any text read. Throws
/// capacity_error naming the bytes missing and the largest model that would fit.
template <class Run>
void check_memory_of_model(const plan_options& planned) {
  const index_t available = Run::backend::memory::available_bytes();
  const index_t needed = Run::plan(Run::model::shape, {}, planned).model_state_bytes();
  if (needed <= available) return;
  std::string fits = "none of the known models fits in this configuration";
  index_t best = 0;
  for_each_type(all_model_sizes{}, [&]<class Model>() {
    using other = t5zero::run<Model, typename Run::zero, typename Run::precision, typename Run::backend>;
    const index_t bytes = other::plan(Model::shape, {}, planned).model_state_bytes();
    if (bytes <= available && bytes > best) {
      best = bytes;
      fits = other::name() + " (" + human_bytes(bytes) + ") would fit";
    }
  });
  throw capacity_error(Run::name() + ": the model's states alone need " + with_thousands(needed) +
                       " bytes (" + human_bytes(needed) + "), " + with_thousands(available) +
                       " are available: " + with_thousands(needed - available) + " bytes (" +
                       human_bytes(needed - available) +
                       ") are missing. ZeRO does not help on one rank without offload; " + fits +
                       ". --plan prints the whole table.");
}

/// The whole plan of the run's own data.
template <class Run>
void check_memory_of_plan(const memory_plan& plan, const options& chosen) {
  const index_t available = Run::backend::memory::available_bytes();
  if (plan.total_bytes <= available) return;
  throw capacity_error(
      Run::name() + ": this data needs " + with_thousands(plan.total_bytes) + " bytes, " +
      with_thousands(available) + " are available: " + with_thousands(plan.total_bytes - available) +
      " bytes are missing. Lower --per_device_train_batch_size, --per_device_eval_batch_size or "
      "--max_source_length" +
      (chosen.gradient_checkpointing ? "" : ", or give --gradient_checkpointing"));
}

/// Bytes of one saved model, and of the fp32 state beside it in a checkpoint.
struct save_sizes {
  index_t model = 0;
  index_t state = 0;
};

/// How many checkpoints lie on the disk at the same time, at most: one more than save_total_limit, while the
/// new one is written and the oldest is still there.
[[nodiscard]] inline index_t checkpoints_at_once(const options& chosen, const step_arithmetic& steps) {
  if (chosen.save_strategy == interval_strategy::no) return 0;
  const auto updates = [&](step_count count) { return std::max<index_t>(1, count.steps(steps.max_steps)); };
  index_t written = steps.epochs;
  if (chosen.save_strategy == interval_strategy::steps) {
    written = ceil_div(steps.max_steps, updates(chosen.save_steps));
  } else if (chosen.save_strategy == interval_strategy::best &&
             chosen.eval_strategy == interval_strategy::steps) {
    // Each evaluation may be the best so far.
    written = steps.max_steps / updates(chosen.eval_steps.value_or(chosen.logging_steps));
  }
  return chosen.save_total_limit ? std::min(written, *chosen.save_total_limit + 1) : written;
}

/// Refuses an output directory that cannot take the final model and one checkpoint; warns where all
/// checkpoints of the run would not fit. Returns the warning, or nothing.
[[nodiscard]] inline std::string check_disk_space(const options& chosen, const save_sizes& sizes,
                                                  index_t checkpoints) {
  std::error_code unknown;
  const std::filesystem::space_info space = std::filesystem::space(chosen.output_dir, unknown);
  if (unknown) return {};
  const auto available = static_cast<index_t>(std::min<std::uintmax_t>(space.available, INT64_MAX));
  const index_t one = sizes.model + (chosen.save_only_model ? 0 : sizes.state);
  const index_t least = sizes.model + (checkpoints > 0 ? one : 0);
  if (available < least) {
    throw capacity_error("--output_dir " + chosen.output_dir + ": the model" +
                         (checkpoints > 0 ? " and one checkpoint need " : "'s weights need ") +
                         with_thousands(least) + " bytes, " + with_thousands(available) +
                         " are free there; free some space" +
                         (checkpoints > 0 ? ", give --save_strategy no" : "") + " or name another directory");
  }
  constexpr index_t most = std::numeric_limits<index_t>::max();
  const bool is_countable = one == 0 || checkpoints <= (most - sizes.model) / one;
  const index_t all = is_countable ? sizes.model + checkpoints * one : most;
  if (available >= all) return {};
  return "warning: --output_dir " + chosen.output_dir + ": the checkpoints of this run will need " +
         human_bytes(all) + ", " + human_bytes(available) + " are free there; " +
         (chosen.save_total_limit == 1
              ? "free some space, or give "
              : "give --save_total_limit" + std::string(chosen.save_only_model ? " or " : ", ")) +
         (chosen.save_only_model ? "" : "--save_only_model or ") + "a larger --save_steps";
}

}  // namespace t5zero::cli
