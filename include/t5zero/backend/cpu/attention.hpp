// T5's attention on the CPU, forward and backward. One task is one (sequence, head); within it, queries go in
// blocks, so scratch grows with the length of the keys, not with its square. Probabilities are not saved:
// backward computes them again from the saved log-sum-exp (Dao et al. 2022, "FlashAttention", for the idea).
#pragma once

#include <algorithm>
#include <cmath>

#include <t5zero/backend/backend.hpp>
#include <t5zero/backend/cpu/dropout.hpp>
#include <t5zero/backend/cpu/execution.hpp>
#include <t5zero/backend/cpu/matmul.hpp>
#include <t5zero/backend/cpu/vector_math.hpp>
#include <t5zero/nn/relative_position_bias.hpp>

namespace t5zero::cpu {

namespace detail {

inline constexpr index_t query_block = 4 * tile_rows;

/// A product on the calling thread: c (+)= op(a) op(b), with rows of c in blocks of query_block.
struct serial_scratch {
  float* packed_a;  ///< [query_block * block_depth]
  float* packed_b;  ///< [packed_b_floats]
  float* tile;      ///< [query_block * block_cols]
};
inline constexpr index_t serial_scratch_floats =
    query_block * block_depth + packed_b_floats + query_block * block_cols;

template <element A, element B>
void serial_matmul(transpose transpose_a, matrix_view<const A> a, transpose transpose_b,
                   matrix_view<const B> b, matrix_view<float> c, bool accumulate,
                   const serial_scratch& scratch) {
  const index_t depth = transpose_a == transpose::no ? a.cols : a.rows;
  const matmul_problem<A, B, float> problem{transpose_a, a, transpose_b, b, c, 1.0F, depth};
  for (index_t row = 0; row < c.rows; row += query_block) {
    const index_t rows = std::min(query_block, c.rows - row);
    for (index_t k = 0; k < depth; k += block_depth) {
      const index_t kc = std::min(block_depth, depth - k);
      for (index_t i = 0; i < rows; i += tile_rows)
        pack_a_sliver(problem, row + i, k, kc, scratch.packed_a + i * kc);
      for (index_t col = 0; col < c.cols; col += block_cols) {
        multiply_block(problem, scratch.packed_a, row, rows, k, kc, col, accumulate || k > 0,
                       scratch.packed_b, scratch.tile);
      }
    }
  }
}

/// Floats that one thread needs for keys of at most max_keys tokens and queries of at most max_queries.
constexpr index_t attention_thread_floats(index_t max_queries, index_t max_keys, index_t d_kv) {
  const index_t bias = max_queries + max_keys;
  return round_up(serial_scratch_floats + 2 * query_block * max_keys + query_block * d_kv +
                      2 * max_keys * d_kv + 2 * bias,
                  16);
}

/// The scratch of one thread, cut up.
struct attention_scratch {
  attention_scratch(float* memory, index_t max_queries, index_t max_keys, index_t d_kv)
      : serial{memory, memory + query_block * block_depth,
               memory + query_block * block_depth + packed_b_floats},
        scores(memory + serial_scratch_floats),
        grad_scores(scores + query_block * max_keys),
        rows(grad_scores + query_block * max_keys),
        grad_key(rows + query_block * d_kv),
        grad_value(grad_key + max_keys * d_kv),
        bias(grad_value + max_keys * d_kv),
        grad_bias(bias + max_queries + max_keys) {}
  serial_scratch serial;
  float* scores;       ///< [query_block, keys]
  float* grad_scores;  ///< [query_block, keys]
  float* rows;         ///< [query_block, d_kv]
  float* grad_key;     ///< [keys, d_kv]
  float* grad_value;   ///< [keys, d_kv]
  float* bias;         ///< [queries + keys]: bias of key - query + queries - 1
  float* grad_bias;    ///< the same, summed
};

/// One (sequence, head) of an attention: the views and the bias by distance.
template <element T>
struct attention_head {
  attention_head(const attention_inputs<T>& in, index_t sequence, index_t head_)
      : inputs(&in),
        head(head_),
        first_query(in.queries.offsets[sequence]),
        first_key(in.keys.offsets[sequence]),
        n_queries(in.queries.length(sequence)),
        n_keys(in.keys.length(sequence)) {}

