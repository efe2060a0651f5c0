#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <numeric>
#include <type_traits>
#include <utility>
#include <vector>

#include <t5zero/backend/cpu/attention.hpp>
#include <t5zero/backend/cuda/attention_blocking.hpp>
#include <t5zero/backend/cuda/attention_workspace.hpp>
#include <t5zero/backend/cuda/operations.hpp>
#include <t5zero/nn/relative_position_bias.hpp>

#include "catch.hpp"
#include "central_differences.hpp"
#include "device_machine.hpp"
#include "host_machine.hpp"

namespace {

using namespace t5zero;
using namespace t5zero_test;

struct attention_case {
  std::vector<index_t> queries;
  std::vector<index_t> keys;
  index_t n_heads = 2;
  index_t d_kv = 64;
  attention_mask mask = attention_mask::full;
  bool has_bias = true;
  float dropout = 0.0F;
  index_t n_buckets = 32;
  index_t max_distance = 128;
};

/// What both directions give, as one vector each.
template <element T>
struct attention_results {
  std::vector<T> context;
  std::vector<float> log_sum_exp;
  std::vector<T> grad_query;
  std::vector<T> grad_key_value;  // columns of one buffer
  std::vector<float> grad_bias;
};

/// q, and k and v as columns of one buffer of a wider stride; all in host memory.
template <element T>
struct attention_data {
  explicit attention_data(const attention_case& c)
      : inner_dim(c.n_heads * c.d_kv),
        queries(c.queries, 5),
        keys(c.keys, 5),
        // Scores of a standard deviation of 1 or so, as trained models have.
        query(random_elements<T>(queries.tokens() * inner_dim, 1,
                                 1.0F / std::sqrt(static_cast<float>(c.d_kv)))),
        key_value(random_elements<T>(keys.tokens() * kv_stride(), 2)),
        bias(random_elements<T>(c.n_buckets * c.n_heads, 3)),
        grad_context(random_elements<T>(queries.tokens() * inner_dim, 4)),
        grad_bias(random_elements<float>(c.n_buckets * c.n_heads, 5)) {}

  [[nodiscard]] index_t kv_stride() const { return 2 * inner_dim + 16; }
  template <class U>
  [[nodiscard]] matrix_view<U> key_columns(U* data) const {
    return {data, keys.tokens(), inner_dim, kv_stride()};
  }
  template <class U>
  [[nodiscard]] matrix_view<U> value_columns(U* data) const {
    return {data + inner_dim + 8, keys.tokens(), inner_dim, kv_stride()};
  }
  [[nodiscard]] attention_inputs<T> inputs(const attention_case& c, const T* q, const T* kv, const T* b,
                                           const ragged_view& q_tokens, const ragged_view& k_tokens,
                                           const dropout_site& dropout) const {
    return {{q, queries.tokens(), inner_dim},
            key_columns(kv),
            value_columns(kv),
            c.has_bias ? b : nullptr,
            c.n_heads,
            c.d_kv,
            c.n_buckets,
            c.max_distance,
            c.mask,
            q_tokens,
            k_tokens,
            dropout};
  }

