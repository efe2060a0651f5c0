// The operations of a generation step against their definitions.
#include <t5zero/cpu.hpp>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <limits>
#include <numeric>
#include <random>
#include <vector>

#include "catch.hpp"

namespace {

using t5zero::index_t;
using t5zero::matrix_view;

struct fixture {
  explicit fixture(int threads = 2) : pool(threads), memory(1 << 22), execution(pool, aligned(), 1 << 21) {}
  std::byte* aligned() {
    void* at = memory.data();
    std::size_t space = memory.size();
    return static_cast<std::byte*>(std::align(64, 1 << 21, at, space));
  }
  t5zero::cpu::thread_pool pool;
  std::vector<std::byte> memory;
  t5zero::cpu::execution execution;
};

std::vector<float> random_floats(index_t count, unsigned seed) {
  std::mt19937 engine(seed);
  std::normal_distribution<float> normal;
  std::vector<float> values(static_cast<std::size_t>(count));
  for (float& value : values) value = normal(engine);
  return values;
}

}  // namespace

TEMPLATE_TEST_CASE("few rows: each row alone gives the same bits as all together", "[backend]", float,
                   t5zero::float16, t5zero::bfloat16) {
  fixture cpu;
  for (const auto& [rows, cols, depth] : std::vector<std::array<index_t, 3>>{
           {1, 1, 1}, {3, 5, 7}, {4, 48, 64}, {7, 49, 33}, {16, 100, 512}, {31, 33, 100}, {32, 64, 17}}) {
    CAPTURE(rows, cols, depth);
    std::vector<TestType> a, b;
    for (const float value : random_floats(rows * depth, 1)) a.push_back(static_cast<TestType>(value));
    for (const float value : random_floats(cols * depth, 2)) b.push_back(static_cast<TestType>(value));
    const matrix_view<const TestType> left(a.data(), rows, depth);
    const matrix_view<const TestType> right(b.data(), cols, depth);
    std::vector<float> c(static_cast<std::size_t>(rows * cols), 1.0F);
    t5zero::cpu::few_rows_matmul(cpu.execution, left, right, matrix_view<float>(c.data(), rows, cols),
                                 t5zero::gradient_mode::accumulate, 0.5F);
    double worst = 0.0;
    for (index_t i = 0; i < rows; ++i) {
      for (index_t j = 0; j < cols; ++j) {
        double sum = 0.0;
        for (index_t k = 0; k < depth; ++k)
          sum += static_cast<double>(static_cast<float>(left(i, k))) *
                 static_cast<double>(static_cast<float>(right(j, k)));
        worst = std::max(worst, std::abs(1.0 + 0.5 * sum -
                                         static_cast<double>(c[static_cast<std::size_t>(i * cols + j)])));
      }
    }
    CHECK(worst < 1e-4);
    for (index_t i = 0; i < rows; ++i) {
      std::vector<float> alone(static_cast<std::size_t>(cols), 1.0F);
      t5zero::cpu::few_rows_matmul(cpu.execution, left.row_block(i, 1), right,
                                   matrix_view<float>(alone.data(), 1, cols),
                                   t5zero::gradient_mode::accumulate, 0.5F);
      CHECK(std::equal(alone.begin(), alone.end(), c.begin() + i * cols));
    }
  }
}

TEST_CASE("attention of a step over a table of keys and over a range", "[backend]") {
  fixture cpu;
  constexpr index_t heads = 3;
  constexpr index_t d = 24;  // no whole number of vectors
  constexpr index_t rows = 5;
  constexpr index_t cache_rows = 60;
  const auto query = random_floats(rows * heads * d, 1);
  const auto cache = random_floats(cache_rows * 2 * heads * d, 2);
  const auto bias = random_floats(32 * heads, 3);
  const matrix_view<const float> all(cache.data(), cache_rows, 2 * heads * d);
  std::vector<index_t> table(rows * 40);
  std::mt19937 engine(4);
  for (index_t& at : table) at = static_cast<index_t>(engine() % cache_rows);
  const std::vector<index_t> first{0, 3, 10, 20, 59};
  const std::vector<index_t> counts{1, 7, 33, 40, 1};

  for (const bool by_table : {true, false}) {
    CAPTURE(by_table);
    t5zero::decode_attention_inputs<float> in;
    in.query = matrix_view<const float>(query.data(), rows, heads * d);
    in.key = all.column_block(0, heads * d);
    in.value = all.column_block(heads * d, heads * d);
    in.n_heads = heads;
    in.d_kv = d;
    in.relative_bias = by_table ? bias.data() : nullptr;
    in.keys.max_count = 40;
    if (by_table) {
      in.keys.table = table.data();
      in.keys.stride = 40;
    } else {
      in.keys.first = first.data();
      in.keys.counts = counts.data();
    }
    std::vector<float> context(rows * heads * d);
    t5zero::cpu::decode_attention<float>(cpu.execution, in,
                                         matrix_view<float>(context.data(), rows, heads * d));
    double worst = 0.0;
    for (index_t row = 0; row < rows; ++row) {
      for (index_t head = 0; head < heads; ++head) {
        const index_t n = in.keys.count(row);
        std::vector<double> p(static_cast<std::size_t>(n));
        double sum = 0.0;
        for (index_t j = 0; j < n; ++j) {
          double score = 0.0;
          for (index_t c = 0; c < d; ++c)
            score += static_cast<double>(in.query(row, head * d + c)) *
                     static_cast<double>(in.key(in.keys.at(row, j), head * d + c));
          if (by_table) {
            const index_t bucket = t5zero::relative_position_bucket(j - (n - 1), false, 32, 128);
            score += static_cast<double>(bias[static_cast<std::size_t>(bucket * heads + head)]);
          }
          sum += p[static_cast<std::size_t>(j)] = std::exp(score);
        }
        for (index_t c = 0; c < d; ++c) {
          double expected = 0.0;
          for (index_t j = 0; j < n; ++j)
            expected += p[static_cast<std::size_t>(j)] / sum *
                        static_cast<double>(in.value(in.keys.at(row, j), head * d + c));
          const auto found =
              static_cast<double>(context[static_cast<std::size_t>((row * heads + head) * d + c)]);
          worst = std::max(worst, std::abs(found - expected));
        }
      }
    }
    CHECK(worst < 1e-5);
  }
}

