// Bytes that the attention kernels borrow, for the memory plan.
#pragma once

#include <t5zero/core/integers.hpp>

namespace t5zero::cuda {

namespace detail {

/// Query rows of the smallest block of attention_backward: each block leaves one sum for each bucket.
inline constexpr index_t attention_least_rows = 16;

}  // namespace detail

/// Bytes that backward borrows: the rows' products grad_context . context (long sequences) and the blocks'
/// sums of the bias gradient. It grows with each argument.
[[nodiscard]] constexpr index_t attention_workspace_bytes(index_t batch, index_t max_queries, index_t n_heads,
                                                          index_t n_buckets) {
  const index_t tiles = ceil_div(max_queries, detail::attention_least_rows);
  return batch * n_heads * (max_queries + tiles * n_buckets) * 4;
}

}  // namespace t5zero::cuda