  index_t inner_dim;
  ragged_batch queries;
  ragged_batch keys;
  std::vector<T> query;
  std::vector<T> key_value;
  std::vector<T> bias;
  std::vector<T> grad_context;
  std::vector<float> grad_bias;
};

template <element T>
attention_results<T> on_the_host(host_machine& machine, const attention_case& c,
                                 const attention_data<T>& data, const dropout_site& dropout) {
  attention_results<T> r;
  const index_t tokens = data.queries.tokens();
  r.context.resize(data.query.size());
  r.log_sum_exp.resize(static_cast<std::size_t>(tokens * c.n_heads));
  r.grad_query.resize(data.query.size());
  r.grad_key_value.resize(data.key_value.size());
  r.grad_bias = data.grad_bias;
  const auto in = data.inputs(c, data.query.data(), data.key_value.data(), data.bias.data(),
                              data.queries.view(), data.keys.view(), dropout);
  const matrix_view<T> context(r.context.data(), tokens, data.inner_dim);
  const matrix_view<float> log_sum_exp(r.log_sum_exp.data(), tokens, c.n_heads);
  const matrix_view<T> grad_query(r.grad_query.data(), tokens, data.inner_dim);
  cpu::attention_forward<T>(machine.main(), in, context, log_sum_exp);
  cpu::attention_backward<T>(
      machine.main(), in, context, log_sum_exp, {data.grad_context.data(), tokens, data.inner_dim},
      grad_query, data.key_columns(r.grad_key_value.data()), data.value_columns(r.grad_key_value.data()),
      {r.grad_bias.data(), c.n_buckets, c.n_heads});
  // The CPU's operations know no empty sequences: what lies across from nothing is nothing.
  const auto clear = [](auto view, index_t first, index_t count) {
    using value_type = std::remove_reference_t<decltype(*view.data)>;
    for (index_t i = first; i < first + count; ++i) std::fill_n(view.row(i).data, view.cols, value_type{});
  };
  for (std::size_t b = 0; b < c.queries.size(); ++b) {
    if (c.keys[b] == 0) {
      const index_t first = data.queries.offsets()[b];
      clear(context, first, c.queries[b]);
      clear(log_sum_exp, first, c.queries[b]);
      clear(grad_query, first, c.queries[b]);
    }
    if (c.queries[b] == 0) {
      const index_t first = data.keys.offsets()[b];
      clear(data.key_columns(r.grad_key_value.data()), first, c.keys[b]);
      clear(data.value_columns(r.grad_key_value.data()), first, c.keys[b]);
    }
  }
  return r;
}

/// Attention of fp32 numbers by its definition, in double.
attention_results<float> in_double(const attention_case& c, const attention_data<float>& data,
                                   const dropout_site& dropout) {
  const index_t tokens = data.queries.tokens();
  const auto cols = static_cast<std::size_t>(c.d_kv);
  attention_results<float> r;
  r.context.resize(data.query.size());
  r.log_sum_exp.resize(static_cast<std::size_t>(tokens * c.n_heads));
  r.grad_query.resize(data.query.size());
  r.grad_key_value.resize(data.key_value.size());
  std::vector<double> grad_bias(data.grad_bias.begin(), data.grad_bias.end());
  // Rows of a head's columns as doubles, and back.
  const auto rows_of = [&](auto columns, index_t first, index_t count, index_t head) {
    std::vector<double> result;
    for (index_t i = first; i < first + count; ++i) {
      const float* const row = columns.row(i).data + head * c.d_kv;
      result.insert(result.end(), row, row + c.d_kv);
    }
    return result;
  };
  const auto keep = [&](const std::vector<double>& from, auto columns, index_t first, index_t head) {
    for (std::size_t i = 0; i < from.size(); ++i)
      columns.row(first + static_cast<index_t>(i / cols))
          .data[head * c.d_kv + static_cast<index_t>(i % cols)] = static_cast<float>(from[i]);
  };
  const auto queries_of = [&](auto* values) { return matrix_view(values, tokens, data.inner_dim); };
  for (std::size_t b = 0; b < c.queries.size(); ++b) {
    const index_t n = c.queries[b];
    const index_t m = c.keys[b];
    const index_t first_query = data.queries.offsets()[b];
    const index_t first_key = data.keys.offsets()[b];
    for (index_t head = 0; head < c.n_heads; ++head) {
      const auto q = rows_of(queries_of(data.query.data()), first_query, n, head);
      const auto grad_out = rows_of(queries_of(data.grad_context.data()), first_query, n, head);
      const auto k = rows_of(data.key_columns(data.key_value.data()), first_key, m, head);
      const auto v = rows_of(data.value_columns(data.key_value.data()), first_key, m, head);
      std::vector<double> context(q.size());
      std::vector<double> grad_q(q.size());
      std::vector<double> grad_k(k.size());
      std::vector<double> grad_v(v.size());
      const auto dot = [&](const std::vector<double>& a, index_t i, const std::vector<double>& other,
                           index_t j) {
        const double* const x = a.data() + i * c.d_kv;
        const double* const y = other.data() + j * c.d_kv;
        return std::inner_product(x, x + c.d_kv, y, 0.0);
      };
      const auto add = [&](std::vector<double>& to, index_t i, double factor, const std::vector<double>& from,
                           index_t j) {
        for (index_t d = 0; d < c.d_kv; ++d)
          to[static_cast<std::size_t>(i * c.d_kv + d)] +=
              factor * from[static_cast<std::size_t>(j * c.d_kv + d)];
      };
      for (index_t i = 0; i < n; ++i) {
        const index_t visible = c.mask == attention_mask::causal ? std::min(m, i + 1) : m;
        const auto bias_place = [&](index_t j) {
          const index_t bucket =
              relative_position_bucket(j - i, c.mask == attention_mask::full, c.n_buckets, c.max_distance);
          return static_cast<std::size_t>(bucket * c.n_heads + head);
        };
        std::vector<double> p;
        double maximum = -std::numeric_limits<double>::infinity();
        for (index_t j = 0; j < visible; ++j) {
          p.push_back(dot(q, i, k, j) + (c.has_bias ? static_cast<double>(data.bias[bias_place(j)]) : 0.0));
          maximum = std::max(maximum, p.back());
        }
        double total = 0.0;
        for (double& score : p) total += score = std::exp(score - maximum);
        const index_t token = first_query + i;
        r.log_sum_exp[static_cast<std::size_t>(token * c.n_heads + head)] =
            visible > 0 ? static_cast<float>(maximum + std::log(total)) : 0.0F;
        std::vector<double> grad_p;
        double row_sum = 0.0;
        for (index_t j = 0; j < visible; ++j) {
          p[static_cast<std::size_t>(j)] /= total;
          const double multiplier =
              dropout_multiplier(dropout.for_head(head), data.queries.rows()[static_cast<std::size_t>(token)],
                                 data.queries.positions()[static_cast<std::size_t>(token)], j);
          const double weight = p[static_cast<std::size_t>(j)] * multiplier;
          add(context, i, weight, v, j);
          add(grad_v, j, weight, grad_out, i);
          grad_p.push_back(dot(grad_out, i, v, j) * multiplier);
          row_sum += p[static_cast<std::size_t>(j)] * grad_p.back();
        }
        for (index_t j = 0; j < visible; ++j) {
          const double grad_score =
              p[static_cast<std::size_t>(j)] * (grad_p[static_cast<std::size_t>(j)] - row_sum);
          add(grad_q, i, grad_score, k, j);
          add(grad_k, j, grad_score, q, i);
          if (c.has_bias) grad_bias[bias_place(j)] += grad_score;
        }
      }
      keep(context, queries_of(r.context.data()), first_query, head);
      keep(grad_q, queries_of(r.grad_query.data()), first_query, head);
      keep(grad_k, data.key_columns(r.grad_key_value.data()), first_key, head);
      keep(grad_v, data.value_columns(r.grad_key_value.data()), first_key, head);
    }
  }
  r.grad_bias.assign(grad_bias.begin(), grad_bias.end());
  return r;
}

/// Backward starts from `expected`'s context: another rounding of it would be multiplied where gradients
/// cancel.
template <element T>
attention_results<T> on_the_device(device_machine& machine, const attention_case& c,
                                   const attention_data<T>& data, const dropout_site& dropout,
                                   const attention_results<T>& expected) {
  const index_t tokens = data.queries.tokens();
  const auto query = on_device(data.query);
  const auto key_value = on_device(data.key_value);
  const auto bias = on_device(data.bias);
  const auto grad_context = on_device(data.grad_context);
  auto grad_bias = on_device(data.grad_bias);
  const device_ragged_batch queries(data.queries);
  const device_ragged_batch keys(data.keys);
  // Fresh device arrays are poisoned.
  const device_array<T> context(tokens * data.inner_dim);
  const device_array<float> log_sum_exp(tokens * c.n_heads);
  const device_array<T> grad_query(tokens * data.inner_dim);
  device_array<T> grad_key_value(static_cast<index_t>(data.key_value.size()));
  grad_key_value.upload(std::vector<T>(data.key_value.size()));
  for (auto gradient : {data.key_columns(grad_key_value.data()), data.value_columns(grad_key_value.data())}) {
    if (gradient.rows == 0) continue;
    cuda::check(cudaMemset2D(gradient.data, static_cast<std::size_t>(gradient.stride) * sizeof(T), 0xff,
                             static_cast<std::size_t>(gradient.cols) * sizeof(T),
                             static_cast<std::size_t>(gradient.rows)));
  }
  cuda::check(cudaDeviceSynchronize());
  const auto in =
      data.inputs(c, query.data(), key_value.data(), bias.data(), queries.view(), keys.view(), dropout);
  const auto context_view = context.matrix(tokens, data.inner_dim);
  const auto saved_context = on_device(expected.context);
  const auto log_sum_exp_view = log_sum_exp.matrix(tokens, c.n_heads);
  cuda::operations<T>::attention_forward(machine.main(), in, context_view, log_sum_exp_view);
  cuda::operations<T>::attention_backward(
      machine.main(), in, saved_context.matrix(tokens, data.inner_dim), log_sum_exp_view,
      grad_context.matrix(tokens, data.inner_dim), grad_query.matrix(tokens, data.inner_dim),
      data.key_columns(grad_key_value.data()), data.value_columns(grad_key_value.data()),
      grad_bias.matrix(c.n_buckets, c.n_heads));
  return {context.download(), log_sum_exp.download(), grad_query.download(), grad_key_value.download(),
          grad_bias.download()};
}

// Sums of up to a few hundred products of numbers near one: fp32 against sums in double; 16-bit types against
// the CPU, where the GPU rounds probabilities and score gradients (of up to |grad_context . value|, ten or
// so) to T before their products and the CPU does not.
template <element T>
constexpr double attention_tolerance = std::same_as<T, float>     ? 4e-5
                                       : std::same_as<T, float16> ? 8e-3
                                                                  : 8e-2;

template <element T>
void compare(const attention_case& c) {
  constexpr double tolerance = attention_tolerance<T>;
  const index_t longest_queries = *std::max_element(c.queries.begin(), c.queries.end());
  // No more than the plan gives.
  device_machine device(std::max<index_t>(
      256, round_up(cuda::attention_workspace_bytes(static_cast<index_t>(c.queries.size()), longest_queries,
                                                    c.n_heads, c.n_buckets),
                    256)));
  const attention_data<T> data(c);
  const dropout_pair dropout(c.dropout);
  const attention_results<T> expected = [&] {
    if constexpr (std::same_as<T, float>) {
      return in_double(c, data, dropout.host());
    } else {
      host_machine host;
      return on_the_host<T>(host, c, data, dropout.host());
    }
  }();
  const attention_results<T> got = on_the_device<T>(device, c, data, dropout.device(), expected);
  CHECK(largest_difference(got.context, expected.context) < tolerance);
  CHECK(largest_difference(got.log_sum_exp, expected.log_sum_exp) < 1e-5);
  CHECK(largest_difference(got.grad_query, expected.grad_query) < tolerance);
  CHECK(largest_difference(got.grad_key_value, expected.grad_key_value) < tolerance);
  CHECK(largest_difference(got.grad_bias, expected.grad_bias) < tolerance);

  const attention_results<T> again = on_the_device<T>(device, c, data, dropout.device(), expected);
  CHECK(same_bits(got.context, again.context));
  CHECK(same_bits(got.log_sum_exp, again.log_sum_exp));
  CHECK(same_bits(got.grad_query, again.grad_query));
  CHECK(same_bits(got.grad_key_value, again.grad_key_value));
  CHECK(same_bits(got.grad_bias, again.grad_bias));
}

attention_case self(std::vector<index_t> lengths, attention_mask mask, float dropout) {
  attention_case c;
  c.queries = lengths;
  c.keys = std::move(lengths);
  c.mask = mask;
  c.dropout = dropout;
  return c;
}

}  // namespace

