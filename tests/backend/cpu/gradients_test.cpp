// Every operation against its definition in double, and every gradient against central differences of that
// definition, at sizes around the vector and tile widths.
#include <t5zero/backend/cpu/operations.hpp>
#include <t5zero/nn/relative_position_bias.hpp>

#include <cmath>
#include <vector>

#include "catch.hpp"
#include "central_differences.hpp"

using namespace t5zero;       // NOLINT(google-build-using-namespace)
using namespace t5zero_test;  // NOLINT(google-build-using-namespace)

namespace {

constexpr double forward_bound = 2e-6;
constexpr double gradient_bound = 1e-5;
using ops = cpu::operations<float>;

struct machine {
  explicit machine(int threads = 2)
      : pool(threads), workspace(std::size_t{1} << 23U), stream(pool, aligned(), index_t{1} << 22) {}
  std::byte* aligned() {
    const auto address = reinterpret_cast<std::uintptr_t>(workspace.data());
    return workspace.data() + (64 - address % 64) % 64;
  }
  cpu::thread_pool pool;
  std::vector<std::byte> workspace;
  cpu::execution stream;
};

std::vector<float> zeros(std::size_t count) {
  return std::vector<float>(count, 0.0F);
}
gradient_view gradient_of(std::vector<float>& values, index_t rows, index_t cols) {
  return {values.data(), dtype::f32, gradient_mode::overwrite, rows, cols};
}
dropout_site site(float rate) {
  static constexpr std::uint32_t micro_step = 3;
  return {rate, 42, 5, &micro_step};
}

}  // namespace

TEST_CASE("rms norm and its gradients") {
  const index_t d = GENERATE(1, 7, 15, 16, 17, 33, 64);
  const index_t rows = GENERATE(1, 31, 33);
  CAPTURE(d, rows);
  constexpr double epsilon = 1e-6;
  const auto x = random_floats(rows * d, 1);
  const auto w = random_floats(d, 2);
  const auto cotangent = random_floats(rows * d, 3);
  const auto reference = [&](const doubles& from, const doubles& weight) {
    doubles y(from.size());
    for (index_t t = 0; t < rows; ++t) {
      double squares = 0.0;
      for (index_t i = 0; i < d; ++i) squares += from[t * d + i] * from[t * d + i];
      for (index_t i = 0; i < d; ++i)
        y[t * d + i] = from[t * d + i] / std::sqrt(squares / static_cast<double>(d) + epsilon) * weight[i];
    }
    return y;
  };
  machine m;
  auto y = zeros(x.size());
  auto inverse = zeros(rows);
  ops::rms_norm_forward(m.stream, {x.data(), rows, d}, {w.data(), d}, 1e-6F, {y.data(), rows, d},
                        {inverse.data(), rows});
  CHECK(distance(y, reference(widen(x), widen(w))) < forward_bound);
  auto grad_x = zeros(x.size());
  auto grad_w = zeros(d);
  ops::rms_norm_backward(m.stream, {cotangent.data(), rows, d}, {x.data(), rows, d}, {w.data(), d},
                         {inverse.data(), rows}, {grad_x.data(), rows, d}, gradient_of(grad_w, 1, d));
  const auto dx =
      central_differences(widen(x), [&](const doubles& v) { return dot(reference(v, widen(w)), cotangent); });
  const auto dw =
      central_differences(widen(w), [&](const doubles& v) { return dot(reference(widen(x), v), cotangent); });
  // With one feature the gradient of x cancels to about epsilon; there is nothing relative to compare.
  if (d > 1) CHECK(distance(grad_x, dx) < gradient_bound);
  CHECK(distance(grad_w, dw) < gradient_bound);
}

