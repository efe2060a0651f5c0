// The memory of a trainer, by name: one allocation of the backend, one of the host.
#pragma once

#include <cstddef>

#include <t5zero/backend/backend.hpp>
#include <t5zero/core/integers.hpp>
#include <t5zero/optim/update_step.hpp>
#include <t5zero/plan/memory_plan.hpp>
#include <t5zero/tensor/arena.hpp>
#include <t5zero/tensor/slice.hpp>

namespace t5zero {

/// Allocates what a plan says, zeroed. Pointers are the backend's memory unless said otherwise; those of
/// slices that the plan leaves empty may not be used.
template <class Run>
class trainer_memory {
 public:
  using element_type = typename Run::param_type;
  using backend = typename Run::backend;

  /// `plan` outlives it. Throws capacity_error if the memory is not to be had.
  explicit trainer_memory(const memory_plan& plan)
      : plan_(&plan), arena_(plan.arena_bytes), host_arena_(plan.host_bytes) {}

  [[nodiscard]] std::byte* data() const { return arena_.data(); }
  [[nodiscard]] index_t bytes() const { return arena_.bytes(); }
  template <class T>
  [[nodiscard]] T* at(const slice& where) const {
    return arena_.template at<T>(where);
  }
  /// The same in the host's allocation.
  template <class T>
  [[nodiscard]] T* on_host_at(const slice& where) const {
    return host_arena_.template at<T>(where);
  }

  [[nodiscard]] element_type* weights() const { return at<element_type>(plan_->weights); }
  /// The fp32 weights that the optimizer steps: masters, or the weights themselves; null in a 16-bit
  /// evaluation.
  [[nodiscard]] float* wide_weights() const {
    if constexpr (Run::precision::has_master_weights)
      return at<float>(plan_->master_weights);
    else
      return weights();
  }
  /// 16-bit copies that an optimizer writes back, from an element on; null where weights are fp32.
  [[nodiscard]] element_type* published(index_t first) const {
    return Run::precision::has_master_weights ? weights() + first : nullptr;
  }
  [[nodiscard]] float* first_moments() const { return at<float>(plan_->first_moments); }
  [[nodiscard]] float* second_moments() const { return at<float>(plan_->second_moments); }
  /// From an element on; their type is the plan's.
  [[nodiscard]] const std::byte* gradients(index_t first = 0) const {
    return at<std::byte>(plan_->gradients) + first * byte_size(plan_->gradient_type);
  }

  [[nodiscard]] step_state* state() const { return at<step_state>(plan_->step); }
  /// Parts of the gradients' sum of squares.
  [[nodiscard]] double* squares() const { return at<double>(plan_->squares); }
  /// Of the micro-batches.
  [[nodiscard]] loss_sums* losses() const { return at<loss_sums>(plan_->losses); }
  /// What an update did, for the host; by the slot of an update in flight.
  [[nodiscard]] update_outcome* outcome(index_t slot) const {
    return reinterpret_cast<update_outcome*>(outcome_at(slot));
  }
  /// Of its micro-batches.
  [[nodiscard]] loss_sums* outcome_losses(index_t slot) const {
    return reinterpret_cast<loss_sums*>(outcome_at(slot) + update_outcome_bytes);
  }

 private:
  static_assert(sizeof(step_state) <= step_state_bytes && sizeof(loss_sums) == loss_sums_bytes &&
                sizeof(update_outcome) <= update_outcome_bytes);
  [[nodiscard]] std::byte* outcome_at(index_t slot) const {
    return on_host_at<std::byte>(plan_->outcomes) +
           slot * (plan_->outcomes.bytes / backend::updates_in_flight);
  }

  const memory_plan* plan_;
  arena<typename backend::memory> arena_;
  arena<typename backend::host_memory> host_arena_;
};

}  // namespace t5zero