TEMPLATE_TEST_CASE("cuda attention of one sequence at and around the tiles' sizes", "", float, float16,
                   bfloat16) {
  if (!has_gpu()) return;
  const index_t length = GENERATE(1, 2, 15, 16, 17, 40, 63, 64, 65, 128, 129);
  const attention_mask mask = GENERATE(attention_mask::full, attention_mask::causal);
  const float dropout = GENERATE(0.0F, 0.1F);
  CAPTURE(length, mask == attention_mask::causal, dropout);
  compare<TestType>(self({length}, mask, dropout));
}

TEMPLATE_TEST_CASE("cuda attention of ragged batches, some sequences empty", "", float, float16, bfloat16) {
  if (!has_gpu()) return;
  const attention_mask mask = GENERATE(attention_mask::full, attention_mask::causal);
  compare<TestType>(self({0, 33, 1, 0, 57, 20, 0}, mask, 0.1F));
  compare<TestType>(self({17, 80, 48}, mask, 0.0F));
}

TEMPLATE_TEST_CASE("cuda cross-attention: other lengths of keys, none, no bias", "", float, float16,
                   bfloat16) {
  if (!has_gpu()) return;
  attention_case c;
  c.queries = {5, 40, 0, 21, 70};
  c.keys = {37, 0, 12, 64, 150};
  c.has_bias = false;
  c.dropout = GENERATE(0.0F, 0.1F);
  compare<TestType>(c);
  c.queries = {3};
  c.keys = {200};
  compare<TestType>(c);
  c.keys = {0};
  compare<TestType>(c);
}