TEST_CASE("attention and its gradients") {
  struct form {
    bool bias;
    attention_mask mask;
    std::vector<index_t> queries, keys;
  };
  const auto kind = GENERATE(form{true, attention_mask::full, {1, 17, 5}, {1, 17, 5}},
                             form{true, attention_mask::causal, {13, 1, 16}, {13, 1, 16}},
                             form{false, attention_mask::full, {3, 16, 1}, {15, 1, 18}},
                             form{true, attention_mask::causal, {50}, {50}});
  const float rate = GENERATE(0.0F, 0.25F);
  const index_t d_kv = GENERATE(8, 16, 24);
  constexpr index_t n_heads = 2;
  constexpr index_t n_buckets = 8;
  constexpr index_t max_distance = 20;
  const index_t inner = n_heads * d_kv;
  CAPTURE(kind.bias, kind.mask == attention_mask::causal, rate, d_kv);
  const ragged queries(kind.queries);
  const ragged keys(kind.keys);
  const index_t nq = queries.offsets.back();
  const index_t nk = keys.offsets.back();
  const auto q = random_floats(nq * inner, 1);
  const auto k = random_floats(nk * inner, 2);
  const auto v = random_floats(nk * inner, 3);
  const auto bias = random_floats(n_buckets * n_heads, 4);
  const auto cotangent = random_floats(nq * inner, 5);
  const dropout_site place = site(rate);

  const auto reference = [&](const doubles& rq, const doubles& rk, const doubles& rv, const doubles& rb) {
    doubles out(static_cast<std::size_t>(nq * inner), 0.0);
    for (std::size_t b = 0; b < kind.queries.size(); ++b) {
      for (index_t h = 0; h < n_heads; ++h) {
        for (index_t i = 0; i < kind.queries[b]; ++i) {
          const index_t qi = queries.offsets[b] + i;
          doubles weight;
          double sum = 0.0;
          for (index_t j = 0; j < kind.keys[b]; ++j) {
            if (kind.mask == attention_mask::causal && j > i) break;
            double score = 0.0;
            for (index_t c = 0; c < d_kv; ++c)
              score += rq[qi * inner + h * d_kv + c] * rk[(keys.offsets[b] + j) * inner + h * d_kv + c];
            if (kind.bias) {
              const index_t bucket =
                  relative_position_bucket(j - i, kind.mask == attention_mask::full, n_buckets, max_distance);
              score += rb[bucket * n_heads + h];
            }
            weight.push_back(std::exp(score));
            sum += weight.back();
          }
          for (std::size_t j = 0; j < weight.size(); ++j) {
            const double kept =
                dropout_multiplier(place.for_head(h), queries.rows[static_cast<std::size_t>(qi)],
                                   static_cast<std::uint32_t>(i), static_cast<index_t>(j));
            for (index_t c = 0; c < d_kv; ++c)
              out[qi * inner + h * d_kv + c] +=
                  weight[j] / sum * kept *
                  rv[(keys.offsets[b] + static_cast<index_t>(j)) * inner + h * d_kv + c];
          }
        }
      }
    }
    return out;
  };

  machine m;
  attention_inputs<float> inputs;
  inputs.query = {q.data(), nq, inner};
  inputs.key = {k.data(), nk, inner};
  inputs.value = {v.data(), nk, inner};
  inputs.relative_bias = kind.bias ? bias.data() : nullptr;
  inputs.n_heads = n_heads;
  inputs.d_kv = d_kv;
  inputs.n_buckets = n_buckets;
  inputs.max_distance = max_distance;
  inputs.mask = kind.mask;
  inputs.queries = queries.view();
  inputs.keys = keys.view();
  inputs.dropout = place;
  auto context = zeros(q.size());
  auto lse = zeros(nq * n_heads);
  ops::attention_forward(m.stream, inputs, {context.data(), nq, inner}, {lse.data(), nq, n_heads});
  const doubles wq = widen(q), wk = widen(k), wv = widen(v), wb = widen(bias);
  CHECK(distance(context, reference(wq, wk, wv, wb)) < forward_bound);

  auto grad_q = zeros(q.size());
  auto grad_k = zeros(k.size());
  auto grad_v = zeros(v.size());
  auto grad_bias = zeros(bias.size());
  ops::attention_backward(
      m.stream, inputs, {context.data(), nq, inner}, {lse.data(), nq, n_heads}, {cotangent.data(), nq, inner},
      {grad_q.data(), nq, inner}, {grad_k.data(), nk, inner}, {grad_v.data(), nk, inner},
      kind.bias ? matrix_view<float>(grad_bias.data(), n_buckets, n_heads) : matrix_view<float>());
  if (nq > 40 && d_kv > 8) return;  // the differences of the large case take long; one width is enough
  const auto loss = [&](const doubles& y) { return dot(y, cotangent); };
  CHECK(distance(grad_q, central_differences(wq, [&](const doubles& x) {
                   return loss(reference(x, wk, wv, wb));
                 })) < gradient_bound);
  CHECK(distance(grad_k, central_differences(wk, [&](const doubles& x) {
                   return loss(reference(wq, x, wv, wb));
                 })) < gradient_bound);
  CHECK(distance(grad_v, central_differences(wv, [&](const doubles& x) {
                   return loss(reference(wq, wk, x, wb));
                 })) < gradient_bound);
  if (kind.bias) {
    CHECK(distance(grad_bias, central_differences(wb, [&](const doubles& x) {
                     return loss(reference(wq, wk, wv, x));
                   })) < gradient_bound);
  }
}