  /// Rows [first, first + count) of a [tokens, n_heads * d_kv] matrix, columns of this head.
  template <class U>
  [[nodiscard]] matrix_view<U> columns(matrix_view<U> all, index_t first, index_t count) const {
    return all.row_block(first, count).column_block(head * inputs->d_kv, inputs->d_kv);
  }
  [[nodiscard]] index_t bucket(index_t distance_index) const {
    return relative_position_bucket(distance_index - (n_queries - 1), inputs->mask == attention_mask::full,
                                    inputs->n_buckets, inputs->max_distance);
  }
  void fill_bias(float* bias) const {
    for (index_t i = 0; i < n_queries + n_keys - 1; ++i) {
      bias[i] = static_cast<float>(inputs->relative_bias[bucket(i) * inputs->n_heads + head]);
    }
  }
  /// Keys that query i sees: a prefix.
  [[nodiscard]] index_t visible(index_t i) const {
    return inputs->mask == attention_mask::causal ? std::min(n_keys, i + 1) : n_keys;
  }

  /// scores [rows, n_keys] of queries [block, block + rows): q k^T + bias.
  void scores(index_t block, index_t rows, const attention_scratch& scratch) const {
    const matrix_view<float> s(scratch.scores, rows, n_keys);
    serial_matmul<T, T>(transpose::no, columns(inputs->query, first_query + block, rows), transpose::yes,
                        columns(inputs->key, first_key, n_keys), s, false, scratch.serial);
    if (inputs->relative_bias == nullptr) return;
    for (index_t i = 0; i < rows; ++i) {
      const float* bias = scratch.bias + (n_queries - 1 - (block + i));
      float* row = s.row(i).data;
      for (index_t j = 0; j < n_keys; ++j) row[j] += bias[j];
    }
  }
  /// Multiplies the probabilities of query i (or anything else) by its dropout mask.
  void apply_dropout(index_t i, float* row) const {
    const dropout_site site = inputs->dropout.for_head(head);
    const index_t token = first_query + i;
    for_each_dropout_chunk(site, inputs->queries.rows[token], inputs->queries.positions[token], visible(i),
                           [&](index_t first, index_t count, const float* multipliers) {
                             for (index_t j = 0; j < count; ++j) row[first + j] *= multipliers[j];
                           });
  }

  /// Queries without keys: context 0, log-sum-exp 0.
  void fill_without_keys(matrix_view<T> context, matrix_view<float> log_sum_exp) const {
    fill(context, first_query, n_queries);
    for (index_t i = 0; i < n_queries; ++i) log_sum_exp(first_query + i, head) = 0.0F;
  }
  /// Where there are no queries or no keys, all gradients are 0.
  void fill_gradients(matrix_view<T> grad_query, matrix_view<T> grad_key, matrix_view<T> grad_value) const {
    fill(grad_query, first_query, n_queries);
    fill(grad_key, first_key, n_keys);
    fill(grad_value, first_key, n_keys);
  }
  void fill(matrix_view<T> all, index_t first, index_t count) const {
    const matrix_view<T> part = columns(all, first, count);
    for (index_t i = 0; i < count; ++i) std::fill_n(part.row(i).data, part.cols, T{});
  }

