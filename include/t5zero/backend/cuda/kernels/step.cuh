// The scalars between a step's passes (optim/update_step.hpp), each by a kernel of one thread: a microsecond
// on the device instead of a round trip to the host.
#pragma once

#include <t5zero/backend/cuda/check.hpp>
#include <t5zero/backend/cuda/operations.hpp>
#include <t5zero/optim/update_step.hpp>

namespace t5zero::cuda {

// One instantiation an element type, as each has a translation unit of its own.
namespace detail {

template <element T>
__global__ void begin_micro_batch_kernel(update_settings settings, step_state* state, index_t labels,
                                         index_t loss_divisor) {
  t5zero::begin_micro_batch(settings, *state, labels, loss_divisor);
}
template <element T>
__global__ void finish_micro_batch_kernel(step_state* state, loss_sums* losses) {
  t5zero::finish_micro_batch(*state, losses);
}
template <element T>
__global__ void finish_update_kernel(update_settings settings, update_rates rates, step_state* state,
                                     const loss_sums* losses, index_t count, update_outcome* outcome,
                                     loss_sums* outcome_losses) {
  // In registers until it is complete: `outcome` is host memory.
  update_outcome done;
  t5zero::finish_update(settings, rates, *state, done);
  *outcome = done;
  for (index_t i = 0; i < count; ++i) outcome_losses[i] = losses[i];
}

template <element T>
__global__ void end_update_kernel(step_state* state) {
  t5zero::end_update(*state);
}

}  // namespace detail

template <element T>
void operations<T>::begin_micro_batch(execution& e, const update_settings& settings, step_state* state,
                                      index_t labels, index_t loss_divisor) {
  detail::begin_micro_batch_kernel<T><<<1, 1, 0, e.stream()>>>(settings, state, labels, loss_divisor);
  check(cudaGetLastError());
}
template <element T>
void operations<T>::finish_micro_batch(execution& e, step_state* state, loss_sums* losses) {
  detail::finish_micro_batch_kernel<T><<<1, 1, 0, e.stream()>>>(state, losses);
  check(cudaGetLastError());
}
template <element T>
void operations<T>::finish_update(execution& e, const update_settings& settings, const update_rates& rates,
                                  step_state* state, const loss_sums* losses, index_t count,
                                  update_outcome* outcome, loss_sums* outcome_losses) {
  detail::finish_update_kernel<T>
      <<<1, 1, 0, e.stream()>>>(settings, rates, state, losses, count, outcome, outcome_losses);
  check(cudaGetLastError());
}
template <element T>
void operations<T>::end_update(execution& e, step_state* state) {
  detail::end_update_kernel<T><<<1, 1, 0, e.stream()>>>(state);
  check(cudaGetLastError());
}

}  // namespace t5zero::cuda