TEST_CASE("relu and gated gelu with dropout, and their gradients") {
  const index_t d = GENERATE(1, 15, 17, 63, 65, 130);
  const float rate = GENERATE(0.0F, 0.3F);
  CAPTURE(d, rate);
  const ragged tokens({3, 1});
  const index_t n = 4;
  const dropout_site place = site(rate);
  const auto cotangent = random_floats(n * d, 9);
  const auto kept = [&](index_t t, index_t i) {
    return dropout_multiplier(place, tokens.rows[static_cast<std::size_t>(t)],
                              tokens.positions[static_cast<std::size_t>(t)], i);
  };
  machine m;

  const auto x = random_floats(n * d, 1, 2.0F);
  const auto relu = [&](const doubles& from) {
    doubles y(from.size());
    for (index_t t = 0; t < n; ++t)
      for (index_t i = 0; i < d; ++i) y[t * d + i] = std::max(0.0, from[t * d + i]) * kept(t, i);
    return y;
  };
  auto y = x;
  ops::relu_dropout_forward(m.stream, {y.data(), n, d}, place, tokens.view());
  CHECK(distance(y, relu(widen(x))) < forward_bound);
  auto grad = zeros(x.size());
  ops::relu_dropout_backward(m.stream, {cotangent.data(), n, d}, {y.data(), n, d}, place,
                             {grad.data(), n, d});
  CHECK(distance(grad, central_differences(widen(x), [&](const doubles& v) {
                   return dot(relu(v), cotangent);
                 })) < gradient_bound);

  const auto hidden = random_floats(n * 2 * d, 2, 2.0F);
  const auto gated = [&](const doubles& from) {
    doubles out(static_cast<std::size_t>(n * d));
    for (index_t t = 0; t < n; ++t) {
      for (index_t i = 0; i < d; ++i) {
        const double a = from[t * 2 * d + i];
        const double gelu =
            0.5 * a * (1.0 + std::tanh(std::sqrt(2.0 / std::acos(-1.0)) * (a + 0.044715 * a * a * a)));
        out[t * d + i] = gelu * from[t * 2 * d + d + i] * kept(t, i);
      }
    }
    return out;
  };
  auto out = zeros(n * d);
  ops::gated_gelu_dropout_forward(m.stream, {hidden.data(), n, 2 * d}, place, tokens.view(),
                                  {out.data(), n, d});
  CHECK(distance(out, gated(widen(hidden))) < forward_bound);
  auto grad_hidden = zeros(hidden.size());
  ops::gated_gelu_dropout_backward(m.stream, {cotangent.data(), n, d}, {hidden.data(), n, 2 * d}, place,
                                   tokens.view(), {grad_hidden.data(), n, 2 * d});
  CHECK(distance(grad_hidden, central_differences(widen(hidden), [&](const doubles& v) {
                   return dot(gated(v), cotangent);
                 })) < gradient_bound);
}

