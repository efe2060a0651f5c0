// fp32 products on tensor cores: as accurate as cuBLASLt's fp32 ones, against double.
#include <cuda_runtime_api.h>

#include <t5zero/backend/cuda/matmul.hpp>
#include <t5zero/backend/cuda/split_matmul.hpp>

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <vector>

#include "backend/cuda/captured.hpp"
#include "backend/cuda/device_machine.hpp"
#include "catch.hpp"

namespace {

using namespace t5zero_test;
using t5zero::gradient_mode;
using t5zero::matrix_view;
using t5zero::transpose;
using t5zero::cuda::split_matmul;
using t5zero::cuda::takes_split_matmul;

/// Is there a GPU that split_matmul runs on?
bool has_split_gpu() {
  if (!has_gpu()) return false;
  if (t5zero::cuda::has_split_matmul()) return true;
  skip_test("the GPU has no products of warpgroups, or this program is not compiled for them");
  return false;
}

/// A matrix in host and device memory; with `spare` more columns than are used, of NaN.
class operand {
 public:
  operand(index_t rows, index_t cols, std::vector<float> values, index_t spare = 0)
      : rows_(rows), cols_(cols), stride_(cols + spare), values_(std::move(values)), device_(rows * stride_) {
    std::vector<float> all(static_cast<std::size_t>(rows * stride_), std::numeric_limits<float>::quiet_NaN());
    for (index_t i = 0; i < rows; ++i)
      std::copy_n(values_.begin() + i * cols, cols, all.begin() + i * stride_ + first());
    device_.upload(all);
  }

  [[nodiscard]] double at(index_t i, index_t j) const {
    return static_cast<double>(values_[static_cast<std::size_t>(i * cols_ + j)]);
  }
  [[nodiscard]] matrix_view<float> view() const { return {device_.data() + first(), rows_, cols_, stride_}; }
  [[nodiscard]] std::vector<float> download() const {
    const auto all = device_.download();
    std::vector<float> result;
    for (index_t i = 0; i < rows_; ++i) {
      const auto begin = all.begin() + i * stride_ + first();
      result.insert(result.end(), begin, begin + cols_);
    }
    return result;
  }

 private:
  [[nodiscard]] index_t first() const { return stride_ > cols_ ? 4 : 0; }

  index_t rows_;
  index_t cols_;
  index_t stride_;
  std::vector<float> values_;
  device_array<float> device_;
};

enum class product { forward, data_gradient, weight_gradient };
const std::array<product, 3> products{product::forward, product::data_gradient, product::weight_gradient};

/// c[rows, cols] of a product over `depth`, and the operands it has.
struct problem {
  product kind;
  index_t rows, cols, depth;

  [[nodiscard]] transpose transpose_a() const {
    return kind == product::weight_gradient ? transpose::yes : transpose::no;
  }
  [[nodiscard]] transpose transpose_b() const {
    return kind == product::forward ? transpose::yes : transpose::no;
  }
  [[nodiscard]] operand make_a(std::vector<float> values, index_t spare = 0) const {
    const bool t = transpose_a() == transpose::yes;
    return {t ? depth : rows, t ? rows : depth, std::move(values), spare};
  }
  [[nodiscard]] operand make_b(std::vector<float> values, index_t spare = 0) const {
    const bool t = transpose_b() == transpose::yes;
    return {t ? cols : depth, t ? depth : cols, std::move(values), spare};
  }
  [[nodiscard]] double a(const operand& from, index_t i, index_t k) const {
    return transpose_a() == transpose::yes ? from.at(k, i) : from.at(i, k);
  }
  [[nodiscard]] double b(const operand& from, index_t k, index_t j) const {
    return transpose_b() == transpose::yes ? from.at(j, k) : from.at(k, j);
  }
  [[nodiscard]] bool taken() const {
    return takes_split_matmul(transpose_a(), transpose_b(), rows, cols, depth);
  }
  void run(device_machine& gpu, const operand& a, const operand& b, const operand& c, gradient_mode mode,
           float alpha) const {
    split_matmul(gpu.main(), transpose_a(), a.view(), transpose_b(), b.view(), c.view(), mode, alpha);
  }
};

/// The exact products of some rows (at most 8 of them, the first and last too), and what errors in them
/// are measured by: sum |a| |b|.
struct reference {
  std::vector<index_t> rows;
  std::vector<double> values;
  std::vector<double> magnitudes;

