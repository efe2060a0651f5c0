// The fused products of few rows against sums in double.
#include <t5zero/backend/cuda/row_matmul.hpp>

#include <array>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "backend/cuda/device_machine.hpp"
#include "catch.hpp"

namespace {

using namespace t5zero_test;
using t5zero::element;
using t5zero::matrix_view;

constexpr float epsilon = 1e-6F;

/// a [rows, depth] weight [features, depth]^T.
template <class A, class W>
std::vector<float> product(const std::vector<A>& a, const std::vector<W>& weight, index_t rows, index_t depth,
                           index_t features) {
  std::vector<float> result;
  for (index_t r = 0; r < rows; ++r) {
    for (index_t f = 0; f < features; ++f) {
      double sum = 0.0;
      for (index_t k = 0; k < depth; ++k)
        sum += static_cast<double>(static_cast<float>(a[static_cast<std::size_t>(r * depth + k)])) *
               static_cast<double>(static_cast<float>(weight[static_cast<std::size_t>(f * depth + k)]));
      result.push_back(static_cast<float>(sum));
    }
  }
  return result;
}
template <element T>
std::vector<T> normed(const std::vector<float>& x, const std::vector<T>& weight, index_t rows) {
  const auto depth = static_cast<index_t>(weight.size());
  std::vector<T> result;
  for (index_t r = 0; r < rows; ++r) {
    double squares = 0.0;
    for (index_t k = 0; k < depth; ++k)
      squares += std::pow(static_cast<double>(x[static_cast<std::size_t>(r * depth + k)]), 2);
    const double scale = 1.0 / std::sqrt(squares / static_cast<double>(depth) + static_cast<double>(epsilon));
    for (index_t k = 0; k < depth; ++k)
      result.push_back(static_cast<T>(
          static_cast<float>(static_cast<double>(x[static_cast<std::size_t>(r * depth + k)]) * scale) *
          static_cast<float>(weight[static_cast<std::size_t>(k)])));
  }
  return result;
}
template <element T>
std::vector<T> rounded(const std::vector<float>& values) {
  std::vector<T> result;
  for (const float value : values) result.push_back(static_cast<T>(value));
  return result;
}

/// Products are of sizes around one; a sum in another order, and rounding to T, differ by this.
template <element T>
constexpr double row_tolerance = std::same_as<T, float>             ? 3e-6
                                 : std::same_as<T, t5zero::float16> ? 3e-3
                                                                    : 2.4e-2;

}  // namespace

TEMPLATE_TEST_CASE("cuda: products of few normed rows", "[cuda]", float, t5zero::float16, t5zero::bfloat16) {
  if (!has_gpu()) return;
  using T = TestType;
  device_machine gpu;
  if (!t5zero::cuda::row_clusters_work<T>(gpu.main())) return skip_test("no clusters of blocks");
  for (const auto& [depth, features] : {std::pair<index_t, index_t>{512, 1536},
                                        {512, 512},
                                        {24, 40},
                                        {136, 12},
                                        {768, 2304},
                                        {1024, 3004},
                                        {512, 9004},
                                        {24, 20004}}) {  // a block's tiles come round more than once
    for (const index_t rows : {index_t{1}, index_t{7}, index_t{8}, index_t{9}, index_t{16}}) {
      if (under_sanitizer() && rows != 7 && rows != 9) continue;
      CAPTURE(depth, features, rows);
      const auto x = random_elements(rows * depth, 1);
      const auto norm = random_elements<T>(depth, 2);
      const auto weight =
          random_elements<T>(features * depth, 3, 1.0F / std::sqrt(static_cast<float>(depth)));
      const auto expected = product(normed(x, norm, rows), weight, rows, depth, features);
      const auto d_x = on_device(x);
      const auto d_norm = on_device(norm);
      const auto d_weight = on_device(weight);
      // The last features go to other rows of a wider matrix.
      const index_t scattered = features / 3 / 4 * 4;
      const index_t own = features - scattered;
      std::vector<index_t> places;
      for (index_t r = 0; r < rows; ++r) places.push_back((r * 5 + 2) % 31);
      const auto d_places = on_device(places);
      for (const bool relu : {false, true}) {
        const device_array<T> y(rows * own);
        const device_array<T> cache(31 * (scattered + 4));
        const matrix_view<T> to = cache.matrix(31, scattered + 4).column_block(4, scattered);
        t5zero::cuda::norm_rows_matmul<T>(gpu.main(),
                                          {.x = d_x.matrix(rows, depth),
                                           .norm_weight = d_norm.vector(),
                                           .epsilon = epsilon,
                                           .weight = d_weight.matrix(features, depth),
                                           .target = {y.matrix(rows, own), relu, to, d_places.data()}});
        const auto found = y.download();
        const auto all = cache.download();
        std::vector<T> found_all;
        for (index_t r = 0; r < rows; ++r) {
          found_all.insert(found_all.end(), found.begin() + r * own, found.begin() + (r + 1) * own);
          const auto from = all.begin() + places[static_cast<std::size_t>(r)] * (scattered + 4) + 4;
          found_all.insert(found_all.end(), from, from + scattered);
        }
        auto wanted = expected;
        if (relu) {
          for (float& value : wanted) value = std::max(value, 0.0F);
        }
        CHECK(largest_difference(found_all, rounded<T>(wanted)) < row_tolerance<T>);
      }
      const device_array<float> logits(rows * features);
      const device_array<float> again(rows * features);
      for (const auto* to : {&logits, &again}) {
        t5zero::cuda::norm_rows_logits<T>(gpu.main(), {.x = d_x.matrix(rows, depth),
                                                       .norm_weight = d_norm.vector(),
                                                       .epsilon = epsilon,
                                                       .weight = d_weight.matrix(features, depth),
                                                       .scale = 0.5F,
                                                       .y = to->matrix(rows, features)});
      }
      auto wanted = expected;
      for (float& value : wanted) value *= 0.5F;
      CHECK(largest_difference(logits.download(), wanted) < row_tolerance<T>);
      CHECK(same_bits(logits.download(), again.download()));
    }
  }
}