TEST_CASE("embedding, residual dropout and their gradients") {
  const index_t d = GENERATE(1, 15, 17, 65);
  const float rate = GENERATE(0.0F, 0.2F);
  const ragged tokens({2, 3});
  const std::vector<std::int32_t> ids = {3, 0, 3, 3, 1};  // repeated rows sum up
  const index_t n = 5;
  const dropout_site place = site(rate);
  const auto table = random_floats(4 * d, 1);
  const auto cotangent = random_floats(n * d, 2);
  const auto reference = [&](const doubles& from) {
    doubles out(static_cast<std::size_t>(n * d));
    for (index_t t = 0; t < n; ++t)
      for (index_t i = 0; i < d; ++i)
        out[t * d + i] = from[ids[static_cast<std::size_t>(t)] * d + i] *
                         dropout_multiplier(place, tokens.rows[static_cast<std::size_t>(t)],
                                            tokens.positions[static_cast<std::size_t>(t)], i);
    return out;
  };
  machine m;
  auto out = zeros(n * d);
  ops::embedding_forward(m.stream, ids.data(), tokens.view(), {table.data(), 4, d}, place,
                         {out.data(), n, d});
  CHECK(distance(out, reference(widen(table))) < forward_bound);
  auto grad = zeros(table.size());
  ops::embedding_backward(m.stream, ids.data(), tokens.view(), place, {cotangent.data(), n, d},
                          {grad.data(), 4, d});
  CHECK(distance(grad, central_differences(widen(table), [&](const doubles& v) {
                   return dot(reference(v), cotangent);
                 })) < gradient_bound);

  const auto x = random_floats(n * d, 3);
  const auto branch = random_floats(n * d, 4);
  auto sum = zeros(x.size());
  auto grad_branch = zeros(x.size());
  ops::residual_dropout_add(m.stream, {x.data(), n, d}, {branch.data(), n, d}, place, tokens.view(),
                            {sum.data(), n, d});
  ops::dropout_backward(m.stream, {cotangent.data(), n, d}, place, tokens.view(), {grad_branch.data(), n, d});
  doubles expected_sum(x.size());
  doubles expected_grad(x.size());
  for (index_t t = 0; t < n; ++t) {
    for (index_t i = 0; i < d; ++i) {
      const double kept = dropout_multiplier(place, tokens.rows[static_cast<std::size_t>(t)],
                                             tokens.positions[static_cast<std::size_t>(t)], i);
      const auto at = static_cast<std::size_t>(t * d + i);
      expected_sum[at] = static_cast<double>(x[at]) + kept * static_cast<double>(branch[at]);
      expected_grad[at] = kept * static_cast<double>(cotangent[at]);
    }
  }
  CHECK(distance(sum, expected_sum) < forward_bound);
  CHECK(distance(grad_branch, expected_grad) < forward_bound);
}

