// Where a model's gradients go. Each use site of a parameter contributes once in a micro-batch; after the
// last one the model says `complete`, and the gradient may be reduced while backward goes on.
#pragma once

#include <concepts>

#include <t5zero/plan/parameter_table.hpp>
#include <t5zero/tensor/tensor_view.hpp>

namespace t5zero {

/// contribute(range, rows, cols): where and how to write the gradient of a range with a single use site, or
/// the next contribution to one with several (those are summed in fp32). accumulator(range, rows, cols): fp32
/// memory to add to, zeroed if nothing was contributed yet. complete(range): all contributions of this
/// micro-batch to a range, perhaps of several tensors, are there, or submitted to the execution and its
/// branches.
template <class S>
concept gradient_sink = requires(S& sink, parameter_range range, index_t n) {
  { sink.contribute(range, n, n) } -> std::same_as<gradient_view>;
  { sink.accumulator(range, n, n) } -> std::same_as<matrix_view<float>>;
  sink.complete(range);
};

}  // namespace t5zero
