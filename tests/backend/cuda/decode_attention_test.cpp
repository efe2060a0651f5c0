#include <algorithm>
#include <cmath>
#include <concepts>
#include <cstddef>
#include <vector>

#include <t5zero/backend/cpu/decode_attention.hpp>
#include <t5zero/backend/cuda/operations.hpp>
#include <t5zero/backend/cuda/row_matmul.hpp>

#include "cache_steps.hpp"
#include "catch.hpp"
#include "device_machine.hpp"
#include "host_machine.hpp"

namespace {

using namespace t5zero;
using namespace t5zero_test;

enum class keys_by { table, range };

template <element T>
constexpr double decode_tolerance = std::same_as<T, float>     ? 1e-5
                                    : std::same_as<T, float16> ? 2e-3
                                                               : 1.6e-2;

template <element T>
void compare(const std::vector<index_t>& counts, index_t n_heads, index_t d_kv, keys_by by, bool has_bias,
             bool counts_differ) {
  const auto rows = static_cast<index_t>(counts.size());
  const index_t inner_dim = n_heads * d_kv;
  const index_t max_count = *std::max_element(counts.begin(), counts.end());
  const index_t cache_rows = rows * max_count + 3;
  const index_t stride = 2 * inner_dim;  // keys and values are columns of one buffer
  const index_t table_stride = max_count + 5;
  const auto query = random_elements<T>(rows * inner_dim, 1, 1.0F / std::sqrt(static_cast<float>(d_kv)));
  const auto cache = random_elements<T>(cache_rows * stride, 2);
  const auto bias = random_elements<T>(32 * n_heads, 3);
  std::vector<index_t> table(static_cast<std::size_t>(rows * table_stride));
  for (std::size_t i = 0; i < table.size(); ++i)
    table[i] = static_cast<index_t>(i * 7919 % static_cast<std::size_t>(cache_rows));
  std::vector<index_t> first(counts.size());
  for (index_t r = 0; r < rows; ++r) first[static_cast<std::size_t>(r)] = r / 2 * max_count;  // beams share
  const auto device_query = on_device(query);
  const auto device_cache = on_device(cache);
  const auto device_bias = on_device(bias);
  const auto device_table = on_device(table);
  const auto device_first = on_device(first);
  const auto device_counts = on_device(counts);

  const auto inputs = [&](const T* q, const T* kv, const T* b, const index_t* t, const index_t* f,
                          const index_t* n) {
    decode_attention_inputs<T> in;
    in.query = {q, rows, inner_dim};
    in.key = {kv, cache_rows, inner_dim, stride};
    in.value = {kv + inner_dim, cache_rows, inner_dim, stride};
    in.relative_bias = has_bias ? b : nullptr;
    in.n_heads = n_heads;
    in.d_kv = d_kv;
    in.keys.table = by == keys_by::table ? t : nullptr;
    in.keys.stride = table_stride;
    in.keys.first = by == keys_by::range ? f : nullptr;
    in.keys.counts = counts_differ ? n : nullptr;
    in.keys.max_count = max_count;
    return in;
  };
  host_machine host;
  std::vector<T> expected(query.size());
  cpu::decode_attention<T>(
      host.main(), inputs(query.data(), cache.data(), bias.data(), table.data(), first.data(), counts.data()),
      {expected.data(), rows, inner_dim});
  // A row without keys has none to weigh.
  for (index_t r = 0; r < rows; ++r) {
    if (counts_differ && counts[static_cast<std::size_t>(r)] == 0)
      std::fill_n(expected.begin() + r * inner_dim, inner_dim, T{});
  }

  device_machine device;
  const device_array<T> context(rows * inner_dim);
  auto in = inputs(device_query.data(), device_cache.data(), device_bias.data(), device_table.data(),
                   device_first.data(), device_counts.data());
  cuda::operations<T>::decode_attention(device.main(), in, context.matrix(rows, inner_dim));
  const auto got = context.download();
  CHECK(largest_difference(got, expected) < decode_tolerance<T>);
  cuda::operations<T>::decode_attention(device.main(), in, context.matrix(rows, inner_dim));
  CHECK(same_bits(got, context.download()));
  // Keys that are read while the kernel in front still runs.
  in.early = t5zero::early_keys::all;
  for (int i = 0; i < 3; ++i) {
    cuda::operations<T>::decode_attention(device.main(), in, context.matrix(rows, inner_dim));
  }
  CHECK(same_bits(got, context.download()));
  in.early = t5zero::early_keys::all_but_last;  // the last one has then another place in the sum
  for (int i = 0; i < 3; ++i) {
    cuda::operations<T>::decode_attention(device.main(), in, context.matrix(rows, inner_dim));
  }
  CHECK(largest_difference(context.download(), expected) < decode_tolerance<T>);
}

}  // namespace