  reference(const problem& p, const operand& a, const operand& b) {
    const index_t count = std::min<index_t>(p.rows, 8);
    for (index_t i = 0; i < count; ++i) rows.push_back(count == 1 ? 0 : i * (p.rows - 1) / (count - 1));
    values.resize(static_cast<std::size_t>(count * p.cols));
    magnitudes.resize(values.size());
    std::vector<double> right(static_cast<std::size_t>(p.cols));
    for (index_t k = 0; k < p.depth; ++k) {
      for (index_t j = 0; j < p.cols; ++j) right[static_cast<std::size_t>(j)] = p.b(b, k, j);
      for (index_t i = 0; i < count; ++i) {
        const double left = p.a(a, rows[static_cast<std::size_t>(i)], k);
        double* const value = values.data() + i * p.cols;
        double* const magnitude = magnitudes.data() + i * p.cols;
        for (std::size_t j = 0; j < right.size(); ++j) {
          const double term = left * right[j];
          value[j] += term;
          magnitude[j] += std::abs(term);
        }
      }
    }
  }
};

/// Errors over sum |a| |b| / sqrt(depth), which is about a result's own size.
struct errors {
  double rms = 0.0;
  double largest = 0.0;

  /// Of a result that should be before + alpha * exact.
  errors(const std::vector<float>& result, const problem& p, const reference& exact, double alpha = 1.0,
         double before = 0.0) {
    double sum = 0.0;
    for (std::size_t i = 0; i < exact.rows.size(); ++i) {
      for (index_t j = 0; j < p.cols; ++j) {
        const std::size_t at = i * static_cast<std::size_t>(p.cols) + static_cast<std::size_t>(j);
        const double value = result[static_cast<std::size_t>(exact.rows[i] * p.cols + j)];
        const double scale = std::abs(alpha) * exact.magnitudes[at] /
                                 std::sqrt(static_cast<double>(std::max<index_t>(p.depth, 1))) +
                             std::abs(before);
        const double difference = std::abs(value - before - alpha * exact.values[at]);
        const double error = difference == 0.0 ? 0.0 : difference / scale;
        sum += error * error;
        largest = std::isnan(error) ? std::numeric_limits<double>::infinity() : std::max(largest, error);
      }
    }
    rms = std::sqrt(sum / static_cast<double>(exact.values.size()));
  }
};

/// Each row of memory times a power of two between 2^-20 and 2^20, and a bit.
std::vector<float> scaled_rows(std::vector<float> values, index_t cols) {
  for (std::size_t i = 0; i < values.size(); ++i) {
    const auto row = static_cast<int>(static_cast<index_t>(i) / cols);
    values[i] = std::ldexp(values[i] * 1.1F, row * 7 % 41 - 20);
  }
  return values;
}

// {features, depth} of a forward product.
using layer = std::array<index_t, 2>;
const std::vector<layer> layers =
    under_sanitizer()
        ? std::vector<layer>{{1536, 512}, {512, 512}, {512, 2048}}
        : std::vector<layer>{{1536, 512},  {512, 512},   {2048, 512},  {512, 2048}, {32128, 512},
                             {3072, 1024}, {1024, 1024}, {4096, 1024}, {1024, 4096}};

problem product_of(product kind, index_t tokens, index_t features, index_t depth) {
  if (kind == product::forward) return {kind, tokens, features, depth};
  if (kind == product::data_gradient) return {kind, tokens, depth, features};
  return {kind, features, depth, tokens};
}

}  // namespace

