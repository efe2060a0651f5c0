// Attention of one query for each row, over keys and values in a cache: a step of generation.
#pragma once

#include <algorithm>
#include <cstdint>

#include <t5zero/backend/backend.hpp>
#include <t5zero/backend/cpu/dropout.hpp>
#include <t5zero/backend/cpu/execution.hpp>
#include <t5zero/backend/cpu/few_rows_matmul.hpp>
#include <t5zero/backend/cpu/vector_math.hpp>
#include <t5zero/nn/relative_position_bias.hpp>

namespace t5zero::cpu {

namespace detail {

/// Scores of one head's keys, and its context.
constexpr index_t decode_thread_floats(index_t max_keys, index_t d_kv) {
  return round_up(max_keys, 16) + round_up(d_kv, 16);
}

}  // namespace detail

/// Bytes that decode_attention borrows: what each thread has, and the bucket of each distance.
[[nodiscard]] constexpr index_t decode_attention_workspace_bytes(index_t max_keys, index_t d_kv,
                                                                 int threads) {
  return threads * detail::decode_thread_floats(max_keys, d_kv) * 4 +
         max_keys * static_cast<index_t>(sizeof(std::int32_t));
}

/// to[rows[t]] = from[t].
template <element T>
void scatter_rows(execution& execution, matrix_view<const T> from, const index_t* rows, matrix_view<T> to) {
  for_each_row(execution, from.rows,
               [&](index_t t) { std::copy_n(from.row(t).data, from.cols, to.row(rows[t]).data); });
}

namespace detail {

/// sum += weight * values, over count elements.
template <element T>
void add_scaled(float weight, const T* values, index_t count, float* sum) {
  index_t i = 0;
  for (; i + vector_width <= count; i += vector_width)
    store(sum + i, load(sum + i) + weight * load(values + i));
  for (; i < count; ++i) sum[i] += weight * static_cast<float>(values[i]);
}

}  // namespace detail

/// context [rows, n_heads * d_kv] = softmax(q k^T + bias) v, row by row.
template <element T>
void decode_attention(execution& execution, const decode_attention_inputs<T>& in, matrix_view<T> context) {
  const index_t d = in.d_kv;
  const index_t thread_floats = detail::decode_thread_floats(in.keys.max_count, d);
  auto* memory = reinterpret_cast<float*>(execution.workspace(
      decode_attention_workspace_bytes(in.keys.max_count, d, execution.threads().size())));
  auto* buckets = reinterpret_cast<std::int32_t*>(memory + execution.threads().size() * thread_floats);
  if (in.relative_bias != nullptr) {
    index_t longest = 0;
    for (index_t row = 0; row < in.query.rows; ++row) longest = std::max(longest, in.keys.count(row));
    for (index_t distance = 0; distance < longest; ++distance) {
      buckets[distance] = static_cast<std::int32_t>(
          relative_position_bucket(-distance, /*bidirectional=*/false, in.n_buckets, in.max_distance));
    }
  }
  execution.threads().run(in.query.rows, [&](index_t row) {
    float* scores = memory + thread_pool::current_thread() * thread_floats;
    float* result = scores + round_up(in.keys.max_count, 16);
    const index_t n = in.keys.count(row);
    for (index_t head = 0; head < in.n_heads; ++head) {
      const T* query = &in.query(row, head * d);
      for (index_t j = 0; j < n; ++j) {
        float dot[1][1];
        detail::dot_products<1, 1>(query, 0, &in.key(in.keys.at(row, j), head * d), 0, d, dot);
        scores[j] = dot[0][0];
      }
      if (in.relative_bias != nullptr) {
        for (index_t j = 0; j < n; ++j)
          scores[j] += static_cast<float>(in.relative_bias[buckets[n - 1 - j] * in.n_heads + head]);
      }
      const float maximum = range_maximum(scores, n);
      const float sum = exponentiate_range(scores, n, maximum);
      scale_range(scores, n, 1.0F / sum);
      std::fill_n(result, d, 0.0F);
      for (index_t j = 0; j < n; ++j)
        detail::add_scaled(scores[j], &in.value(in.keys.at(row, j), head * d), d, result);
      convert_range(result, &context(row, head * d), d);
    }
  });
}

}  // namespace t5zero::cpu