TEMPLATE_TEST_CASE("cuda attention with heads of any width", "", float, float16, bfloat16) {
  if (!has_gpu()) return;
  attention_case c = self({40, 19}, GENERATE(attention_mask::full, attention_mask::causal), 0.1F);
  c.d_kv = GENERATE(8, 16, 24, 40, 72, 96, 128);
  CAPTURE(c.d_kv);
  c.n_heads = 3;
  compare<TestType>(c);
}

TEMPLATE_TEST_CASE("cuda attention of many long sequences: dense blocks", "", float, float16, bfloat16) {
  if (!has_gpu()) return;
  attention_case c = self({300, 0, 129, 64, 257, 290}, GENERATE(attention_mask::full, attention_mask::causal),
                          GENERATE(0.0F, 0.1F));
  if (under_sanitizer() && c.dropout == 0.0F) return;
  c.n_heads = 16;
  c.d_kv = GENERATE(64, 128);
  CAPTURE(c.d_kv, c.mask == attention_mask::causal, c.dropout);
  REQUIRE(cuda::detail::fills_dense_blocks(/*own_rows=*/64,
                                           *std::max_element(c.queries.begin(), c.queries.end()),
                                           std::accumulate(c.queries.begin(), c.queries.end(), index_t{0}),
                                           static_cast<index_t>(c.queries.size()), c.n_heads));
  compare<TestType>(c);
}