TEST_CASE("cuda: split_matmul is as accurate as fp32", "[cuda]") {
  if (!has_split_gpu()) return;
  device_machine gpu;
  const product kind = GENERATE(product::forward, product::data_gradient, product::weight_gradient);
  const bool scaled = GENERATE(false, true);
  for (const auto& [features, depth] : layers) {
    for (const index_t tokens : {64, 250}) {
      const problem p = product_of(kind, tokens, features, depth);
      if (p.cols == 32128 && scaled) continue;  // long for the reference, and nothing else
      CAPTURE(static_cast<int>(kind), scaled, p.rows, p.cols, p.depth);
      auto a_values = random_elements(p.rows * p.depth, 1);
      auto b_values = random_elements(p.depth * p.cols, 2, 0.05F);
      if (scaled) {
        a_values = scaled_rows(std::move(a_values), kind == product::weight_gradient ? p.rows : p.depth);
        b_values = scaled_rows(std::move(b_values), kind == product::forward ? p.depth : p.cols);
      }
      const operand a = p.make_a(std::move(a_values));
      const operand b = p.make_b(std::move(b_values));
      const operand c(p.rows, p.cols, std::vector<float>(static_cast<std::size_t>(p.rows * p.cols), NAN));
      const operand again(p.rows, p.cols, std::vector<float>(static_cast<std::size_t>(p.rows * p.cols), NAN));
      const operand library(p.rows, p.cols,
                            std::vector<float>(static_cast<std::size_t>(p.rows * p.cols), NAN));
      p.run(gpu, a, b, c, gradient_mode::overwrite, 1.0F);
      p.run(gpu, a, b, again, gradient_mode::overwrite, 1.0F);
      t5zero::cuda::detail::library_matmul<float, float, float>(gpu.main(), p.transpose_a(), a.view(),
                                                                p.transpose_b(), b.view(), library.view(),
                                                                gradient_mode::overwrite, 1.0F);
      gpu.wait();
      const auto result = c.download();
      CHECK(same_bits(result, again.download()));
      const reference exact(p, a, b);
      const errors own(result, p, exact);
      const errors fp32(library.download(), p, exact);
      CAPTURE(own.rms, fp32.rms, own.largest, fp32.largest);
      CHECK(own.rms <= fp32.rms);
      // Of so many errors the largest are those of large results' last additions, which both have.
      CHECK(own.largest <= 1.25 * fp32.largest);
    }
  }
}

TEST_CASE("cuda: split_matmul of odd sizes, strides, alpha and accumulation", "[cuda]") {
  if (!has_split_gpu()) return;
  device_machine gpu;
  const product kind = GENERATE(product::forward, product::data_gradient, product::weight_gradient);
  const index_t spare = GENERATE(0, 12);
  const gradient_mode mode = GENERATE(gradient_mode::overwrite, gradient_mode::accumulate);
  const float alpha = GENERATE(1.0F, -0.375F);
  int taken = 0;
  for (const index_t rows : {1, 4, 7, 8, 63, 64, 65, 132}) {
    for (const index_t cols : {1, 4, 7, 8, 60, 64, 68, 132}) {
      for (const index_t depth : {0, 1, 7, 8, 31, 32, 33, 60, 64, 68, 1028}) {
        const problem p{kind, rows, cols, depth};
        if (!p.taken() || (++taken % 32 != 0 && under_sanitizer())) continue;
        CAPTURE(static_cast<int>(kind), spare, static_cast<int>(mode), alpha, rows, cols, depth);
        const operand a = p.make_a(random_elements(rows * depth, 3), spare);
        const operand b = p.make_b(random_elements(depth * cols, 4), spare);
        const float before = mode == gradient_mode::accumulate ? 2.5F : NAN;
        const std::vector<float> old(static_cast<std::size_t>(rows * cols), before);
        const operand c(rows, cols, old, spare);
        const operand again(rows, cols, old, spare);
        p.run(gpu, a, b, c, mode, alpha);
        p.run(gpu, a, b, again, mode, alpha);
        gpu.wait();
        const auto result = c.download();
        CHECK(same_bits(result, again.download()));
        const errors own(result, p, reference(p, a, b), alpha, mode == gradient_mode::accumulate ? 2.5 : 0.0);
        // A few units in the last place of the largest term; fp32 additions in any order do no better.
        CHECK(own.largest <= 2e-6);
      }
    }
  }
  CHECK(taken > 50);
}

