#include <t5zero/backend/cpu/matmul.hpp>

#include <cmath>
#include <random>
#include <vector>

#include "catch.hpp"

using namespace t5zero;  // NOLINT(google-build-using-namespace)

namespace {

struct harness {
  explicit harness(int threads)
      : pool(threads),
        workspace(static_cast<std::size_t>(cpu::matmul_workspace_bytes(threads)) + 64),
        stream(pool, aligned(workspace.data()), cpu::matmul_workspace_bytes(threads)) {}
  static std::byte* aligned(std::byte* p) { return p + (64 - reinterpret_cast<std::uintptr_t>(p) % 64) % 64; }
  cpu::thread_pool pool;
  std::vector<std::byte> workspace;
  cpu::execution stream;
};

template <class T>
std::vector<T> random_values(index_t count, unsigned seed) {
  std::mt19937 generator(seed);
  std::uniform_real_distribution<float> uniform(-1.0F, 1.0F);
  std::vector<T> values(static_cast<std::size_t>(count));
  for (T& value : values) value = static_cast<T>(uniform(generator));
  return values;
}

/// Largest |c - reference| / (sum of |products|), over all elements.
template <class A, class B, class C>
double worst_error(harness& h, transpose ta, transpose tb, index_t m, index_t n, index_t k,
                   gradient_mode mode, std::vector<C>* out = nullptr) {
  const index_t a_rows = ta == transpose::no ? m : k;
  const index_t a_cols = ta == transpose::no ? k : m;
  const index_t b_rows = tb == transpose::no ? k : n;
  const index_t b_cols = tb == transpose::no ? n : k;
  const index_t pad = 3;  // strides larger than the width
  const auto a = random_values<A>(a_rows * (a_cols + pad), 1);
  const auto b = random_values<B>(b_rows * (b_cols + pad), 2);
  auto c = random_values<C>(m * (n + pad), 3);
  const auto before = c;
  const matrix_view<const A> va(a.data(), a_rows, a_cols, a_cols + pad);
  const matrix_view<const B> vb(b.data(), b_rows, b_cols, b_cols + pad);
  const matrix_view<C> vc(c.data(), m, n, n + pad);
  cpu::matmul<A, B, C>(h.stream, ta, va, tb, vb, vc, mode, 0.5F);
  double worst = 0.0;
  for (index_t i = 0; i < m; ++i) {
    for (index_t j = 0; j < n + pad; ++j) {
      const auto at = static_cast<std::size_t>(i * (n + pad) + j);
      if (j >= n) {
        if (!(c[at] == before[at])) worst = 1e9;  // wrote past the row
        continue;
      }
      double sum = 0.0;
      double magnitude = 1.0;
      for (index_t l = 0; l < k; ++l) {
        const double x = static_cast<float>(ta == transpose::no ? va(i, l) : va(l, i));
        const double y = static_cast<float>(tb == transpose::no ? vb(l, j) : vb(j, l));
        sum += 0.5 * x * y;
        magnitude += std::abs(0.5 * x * y);
      }
      if (mode == gradient_mode::accumulate) sum += static_cast<float>(before[at]);
      worst = std::max(worst, std::abs(static_cast<float>(c[at]) - sum) / magnitude);
    }
  }
  if (out != nullptr) *out = c;
  return worst;
}

}  // namespace

TEMPLATE_TEST_CASE("matmul agrees with a double product", "", (std::tuple<float, float, float>),
                   (std::tuple<float16, float16, float16>), (std::tuple<float16, float16, float>),
                   (std::tuple<bfloat16, bfloat16, bfloat16>), (std::tuple<float, float16, float>)) {
  using a_type = std::tuple_element_t<0, TestType>;
  using b_type = std::tuple_element_t<1, TestType>;
  using c_type = std::tuple_element_t<2, TestType>;
  harness h(2);
  const double tolerance = std::is_same_v<c_type, float>     ? 1e-6
                           : std::is_same_v<c_type, float16> ? 1e-3
                                                             : 8e-3;
  const index_t sizes[][3] = {{1, 1, 1},    {1, 33, 7},     {11, 31, 16},   {12, 32, 384}, {13, 65, 385},
                              {25, 64, 15}, {61, 130, 800}, {1000, 20, 33}, {5, 7, 0}};
  for (const auto& size : sizes) {
    for (const transpose ta : {transpose::no, transpose::yes}) {
      for (const transpose tb : {transpose::no, transpose::yes}) {
        for (const gradient_mode mode : {gradient_mode::overwrite, gradient_mode::accumulate}) {
          CAPTURE(size[0], size[1], size[2], ta == transpose::yes, tb == transpose::yes);
          CHECK(worst_error<a_type, b_type, c_type>(h, ta, tb, size[0], size[1], size[2], mode) < tolerance);
        }
      }
    }
  }
}

TEST_CASE("matmul gives the same bits with any number of threads") {
  std::vector<float> expected;
  std::vector<float> result;
  harness one(1);
  worst_error<float, float, float>(one, transpose::no, transpose::yes, 77, 211, 1000,
                                   gradient_mode::overwrite, &expected);
  for (const int threads : {2, 3, 5}) {
    harness many(threads);
    worst_error<float, float, float>(many, transpose::no, transpose::yes, 77, 211, 1000,
                                     gradient_mode::overwrite, &result);
    CHECK(result == expected);
  }
}