TEMPLATE_TEST_CASE("cuda decode attention over a beam's ancestors", "", float, float16, bfloat16) {
  if (!has_gpu()) return;
  const index_t length = GENERATE(1, 2, 3, 15, 16, 17, 64, 65, 128, 200, 257, 300);
  CAPTURE(length);
  compare<TestType>(std::vector<index_t>(4, length), 2, 64, keys_by::table, /*has_bias=*/true,
                    /*counts_differ=*/false);
}

TEMPLATE_TEST_CASE("cuda decode attention over ranges of different lengths", "", float, float16, bfloat16) {
  if (!has_gpu()) return;
  const bool has_bias = GENERATE(false, true);
  const keys_by by = GENERATE(keys_by::range, keys_by::table);
  compare<TestType>({40, 7, 0, 130, 1, 64}, 3, 64, by, has_bias, /*counts_differ=*/true);
  compare<TestType>({1000, 3, 512}, 1, 64, by, has_bias, /*counts_differ=*/true);
}

TEMPLATE_TEST_CASE("cuda decode attention with heads of any width", "", float, float16, bfloat16) {
  if (!has_gpu()) return;
  const index_t d_kv = GENERATE(8, 16, 24, 40, 72, 96, 128);
  CAPTURE(d_kv);
  compare<TestType>({33, 5}, 3, d_kv, keys_by::range, /*has_bias=*/true, /*counts_differ=*/true);
}

TEMPLATE_TEST_CASE("cuda decode attention reads keys while the product that writes the last one runs", "",
                   float, float16, bfloat16) {
  if (!has_gpu()) return;
  if (!cuda::row_clusters_work<TestType>(device_machine().main())) return skip_test("no clusters of blocks");
  using steps_type = cache_steps<TestType>;
  constexpr index_t rows = steps_type::rows;
  constexpr index_t d_model = steps_type::d_model;
  constexpr index_t inner_dim = steps_type::inner_dim;
  const steps_type all;
  const auto x = on_device(random_elements(steps_type::steps * rows * d_model, 1));
  const device_array<TestType> query(rows * inner_dim);
  const auto contexts = [&](bool overlaps) {
    return all.contexts(overlaps, [&](device_machine& device, index_t step, const auto& cache,
                                      matrix_view<TestType> context) {
      cuda::norm_rows_matmul<TestType>(
          device.main(), {.x = {x.data() + step * rows * d_model, rows, d_model},
                          .norm_weight = all.norm.vector(),
                          .epsilon = 1e-6F,
                          .weight = all.weight.matrix(3 * inner_dim, d_model),
                          .target = {.y = query.matrix(rows, inner_dim),
                                     .scattered = cache.matrix(steps_type::cache_rows, 2 * inner_dim),
                                     .scattered_rows = all.places_of(step)},
                          .overlap = cuda::overlap_of(device.main())});
      auto in = all.attention(step, cache);
      in.query = query.matrix(rows, inner_dim);
      in.early = early_keys::all_but_last;
      cuda::operations<TestType>::decode_attention(device.main(), in, context);
    });
  };
  const auto expected = contexts(false);
  for (int i = 0; i < 3; ++i) CHECK(same_bits(contexts(true), expected));
}

TEMPLATE_TEST_CASE("cuda scatter_rows", "", float, float16, bfloat16) {
  if (!has_gpu()) return;
  const index_t count = GENERATE(1, 3, 64);
  const index_t cols = GENERATE(8, 64, 520);
  const index_t cache_rows = 2 * count + 1;
  const auto from = random_elements<TestType>(count * cols * 2, 1);
  std::vector<index_t> rows(static_cast<std::size_t>(count));
  for (index_t t = 0; t < count; ++t) rows[static_cast<std::size_t>(t)] = 2 * (count - 1 - t) + 1;
  auto expected = random_elements<TestType>(cache_rows * cols, 2);
  const auto device_from = on_device(from);
  const auto device_rows = on_device(rows);
  const auto to = on_device(expected);
  device_machine device;
  // Columns of a wider matrix.
  cuda::operations<TestType>::scatter_rows(device.main(), {device_from.data() + cols, count, cols, 2 * cols},
                                           device_rows.data(), to.matrix(cache_rows, cols));
  for (index_t t = 0; t < count; ++t) {
    std::copy_n(from.begin() + t * 2 * cols + cols, cols,
                expected.begin() + rows[static_cast<std::size_t>(t)] * cols);
  }
  CHECK(same_bits(to.download(), expected));
}