TEMPLATE_TEST_CASE("cuda attention with other buckets, and distances beyond the last", "", float, float16) {
  if (!has_gpu()) return;
  attention_case c = self({150, 7}, GENERATE(attention_mask::full, attention_mask::causal), 0.0F);
  c.n_buckets = GENERATE(4, 8, 48);
  c.max_distance = GENERATE(30, 60, 500);
  CAPTURE(c.n_buckets, c.max_distance);
  compare<TestType>(c);
}

TEST_CASE("cuda attention of thousands of tokens", "[slow]") {
  if (!has_gpu()) return;
  attention_case c = self({1024, 1000}, GENERATE(attention_mask::full, attention_mask::causal), 0.1F);
  c.n_heads = under_sanitizer() ? 2 : 16;
  compare<float>(c);
  compare<float16>(c);
}

TEST_CASE("cuda attention refuses what it cannot do") {
  if (!has_gpu()) return;
  device_machine device;
  attention_inputs<float> in;
  in.n_heads = 1;
  in.d_kv = 136;
  CHECK_THROWS_AS(cuda::operations<float>::attention_forward(device.main(), in, {}, {}), contract_error);
  in.d_kv = 12;
  CHECK_THROWS_AS(cuda::operations<float>::attention_forward(device.main(), in, {}, {}), contract_error);

  // Biases of more distances than a block holds; nothing is read.
  in.d_kv = 64;
  in.queries.batch = in.keys.batch = 1;
  in.queries.tokens = in.keys.tokens = in.queries.max_length = in.keys.max_length = 60000;
  in.query = in.key = in.value = {nullptr, 60000, 64};
  const float bias[32] = {};
  in.relative_bias = bias;
  in.n_buckets = 32;
  in.max_distance = 100000;
  CHECK_THROWS_WITH(cuda::operations<float>::attention_forward(device.main(), in, {nullptr, 60000, 64},
                                                               {nullptr, 60000, 1}),
                    contains_text("distances"));
}