TEST_CASE("the best tokens of a row, descending, ties to the lower id", "[backend]") {
  fixture cpu;
  for (const index_t size : {index_t{5}, index_t{16}, index_t{100}, index_t{1003}}) {
    auto values = random_floats(2 * size, 5);
    values[static_cast<std::size_t>(size - 1)] = values[1] = 9.0F;  // a tie
    for (const index_t count : {index_t{1}, index_t{3}, size}) {
      CAPTURE(size, count);
      std::vector<float> scores(static_cast<std::size_t>(2 * count));
      std::vector<std::int32_t> ids(scores.size());
      t5zero::cpu::top_candidates(cpu.execution, matrix_view<const float>(values.data(), 2, size),
                                  matrix_view<float>(scores.data(), 2, count),
                                  matrix_view<std::int32_t>(ids.data(), 2, count));
      for (index_t row = 0; row < 2; ++row) {
        const float* from = values.data() + row * size;
        std::vector<std::int32_t> order(static_cast<std::size_t>(size));
        std::iota(order.begin(), order.end(), 0);
        std::stable_sort(order.begin(), order.end(), [&](int x, int y) { return from[x] > from[y]; });
        order.resize(static_cast<std::size_t>(count));
        CHECK(std::equal(order.begin(), order.end(), ids.begin() + row * count));
        for (index_t i = 0; i < count; ++i)
          CHECK(scores[static_cast<std::size_t>(row * count + i)] ==
                from[order[static_cast<std::size_t>(i)]]);
      }
    }
  }
}

TEST_CASE("scores that are no numbers come last", "[backend]") {
  fixture cpu;
  const float nan = std::numeric_limits<float>::quiet_NaN();
  for (const index_t size : {index_t{5}, index_t{100}}) {
    auto values = random_floats(size, 5);
    values[0] = values[3] = nan;
    for (const index_t count : {index_t{1}, index_t{3}, size}) {
      CAPTURE(size, count);
      std::vector<float> scores(static_cast<std::size_t>(count));
      std::vector<std::int32_t> ids(scores.size());
      t5zero::cpu::top_candidates(cpu.execution, matrix_view<const float>(values.data(), 1, size),
                                  matrix_view<float>(scores.data(), 1, count),
                                  matrix_view<std::int32_t>(ids.data(), 1, count));
      const auto numbers = static_cast<std::ptrdiff_t>(std::min(count, size - 2));
      CHECK(std::is_sorted(scores.begin(), scores.begin() + numbers, std::greater<>()));
      CHECK(std::all_of(ids.begin(), ids.begin() + numbers, [](int id) { return id != 0 && id != 3; }));
      CHECK(std::none_of(scores.begin(), scores.end(), [](float score) { return std::isnan(score); }));
      float best = -std::numeric_limits<float>::infinity();
      for (const float value : values) best = value > best ? value : best;
      CHECK(scores[0] == best);
      if (count == size) CHECK((ids[ids.size() - 2] == 0 && ids.back() == 3));
    }
  }
}

TEST_CASE("log softmax of rows", "[backend]") {
  fixture cpu;
  const index_t size = 1003;
  auto values = random_floats(2 * size, 6);
  const auto before = values;
  t5zero::cpu::log_softmax_rows(cpu.execution, matrix_view<float>(values.data(), 2, size));
  for (index_t row = 0; row < 2; ++row) {
    double sum = 0.0;
    for (index_t i = 0; i < size; ++i)
      sum += std::exp(static_cast<double>(before[static_cast<std::size_t>(row * size + i)]));
    for (index_t i = 0; i < size; ++i) {
      const auto at = static_cast<std::size_t>(row * size + i);
      CHECK(std::abs(static_cast<double>(before[at]) - std::log(sum) - static_cast<double>(values[at])) <
            1e-5);
    }
  }
}