TEST_CASE("cuda: split_matmul through a relu, in every tile and division", "[cuda]") {
  if (!has_split_gpu()) return;
  device_machine gpu;
  // Tiles that are not full, of more than 64 rows and of less.
  for (const auto& [rows, cols] : {std::array<index_t, 2>{150, 132}, std::array<index_t, 2>{36, 260}}) {
    const index_t depth = 300;
    const operand a(rows, depth, random_elements(rows * depth, 1));
    const operand b(depth, cols, random_elements(depth * cols, 2), 4);
    const auto gates = random_elements(rows * cols, 3);
    const operand activated(rows, cols, gates, 8);
    const operand plain(rows, cols, std::vector<float>(gates.size(), NAN));
    const operand c(rows, cols, std::vector<float>(gates.size(), NAN));
    for (int tile = 0; tile < static_cast<int>(t5zero::cuda::split_tiles.size()); ++tile) {
      for (int parts = 1; parts <= t5zero::cuda::split_max_parts; ++parts) {
        CAPTURE(rows, cols, tile, parts);
        const auto run = [&](const operand& to, const t5zero::cuda::relu_result& relu) {
          split_matmul(gpu.main(), transpose::no, a.view(), transpose::no, b.view(), to.view(),
                       gradient_mode::overwrite, 1.0F, {tile, parts}, relu);
        };
        run(plain, {});
        run(c, {activated.view(), 1.25F});
        gpu.wait();
        auto expected = plain.download();
        for (std::size_t i = 0; i < expected.size(); ++i)
          expected[i] = gates[i] > 0.0F ? expected[i] * 1.25F : 0.0F;
        CHECK(same_bits(c.download(), expected));
      }
    }
    CHECK_THROWS_AS(split_matmul(gpu.main(), transpose::no, a.view(), transpose::no, b.view(), c.view(),
                                 gradient_mode::accumulate, 1.0F, {}, {activated.view(), 1.0F}),
                    t5zero::contract_error);
    CHECK_THROWS_AS(split_matmul(gpu.main(), transpose::no, a.view(), transpose::no, b.view(), c.view(),
                                 gradient_mode::overwrite, 1.0F, {}, {a.view(), 1.0F}),
                    t5zero::contract_error);
  }
}