TEST_CASE("cross entropy with ignored labels, all of a tail, and label smoothing") {
  const index_t vocabulary = GENERATE(2, 15, 17, 33, 100);
  const float smoothing = GENERATE(0.0F, 0.1F);
  CAPTURE(vocabulary, smoothing);
  const index_t rows = 6;
  const std::vector<std::int32_t> labels = {0, -100, static_cast<std::int32_t>(vocabulary - 1),
                                            1, -100, -100};
  const auto x = random_floats(rows * vocabulary, 1, 5.0F);
  const auto loss = [&](const doubles& logits) {
    double sum = 0.0;
    for (index_t t = 0; t < rows; ++t) {
      if (labels[static_cast<std::size_t>(t)] < 0) continue;
      double z = 0.0;
      double linear = 0.0;
      for (index_t j = 0; j < vocabulary; ++j) {
        z += std::exp(logits[t * vocabulary + j]);
        linear += logits[t * vocabulary + j];
      }
      const double log_z = std::log(z);
      const double label_logit = logits[t * vocabulary + labels[static_cast<std::size_t>(t)]];
      sum += (1.0 - static_cast<double>(smoothing)) * (log_z - label_logit) +
             static_cast<double>(smoothing) * (log_z - linear / static_cast<double>(vocabulary));
    }
    return sum;
  };
  machine m;
  auto logits = x;
  std::vector<double> row_loss(static_cast<std::size_t>(rows) * 2);
  const float scale = 0.25F;
  ops::cross_entropy_backward(m.stream, {logits.data(), rows, vocabulary}, labels.data(), smoothing, &scale,
                              2.0F, {logits.data(), rows, vocabulary}, {row_loss.data(), rows, 2});
  loss_sums sums;
  ops::sum_losses(m.stream, matrix_view<const double>(row_loss.data(), rows, 2), labels.data(), &sums);
  CHECK(sums.labels == 3);
  CHECK(std::abs(sums.mean(smoothing, vocabulary) * 3.0 / loss(widen(x)) - 1.0) < 1e-6);
  auto expected = central_differences(widen(x), loss);
  for (double& value : expected) value *= 0.5;
  CHECK(distance(logits, expected) < gradient_bound);
}

TEST_CASE("AdamW follows its definition") {
  const index_t n = GENERATE(1, 15, 16, 17, 100);
  auto w = random_floats(n, 1);
  auto m1 = random_floats(n, 2, 0.1F);
  auto m2 = random_floats(n, 3, 0.1F);
  for (float& value : m2) value = std::abs(value);
  const auto g = random_floats(n, 4);
  doubles expected;
  for (std::size_t i = 0; i < w.size(); ++i) {
    const double grad = 0.25 * static_cast<double>(g[i]);
    const double first = 0.9 * static_cast<double>(m1[i]) + 0.1 * grad;
    const double second = 0.999 * static_cast<double>(m2[i]) + 0.001 * grad * grad;
    const double corrected = std::sqrt(second) / std::sqrt(0.003);
    expected.push_back(static_cast<double>(w[i]) * (1.0 - 1e-2 * 0.1) -
                       1e-2 / 0.271 * first / (corrected + 1e-8));
  }
  adamw_params p;
  p.applies = true;
  p.learning_rate = 1e-2F;
  p.weight_decay = 0.1F;
  p.bias_correction1 = 0.271F;
  p.bias_correction2_sqrt = static_cast<float>(std::sqrt(0.003));
  p.grad_multiplier = 0.25F;
  machine machine;
  const index_t decays_from[1] = {0};
  ops::adamw(machine.stream, &p, {decays_from, 1}, w.data(), m1.data(), m2.data(),
             reinterpret_cast<const std::byte*>(g.data()), dtype::f32, nullptr, {0, n});
  CHECK(distance(w, expected) < forward_bound);
}

