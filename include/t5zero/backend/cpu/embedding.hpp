// Embedding rows and their gradient.
#pragma once

#include <algorithm>
#include <cstdint>

#include <t5zero/backend/cpu/dropout.hpp>
#include <t5zero/backend/cpu/execution.hpp>
#include <t5zero/tensor/tensor_view.hpp>

namespace t5zero::cpu {

/// out[t] = dropout(table[ids[t]]), [tokens, d_model]. Throws contract_error for an id outside the table.
template <element T>
void embedding_forward(execution& execution, const std::int32_t* ids, const ragged_view& tokens,
                       matrix_view<const T> table, const dropout_site& site, matrix_view<float> out) {
  for_each_row(execution, tokens.tokens, [&](index_t t) {
    require(ids[t] >= 0 && ids[t] < table.rows, "embedding_forward: a token id is outside the vocabulary");
    const T* from = table.row(ids[t]).data;
    float* to = out.row(t).data;
    convert_range(from, to, table.cols);
    if (!site.active()) return;
    for_each_dropout_chunk(site, tokens.rows[t], tokens.positions[t], table.cols,
                           [&](index_t first, index_t count, const float* multipliers) {
                             for (index_t i = 0; i < count; ++i) to[first + i] *= multipliers[i];
                           });
  });
}

/// grad_table[ids[t]] += mask of grad[t]. Threads split the features, so each sum runs over the tokens in
/// order.
inline void embedding_backward(execution& execution, const std::int32_t* ids, const ragged_view& tokens,
                               const dropout_site& site, matrix_view<const float> grad,
                               matrix_view<float> grad_table) {
  execution.threads().run(ceil_div(grad.cols, dropout_chunk), [&](index_t chunk) {
    const index_t first = chunk * dropout_chunk;
    const index_t count = std::min(dropout_chunk, grad.cols - first);
    alignas(64) float multipliers[dropout_chunk];
    std::fill_n(multipliers, dropout_chunk, 1.0F);
    for (index_t t = 0; t < tokens.tokens; ++t) {
      if (site.active()) dropout_multipliers(site, tokens.rows[t], tokens.positions[t], first, multipliers);
      const float* from = grad.row(t).data + first;
      float* to = grad_table.row(ids[t]).data + first;
      for (index_t i = 0; i < count; ++i) to[i] += multipliers[i] * from[i];
    }
  });
}

}  // namespace t5zero::cpu