TEST_CASE("cuda: split_matmul in pieces of its depth", "[cuda]") {
  if (!has_split_gpu()) return;
  device_machine gpu;
  const product kind = GENERATE(product::forward, product::data_gradient, product::weight_gradient);
  const gradient_mode mode = GENERATE(gradient_mode::overwrite, gradient_mode::accumulate);
  const index_t spare = GENERATE(0, 12);
  if (under_sanitizer() && (mode == gradient_mode::accumulate) != (spare == 12)) return;
  const float alpha = -0.375F;
  const float before = mode == gradient_mode::accumulate ? 2.5F : NAN;
  // The last one leaves some of the pieces without any depth.
  for (const auto& [rows, cols, depth] :
       {std::array<index_t, 3>{150, 132, 1300}, std::array<index_t, 3>{36, 260, 836},
        std::array<index_t, 3>{68, 36, 40}}) {
    const problem p{kind, rows, cols, depth};
    REQUIRE((p.taken() || kind == product::weight_gradient));
    if (!p.taken()) continue;
    const operand a = p.make_a(random_elements(rows * depth, 3), spare);
    const operand b = p.make_b(random_elements(depth * cols, 4), spare);
    const reference exact(p, a, b);
    const auto gates = random_elements(rows * cols, 5);
    const operand activated(rows, cols, gates, 8);
    for (int tile = 0; tile < static_cast<int>(t5zero::cuda::split_tiles.size()); ++tile) {
      for (const int parts : {1, 2}) {
        for (const int pieces : {2, 5, 32}) {
          if (under_sanitizer() && (parts == 2) != (pieces == 5)) continue;
          CAPTURE(static_cast<int>(kind), static_cast<int>(mode), spare, rows, cols, depth, tile, parts,
                  pieces);
          const auto result_of = [&](float factor, const t5zero::cuda::relu_result& relu) {
            const operand c(rows, cols, std::vector<float>(static_cast<std::size_t>(rows * cols), before),
                            spare);
            split_matmul(gpu.main(), p.transpose_a(), a.view(), p.transpose_b(), b.view(), c.view(), mode,
                         factor, {tile, parts, pieces}, relu);
            gpu.wait();
            return c.download();
          };
          const auto result = result_of(alpha, {});
          CHECK(same_bits(result, result_of(alpha, {})));
          CHECK(errors(result, p, exact, alpha, mode == gradient_mode::accumulate ? 2.5 : 0.0).largest <=
                2e-6);
          if (mode == gradient_mode::accumulate) continue;
          auto expected = result_of(1.0F, {});
          for (std::size_t i = 0; i < expected.size(); ++i)
            expected[i] = gates[i] > 0.0F ? expected[i] * 1.25F : 0.0F;
          CHECK(same_bits(result_of(1.0F, {activated.view(), 1.25F}), expected));
        }
      }
    }
  }
  const operand a(8, 64, random_elements(8 * 64, 1));
  const operand b(64, 8, random_elements(64 * 8, 2));
  const operand c(8, 8, random_elements(64, 3));
  device_machine small(/*workspace_bytes=*/1024);
  CHECK_THROWS_AS(split_matmul(small.main(), transpose::no, a.view(), transpose::no, b.view(), c.view(),
                               gradient_mode::overwrite, 1.0F, {0, 1, 8}),
                  t5zero::contract_error);
}

// Each product reads what the one in front wrote, and all borrow the same workspace: pieces of one shape, of
// another, the library, pieces that accumulate.
TEST_CASE("cuda: products in pieces wait for each other", "[cuda]") {
  if (!has_split_gpu()) return;
  constexpr index_t rows = 120;
  constexpr index_t wide = 2048;
  constexpr index_t narrow = 512;
  const operand down(wide, narrow, random_elements(wide * narrow, 1, 0.02F));
  const operand up(narrow, wide, random_elements(narrow * wide, 2, 0.04F));
  const auto start = random_elements(rows * wide, 3);
  const auto result_of = [&](bool overlaps, bool replays) {
    device_machine gpu(index_t{64} << 20, /*allows_tf32=*/false, overlaps);
    const operand x(rows, wide, start);
    const operand y(rows, narrow, std::vector<float>(static_cast<std::size_t>(rows * narrow), NAN));
    const operand sum(rows, narrow, std::vector<float>(static_cast<std::size_t>(rows * narrow), 0.0F));
    const auto multiply = [&](const operand& a, const operand& b, const operand& c, gradient_mode mode,
                              t5zero::cuda::split_division division) {
      split_matmul(gpu.main(), transpose::no, a.view(), transpose::no, b.view(), c.view(), mode, 1.0F,
                   division);
    };
    const auto submit = [&] {
      for (int layer = 0; layer < (under_sanitizer() ? 1 : 8); ++layer) {
        multiply(x, down, y, gradient_mode::overwrite, {2, 1, 32});
        multiply(y, up, x, gradient_mode::overwrite, {0, 1, 2});
        multiply(x, down, sum, gradient_mode::accumulate, {1, 1, 16});
        t5zero::cuda::detail::library_matmul<float, float, float>(gpu.main(), transpose::no, sum.view(),
                                                                  transpose::no, up.view(), x.view(),
                                                                  gradient_mode::overwrite, 1.0F);
        multiply(x, down, y, gradient_mode::overwrite, {0, 2, 8});
        multiply(y, up, x, gradient_mode::overwrite, {2, 1, 2});
      }
    };
    if (replays) {
      const auto graph = captured(gpu, submit);
      t5zero::cuda::check(cudaGraphLaunch(graph.get(), gpu.main().stream()));
      gpu.wait();  // before the graph goes
    } else {
      submit();
      gpu.wait();
    }
    auto result = x.download();
    const auto sums = sum.download();
    result.insert(result.end(), sums.begin(), sums.end());
    return result;
  };
  const auto expected = result_of(false, false);
  CHECK(std::all_of(expected.begin(), expected.end(), [](float value) { return std::isfinite(value); }));
  for (int run = 0; run < (under_sanitizer() ? 1 : 10); ++run) {
    CHECK(same_bits(result_of(true, false), expected));
    CHECK(same_bits(result_of(true, true), expected));
  }
}