TEMPLATE_TEST_CASE("cuda: products of few rows join the residual stream", "[cuda]", float, t5zero::float16,
                   t5zero::bfloat16) {
  if (!has_gpu()) return;
  using T = TestType;
  device_machine gpu;
  if (!t5zero::cuda::row_clusters_work<T>(gpu.main())) return skip_test("no clusters of blocks");
  for (const auto& [depth, features] : {std::pair<index_t, index_t>{512, 512},
                                        {2048, 512},
                                        {64, 24},
                                        {520, 40},
                                        {3072, 768},
                                        {4096, 1024},
                                        {2824, 512}}) {
    for (const index_t rows : {index_t{1}, index_t{7}, index_t{8}, index_t{9}, index_t{16}}) {
      if (under_sanitizer() && rows != 7 && rows != 9) continue;
      CAPTURE(depth, features, rows);
      const auto a = random_elements<T>(rows * depth, 4);
      const auto weight =
          random_elements<T>(features * depth, 5, 1.0F / std::sqrt(static_cast<float>(depth)));
      const auto x = random_elements(rows * features, 6);
      auto expected = product(a, weight, rows, depth, features);
      auto chained = expected;
      for (std::size_t i = 0; i < x.size(); ++i) {
        chained[i] = x[i] + 3 * expected[i];
        expected[i] += x[i];
      }
      const auto d_a = on_device(a);
      const auto d_weight = on_device(weight);
      const auto d_x = on_device(x);
      const std::array<device_array<float>, 2> out{device_array<float>(rows * features),
                                                   device_array<float>(rows * features)};
      // A chain, as a step is one: each adds to what the one in front wrote, and may start before that has
      // ended.
      for (std::size_t i = 0; i < 3; ++i) {
        t5zero::cuda::rows_residual<T>(gpu.main(),
                                       {.a = d_a.matrix(rows, depth),
                                        .weight = d_weight.matrix(features, depth),
                                        .x = (i == 0 ? d_x : out[(i + 1) % 2]).matrix(rows, features),
                                        .out = out[i % 2].matrix(rows, features),
                                        .overlap = i == 0 ? t5zero::cuda::launch_overlap::none
                                                          : t5zero::cuda::launch_overlap::previous});
      }
      CHECK(largest_difference(out[0].download(), chained) < 3 * 6e-6);
      t5zero::cuda::rows_residual<T>(gpu.main(), {.a = d_a.matrix(rows, depth),
                                                  .weight = d_weight.matrix(features, depth),
                                                  .x = d_x.matrix(rows, features),
                                                  .out = out[1].matrix(rows, features),
                                                  .overlap = t5zero::cuda::launch_overlap::none});
      CHECK(largest_difference(out[1].download(), expected) < 6e-6);
    }
  }
}

TEST_CASE("cuda: products of few rows refuse a depth that no cluster takes", "[cuda]") {
  if (!has_gpu()) return;
  device_machine gpu;
  const device_array<float> memory(8 * 4104);
  const auto add = [&](index_t depth) {
    t5zero::cuda::rows_residual<float>(gpu.main(), {.a = memory.matrix(1, depth),
                                                    .weight = memory.matrix(4, depth),
                                                    .x = memory.matrix(1, 4),
                                                    .out = memory.matrix(1, 4),
                                                    .overlap = t5zero::cuda::launch_overlap::none});
  };
  CHECK(!t5zero::cuda::multiplies_rows(4104, 4, /*is_normed=*/false));
  CHECK_THROWS_AS(add(4104), t5zero::contract_error);
}

TEST_CASE("cuda: products of few rows with what is not finite, and at the ends of fp32", "[cuda]") {
  if (!has_gpu()) return;
  device_machine gpu;
  if (!t5zero::cuda::row_clusters_work<float>(gpu.main())) return skip_test("no clusters of blocks");
  constexpr float infinity = std::numeric_limits<float>::infinity();
  constexpr float largest = 0x1.ffdp127F;  // that TF32 does not round to infinity
  constexpr float tiny = std::numeric_limits<float>::denorm_min();
  const index_t depth = 24;
  const std::vector<float> values = {1.0F, std::nanf(""), infinity, largest, tiny};
  const auto rows = static_cast<index_t>(values.size());
  std::vector<float> a(static_cast<std::size_t>(rows * depth), 0.0F);
  for (index_t r = 0; r < rows; ++r)
    a[static_cast<std::size_t>(r * depth + 5)] = values[static_cast<std::size_t>(r)];
  const auto d_a = on_device(a);
  const auto d_weight = on_device(std::vector<float>(static_cast<std::size_t>(4 * depth), 1.0F));
  const auto d_x = on_device(std::vector<float>(static_cast<std::size_t>(rows * 4), 0.0F));
  const device_array<float> out(rows * 4);
  t5zero::cuda::rows_residual<float>(gpu.main(), {.a = d_a.matrix(rows, depth),
                                                  .weight = d_weight.matrix(4, depth),
                                                  .x = d_x.matrix(rows, 4),
                                                  .out = out.matrix(rows, 4),
                                                  .overlap = t5zero::cuda::launch_overlap::none});
  const auto found = out.download();
  CHECK(found[0] == 1.0F);
  CHECK(std::isnan(found[4]));
  CHECK(std::isnan(found[8]));  // row_matmul.hpp says so
  CHECK(found[12] == largest);
  CHECK(std::abs(found[16]) <= tiny);
}