// Expected values: transformers 5.23's Adafactor in float64, three updates from the same weights and
// gradients.
TEST_CASE("Adafactor equals transformers', matrix and vector, any number of threads", "[backend]") {
  struct reference {
    index_t rows, cols;
    float weight_decay;
    doubles weights, row_moments, column_moments;
  };
  const reference matrix = {
      3,
      21,
      0.1F,
      {0.21489462,     0.929185662,  1.10849216,   0.633200243,  -0.106119015, -0.649308244, -0.842273886,
       -0.756732291,   -0.430067959, 0.16071581,   0.822663108,  1.11039973,   0.742833433,  -0.0640135017,
       -0.75394394,    -0.949594007, -0.717430934, -0.291207757, 0.211469034,  0.723011719,  1.01938101,
       0.785401437,    0.0407438143, -0.755286335, -1.06887168,  -0.783056967, -0.197736378, 0.340901972,
       0.715491846,    0.894168931,  0.724725739,  0.119078257,  -0.669001386, -1.11693737,  -0.893353269,
       -0.203643877,   0.463842698,  0.805542462,  0.823038271,  0.597205809,  0.108528925,  -0.566042133,
       -1.05879797,    -0.976083517, -0.298669256, 0.512973041,  0.940937363,  0.854274265,  0.476182607,
       -0.00206016602, -0.519338792, -0.936208414, -0.955791574, -0.397531989, 0.454612692,  1.02129984,
       0.968001467,    0.448839257,  -0.142018703, -0.581174772, -0.845921468, -0.843138417, -0.420510687},
      {2.30518562, 2.33875264, 2.35748222},
      {0.502255627, 1.9783868,   4.56303985, 0.49339927, 2.01723102,  4.49296376,  0.497032083,
       2.02347262,  4.43620086,  0.50628046, 1.98530193, 4.50015162,  0.503645647, 1.9749413,
       4.5638155,   0.494112945, 2.01199397, 4.50673477, 0.495719076, 2.02635298,  4.43691126}};
  const reference vector = {1,    5,
                            0.0F, {0.242598186, 0.919120561, 1.10090191, 0.641015711, -0.110897998},
                            {},   {0.418857972, 2.28725958, 4.12260548, 0.500048465, 2.16739867}};
  for (const reference& expected : {matrix, vector}) {
    std::vector<float> first_bits;
    for (const int threads : {1, 2, 3}) {
      const index_t n = expected.rows * expected.cols;
      std::vector<float> w;
      for (index_t i = 0; i < n; ++i)
        w.push_back(static_cast<float>(std::sin(0.7 * static_cast<double>(i) + 0.3)));
      auto row_moments = zeros(static_cast<std::size_t>(expected.rows));
      auto column_moments = zeros(static_cast<std::size_t>(expected.cols));
      std::vector<bfloat16> copies(w.size());
      machine machine(threads);
      for (int step = 0; step < 3; ++step) {
        std::vector<float> g;
        for (index_t i = 0; i < n; ++i) {
          const double value = std::cos(1.3 * static_cast<double>(i) + step) * static_cast<double>(1 + i % 3);
          g.push_back(static_cast<float>(4.0 * value));  // unscaled by grad_multiplier
        }
        adafactor_params p;
        p.learning_rate = 0.05F;
        p.one_minus_beta2 = static_cast<float>(std::pow(step + 1.0, -0.8));
        p.beta2 = static_cast<float>(1.0 - std::pow(step + 1.0, -0.8));
        p.weight_decay = expected.weight_decay;
        p.grad_multiplier = 0.25F;
        cpu::adafactor(machine.stream, p, expected.rows == 1, expected.rows, expected.cols, w.data(),
                       row_moments.data(), column_moments.data(), g.data(), copies.data());
      }
      CHECK(distance(w, expected.weights) < forward_bound);
      if (expected.rows > 1) CHECK(distance(row_moments, expected.row_moments) < forward_bound);
      CHECK(distance(column_moments, expected.column_moments) < forward_bound);
      for (std::size_t i = 0; i < w.size(); ++i)
        CHECK(static_cast<float>(copies[i]) == static_cast<float>(static_cast<bfloat16>(w[i])));
      if (first_bits.empty()) first_bits = w;
      CHECK(w == first_bits);
    }
  }
}

TEST_CASE("a dropped share is the rate") {
  const dropout_site place = site(0.1F);
  index_t dropped = 0;
  constexpr index_t n = 200'000;
  for (index_t i = 0; i < n; ++i)
    dropped += dropout_multiplier(place, 1, static_cast<std::uint32_t>(i / 512), i % 512) == 0.0 ? 1 : 0;
  const double sigma = std::sqrt(n * 0.1 * 0.9);
  CHECK(std::abs(static_cast<double>(dropped) - n * 0.1) < 4.0 * sigma);
}