TEST_CASE("cuda: split_matmul keeps all bits of its operands, and what is not finite", "[cuda]") {
  if (!has_split_gpu()) return;
  device_machine gpu;
  for (const product kind : products) {
    // The identity times values of any exponent: exact.
    const problem p{kind, 64, 64, 64};
    std::vector<float> identity(64 * 64);
    for (std::size_t i = 0; i < 64; ++i) identity[i * 65] = 1.0F;
    auto values = random_elements(64 * 64, 5);
    for (std::size_t i = 0; i < values.size(); ++i)
      values[i] = std::ldexp(values[i], static_cast<int>(i * 13 % 181) - 80);
    const operand a = p.make_a(identity);
    const operand b = p.make_b(values);
    const operand c(64, 64, std::vector<float>(64 * 64, NAN));
    p.run(gpu, a, b, c, gradient_mode::overwrite, 1.0F);
    gpu.wait();
    const auto result = c.download();
    for (index_t i = 0; i < 64; ++i) {
      for (index_t j = 0; j < 64; ++j)
        CHECK(static_cast<double>(result[static_cast<std::size_t>(i * 64 + j)]) == p.b(b, i, j));
    }

    for (const float strange :
         {std::numeric_limits<float>::infinity(), std::numeric_limits<float>::quiet_NaN()}) {
      auto with_strange = random_elements(64 * 64, 6);
      with_strange[5 * 64 + 9] = strange;
      const operand strange_a = p.make_a(with_strange);
      const operand plain_b = p.make_b(random_elements(64 * 64, 7));
      p.run(gpu, strange_a, plain_b, c, gradient_mode::overwrite, 1.0F);
      gpu.wait();
      const auto mixed = c.download();
      const std::size_t row = kind == product::weight_gradient ? 9 : 5;
      for (std::size_t i = 0; i < mixed.size(); ++i) CHECK(std::isfinite(mixed[i]) == (i / 64 != row));
    }
  }
}

TEST_CASE("cuda: split_matmul refuses what it cannot read in quads", "[static]") {
  STATIC_REQUIRE(takes_split_matmul(transpose::no, transpose::yes, 7, 8, 8));
  STATIC_REQUIRE(takes_split_matmul(transpose::yes, transpose::no, 8, 8, 7));
  STATIC_REQUIRE(takes_split_matmul(transpose::no, transpose::no, 7, 8, 8));
  STATIC_REQUIRE_FALSE(takes_split_matmul(transpose::yes, transpose::yes, 8, 8, 8));
  STATIC_REQUIRE_FALSE(takes_split_matmul(transpose::no, transpose::yes, 8, 8, 7));
  STATIC_REQUIRE_FALSE(takes_split_matmul(transpose::no, transpose::yes, 8, 7, 8));
  STATIC_REQUIRE_FALSE(takes_split_matmul(transpose::yes, transpose::no, 7, 8, 8));
}