  const attention_inputs<T>* inputs;
  index_t head;
  index_t first_query;
  index_t first_key;
  index_t n_queries;
  index_t n_keys;
};

}  // namespace detail

/// Bytes that both directions borrow.
[[nodiscard]] constexpr index_t attention_workspace_bytes(index_t batch, index_t max_queries,
                                                          index_t max_keys, index_t n_heads, index_t d_kv,
                                                          index_t n_buckets, int threads) {
  return (threads * detail::attention_thread_floats(max_queries, max_keys, d_kv) +
          batch * n_heads * n_buckets) *
         4;
}

/// context [query tokens, n_heads * d_kv] = dropout(softmax(q k^T + bias)) v; log_sum_exp [query tokens,
/// n_heads].
template <element T>
void attention_forward(execution& execution, const attention_inputs<T>& inputs, matrix_view<T> context,
                       matrix_view<float> log_sum_exp) {
  const index_t thread_floats =
      detail::attention_thread_floats(inputs.queries.max_length, inputs.keys.max_length, inputs.d_kv);
  auto* memory =
      reinterpret_cast<float*>(execution.workspace(execution.threads().size() * thread_floats * 4));
  execution.threads().run(inputs.queries.batch * inputs.n_heads, [&](index_t task) {
    const detail::attention_head<T> head(inputs, task / inputs.n_heads, task % inputs.n_heads);
    const detail::attention_scratch scratch(memory + thread_pool::current_thread() * thread_floats,
                                            inputs.queries.max_length, inputs.keys.max_length, inputs.d_kv);
    if (head.n_keys == 0) return head.fill_without_keys(context, log_sum_exp);
    if (inputs.relative_bias != nullptr) head.fill_bias(scratch.bias);
    for (index_t block = 0; block < head.n_queries; block += detail::query_block) {
      const index_t rows = std::min(detail::query_block, head.n_queries - block);
      head.scores(block, rows, scratch);
      for (index_t i = 0; i < rows; ++i) {
        float* row = scratch.scores + i * head.n_keys;
        const index_t visible = head.visible(block + i);
        const float maximum = range_maximum(row, visible);
        const float sum = exponentiate_range(row, visible, maximum);
        scale_range(row, visible, 1.0F / sum);
        log_sum_exp(head.first_query + block + i, head.head) = maximum + std::log(sum);
        if (inputs.dropout.active()) head.apply_dropout(block + i, row);
        std::fill(row + visible, row + head.n_keys, 0.0F);
      }
      const matrix_view<float> out(scratch.rows, rows, inputs.d_kv);
      detail::serial_matmul<float, T>(
          transpose::no, matrix_view<const float>(scratch.scores, rows, head.n_keys), transpose::no,
          head.columns(inputs.value, head.first_key, head.n_keys), out, false, scratch.serial);
      const matrix_view<T> to = head.columns(context, head.first_query + block, rows);
      for (index_t i = 0; i < rows; ++i) convert_range(out.row(i).data, to.row(i).data, inputs.d_kv);
    }
  });
}

/// Gradients of q, k, v (overwritten) and, where there is a bias, of its table [n_buckets, n_heads]
/// (accumulated). context and log_sum_exp are those of attention_forward.
template <element T>
void attention_backward(execution& execution, const attention_inputs<T>& inputs, matrix_view<const T> context,
                        matrix_view<const float> log_sum_exp, matrix_view<const T> grad_context,
                        matrix_view<T> grad_query, matrix_view<T> grad_key, matrix_view<T> grad_value,
                        matrix_view<float> grad_relative_bias) {
  const index_t d_kv = inputs.d_kv;
  const index_t n_buckets = inputs.n_buckets;
  const index_t tasks = inputs.queries.batch * inputs.n_heads;
  const index_t thread_floats =
      detail::attention_thread_floats(inputs.queries.max_length, inputs.keys.max_length, d_kv);
  const int threads = execution.threads().size();
  auto* memory =
      reinterpret_cast<float*>(execution.workspace((threads * thread_floats + tasks * n_buckets) * 4));
  float* bucket_sums = memory + threads * thread_floats;
  const bool has_bias = inputs.relative_bias != nullptr;

  execution.threads().run(tasks, [&](index_t task) {
    const detail::attention_head<T> head(inputs, task / inputs.n_heads, task % inputs.n_heads);
    const detail::attention_scratch scratch(memory + thread_pool::current_thread() * thread_floats,
                                            inputs.queries.max_length, inputs.keys.max_length, d_kv);
    const index_t keys = head.n_keys;
    if (has_bias) std::fill_n(bucket_sums + task * n_buckets, n_buckets, 0.0F);
    if (keys == 0 || head.n_queries == 0) return head.fill_gradients(grad_query, grad_key, grad_value);
    if (has_bias) {
      head.fill_bias(scratch.bias);
      std::fill_n(scratch.grad_bias, head.n_queries + keys, 0.0F);
    }
    const matrix_view<float> sum_key(scratch.grad_key, keys, d_kv);
    const matrix_view<float> sum_value(scratch.grad_value, keys, d_kv);
    for (index_t block = 0; block < head.n_queries; block += detail::query_block) {
      const index_t rows = std::min(detail::query_block, head.n_queries - block);
      const matrix_view<const T> query = head.columns(inputs.query, head.first_query + block, rows);
      const matrix_view<const T> grad_out = head.columns(grad_context, head.first_query + block, rows);
      const matrix_view<const T> out = head.columns(context, head.first_query + block, rows);
      const matrix_view<float> p(scratch.scores, rows, keys);
      const matrix_view<float> grad_p(scratch.grad_scores, rows, keys);
      head.scores(block, rows, scratch);
      detail::serial_matmul<T, T>(transpose::no, grad_out, transpose::yes,
                                  head.columns(inputs.value, head.first_key, keys), grad_p, false,
                                  scratch.serial);
      for (index_t i = 0; i < rows; ++i) {
        const index_t visible = head.visible(block + i);
        float* probabilities = p.row(i).data;
        float* gradient = grad_p.row(i).data;
        exponentiate_range(probabilities, visible, log_sum_exp(head.first_query + block + i, head.head));
        if (inputs.dropout.active()) head.apply_dropout(block + i, gradient);
        // sum_j p_j dp_j = grad_out . out, whatever dropout did
        float dot = 0.0F;
        for (index_t c = 0; c < d_kv; ++c) {
          dot += static_cast<float>(grad_out(i, c)) * static_cast<float>(out(i, c));
        }
        for (index_t j = 0; j < visible; ++j) gradient[j] = probabilities[j] * (gradient[j] - dot);
        std::fill(gradient + visible, gradient + keys, 0.0F);
        if (has_bias) {
          float* by_distance = scratch.grad_bias + (head.n_queries - 1 - (block + i));
          for (index_t j = 0; j < visible; ++j) by_distance[j] += gradient[j];
        }
        if (inputs.dropout.active()) head.apply_dropout(block + i, probabilities);
        std::fill(probabilities + visible, probabilities + keys, 0.0F);
      }
      detail::serial_matmul<float, T>(transpose::yes, p, transpose::no, grad_out, sum_value, block > 0,
                                      scratch.serial);
      detail::serial_matmul<float, T>(transpose::yes, grad_p, transpose::no, query, sum_key, block > 0,
                                      scratch.serial);
      const matrix_view<float> grad_rows(scratch.rows, rows, d_kv);
      detail::serial_matmul<float, T>(transpose::no, grad_p, transpose::no,
                                      head.columns(inputs.key, head.first_key, keys), grad_rows, false,
                                      scratch.serial);
      const matrix_view<T> to = head.columns(grad_query, head.first_query + block, rows);
      for (index_t i = 0; i < rows; ++i) convert_range(grad_rows.row(i).data, to.row(i).data, d_kv);
    }
    const matrix_view<T> to_key = head.columns(grad_key, head.first_key, keys);
    const matrix_view<T> to_value = head.columns(grad_value, head.first_key, keys);
    for (index_t j = 0; j < keys; ++j) {
      convert_range(sum_key.row(j).data, to_key.row(j).data, d_kv);
      convert_range(sum_value.row(j).data, to_value.row(j).data, d_kv);
    }
    if (has_bias) {
      float* sums = bucket_sums + task * n_buckets;
      for (index_t i = 0; i < head.n_queries + keys - 1; ++i) sums[head.bucket(i)] += scratch.grad_bias[i];
    }
  });
  if (!has_bias) return;
  for (index_t task = 0; task < tasks; ++task) {
    for (index_t bucket = 0; bucket < n_buckets; ++bucket) {
      grad_relative_bias(bucket, task % inputs.n_heads) += bucket_sums[task * n_buckets + bucket];
    }
  }
}

}  // namespace t5zero::cpu
