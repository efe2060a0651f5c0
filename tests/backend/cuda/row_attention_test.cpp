// Few rows' products and attention in one launch against the two launches that it stands for.
#include <algorithm>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <vector>

#include <t5zero/backend/cuda/operations.hpp>
#include <t5zero/backend/cuda/row_attention.hpp>
#include <t5zero/backend/cuda/row_matmul.hpp>

#include "cache_steps.hpp"
#include "catch.hpp"
#include "device_machine.hpp"

namespace {

using namespace t5zero;
using namespace t5zero_test;

constexpr float epsilon = 1e-6F;

/// counts: keys of each row; with adds_keys the last one is its own. The same bits.
template <element T>
void compare(const std::vector<index_t>& counts, index_t n_heads, index_t d_kv, index_t d_model,
             bool adds_keys) {
  const auto rows = static_cast<index_t>(counts.size());
  const index_t inner_dim = n_heads * d_kv;
  const index_t most = *std::max_element(counts.begin(), counts.end());
  const index_t cache_rows = rows * most + 1;
  const index_t features = (adds_keys ? 3 : 1) * inner_dim;
  // Ranges of keys that beams share, or a table of keys all over the cache, and the last of each row its own.
  std::vector<index_t> first;
  std::vector<index_t> table(static_cast<std::size_t>(rows * most));
  std::vector<index_t> own;
  for (index_t r = 0; r < rows; ++r) {
    const index_t count = counts[static_cast<std::size_t>(r)];
    first.push_back(r / 2 * most);
    for (index_t i = 0; i < most; ++i)
      table[static_cast<std::size_t>(r * most + i)] = rows + (r * 31 + i * 17) % (cache_rows - rows);
    own.push_back(r);
    if (count > 0) table[static_cast<std::size_t>(r * most + count - 1)] = r;
  }
  const auto x = on_device(random_elements(rows * d_model, 1));
  const auto norm = on_device(random_elements<T>(d_model, 2));
  const auto weight = on_device(random_elements<T>(features * d_model, 3, 0.05F));
  const auto bias = on_device(random_elements<T>(32 * n_heads, 5));
  const auto before = random_elements<T>(cache_rows * 2 * inner_dim, 4);
  auto cache = on_device(before);
  const auto device_first = on_device(first);
  const auto device_table = on_device(table);
  const auto device_own = on_device(own);
  const auto device_counts = on_device(counts);
  decode_attention_inputs<T> attention;
  attention.key = {cache.data(), cache_rows, inner_dim, 2 * inner_dim};
  attention.value = {cache.data() + inner_dim, cache_rows, inner_dim, 2 * inner_dim};
  attention.n_heads = n_heads;
  attention.d_kv = d_kv;
  attention.relative_bias = adds_keys ? bias.data() : nullptr;
  attention.keys.first = adds_keys ? nullptr : device_first.data();
  attention.keys.table = adds_keys ? device_table.data() : nullptr;
  attention.keys.stride = most;
  attention.keys.counts = device_counts.data();
  attention.keys.max_count = most;
  REQUIRE(cuda::attends_with_rows(rows, d_model, adds_keys, attention));
  const cuda::rows_cache<T> to{cache.matrix(cache_rows, 2 * inner_dim), device_own.data()};

  device_machine device;
  const device_array<T> query(rows * inner_dim);
  device_array<T> context(rows * inner_dim);
  auto apart = attention;
  apart.query = query.matrix(rows, inner_dim);
  apart.early = adds_keys ? early_keys::all_but_last : early_keys::none;
  cuda::norm_rows_matmul_arguments<T> projection{.x = x.matrix(rows, d_model),
                                                 .norm_weight = norm.vector(),
                                                 .epsilon = epsilon,
                                                 .weight = weight.matrix(features, d_model),
                                                 .target = {.y = query.matrix(rows, inner_dim)},
                                                 .overlap = cuda::launch_overlap::none};
  if (adds_keys) {
    projection.target.scattered = to.data;
    projection.target.scattered_rows = to.rows;
  }
  cuda::norm_rows_matmul<T>(device.main(), projection);
  cuda::operations<T>::decode_attention(device.main(), apart, context.matrix(rows, inner_dim));
  const auto expected = context.download();
  const auto expected_cache = cache.download();
  for (const bool overlaps : {false, true}) {
    cache.upload(before);
    context.upload(std::vector<T>(expected.size()));
    for (int i = 0; i < (overlaps ? 3 : 1); ++i) {
      cuda::norm_rows_attention<T>(device.main(), {.x = x.matrix(rows, d_model),
                                                   .norm_weight = norm.vector(),
                                                   .epsilon = epsilon,
                                                   .weight = weight.matrix(features, d_model),
                                                   .cache = adds_keys ? to : cuda::rows_cache<T>{},
                                                   .attention = attention,
                                                   .context = context.matrix(rows, inner_dim),
                                                   .overlap = overlaps ? cuda::overlap_of(device.main())
                                                                       : cuda::launch_overlap::none});
    }
    CHECK(same_bits(context.download(), expected));
    CHECK(same_bits(cache.download(), expected_cache));
  }
}

}  // namespace

TEMPLATE_TEST_CASE("cuda: the attention of few rows with their products", "", float, float16, bfloat16) {
  if (!has_gpu()) return;
  if (!cuda::row_clusters_work<TestType>(device_machine().main())) return skip_test("no clusters of blocks");
  const index_t d_kv = GENERATE(8, 24, 64, 72, 128);
  const index_t d_model = GENERATE(136, 512, 1024);
  const bool adds_keys = GENERATE(false, true);
  if (adds_keys && (std::same_as<TestType, float> || d_model > 512)) return;  // two launches are faster
  if (under_sanitizer() && (d_kv == 8 || d_kv == 72 || d_model == 1024)) return;
  CAPTURE(d_kv, d_model, adds_keys);
  compare<TestType>({40}, 3, d_kv, d_model, adds_keys);
  compare<TestType>({1}, 2, d_kv, d_model, adds_keys);
  compare<TestType>({40, 7, 2, 130}, 2, d_kv, d_model, adds_keys);
  compare<TestType>({1, 64, 33, 256, 2, 65, 18, 17}, 8, d_kv, d_model, adds_keys);
  if (!adds_keys) compare<TestType>({5, 0, 17}, 2, d_kv, d_model, adds_keys);
}

TEMPLATE_TEST_CASE("cuda: the attention of few rows reads keys of steps before while others run", "", float16,
                   bfloat16) {
  if (!has_gpu()) return;
  if (!cuda::row_clusters_work<TestType>(device_machine().main())) return skip_test("no clusters of blocks");
  using steps_type = cache_steps<TestType>;
  constexpr index_t rows = steps_type::rows;
  constexpr index_t d_model = steps_type::d_model;
  constexpr index_t inner_dim = steps_type::inner_dim;
  const steps_type all;
  const auto table = on_device(random_elements<TestType>(32 * d_model, 1));
  std::vector<std::int32_t> ids;
  for (index_t step = 0; step < steps_type::steps; ++step)
    for (index_t r = 0; r < rows; ++r) ids.push_back(static_cast<std::int32_t>((step * 7 + r) % 32));
  const auto device_ids = on_device(ids);
  const device_array<float> x(rows * d_model);
  // A decoder of one layer: nothing but the embedding lies between two steps.
  const auto contexts = [&](bool overlaps) {
    return all.contexts(overlaps, [&](device_machine& device, index_t step, const auto& cache,
                                      matrix_view<TestType> context) {
      cuda::rows_embedding<TestType>(device.main(), {.ids = device_ids.data() + step * rows,
                                                     .table = table.matrix(32, d_model),
                                                     .out = x.matrix(rows, d_model),
                                                     .overlap = cuda::overlap_of(device.main())});
      cuda::norm_rows_attention<TestType>(
          device.main(), {.x = x.matrix(rows, d_model),
                          .norm_weight = all.norm.vector(),
                          .epsilon = epsilon,
                          .weight = all.weight.matrix(3 * inner_dim, d_model),
                          .cache = {cache.matrix(steps_type::cache_rows, 2 * inner_dim), all.places_of(step)},
                          .attention = all.attention(step, cache),
                          .context = context,
                          .overlap = cuda::overlap_of(device.main())});
    });
  };
  const auto expected = contexts(false);
  for (int i = 0; i < 3; ++i) CHECK(same_bits(contexts(true), expected));
}

TEST_CASE("cuda: the attention of few rows in one launch refuses what it does not take") {
  if (!has_gpu()) return;
  if (!cuda::row_clusters_work<float>(device_machine().main())) return skip_test("no clusters of blocks");
  device_machine device;
  const device_array<float> memory(16 * 512);
  const device_array<index_t> counts(8);
  const auto refuses = [&](const auto& change) {
    cuda::norm_rows_attention_arguments<float> in;
    in.x = memory.matrix(8, 512);
    in.norm_weight = {memory.data(), 512};
    in.weight = memory.matrix(16, 512);
    in.attention.key = in.attention.value = memory.matrix(8, 16);
    in.attention.n_heads = 1;
    in.attention.d_kv = 16;
    in.attention.keys.first = counts.data();
    in.attention.keys.max_count = 0;
    in.context = memory.matrix(8, 16);
    change(in);
    try {
      cuda::norm_rows_attention(device.main(), in);
    } catch (const contract_error&) {
      return true;
    }
    device.wait();
    return false;
  };
  CHECK_FALSE(refuses([](auto&) {}));
  CHECK(refuses([&](auto& in) { in.x.rows = in.context.rows = 9; }));
  CHECK(refuses([&](auto& in) { in.attention.keys.max_count = cuda::most_attended_keys + 1; }));
  CHECK(refuses([&](auto& in) { in.attention.key.stride += 2; }));
  CHECK(refuses([&](auto& in) { in.context.data += 2; }));
  CHECK(refuses([&](auto& in) { in.attention.relative_bias = memory.data(); }));
  CHECK(refuses([&](auto& in) { in.weight.rows = 32; }));
  CHECK(refuses([&](auto& in) { in.norm_weight.size = 256; }));
  CHECK(refuses([&](auto& in) {  // with a cache, but fp32
    in.weight.rows = 48;
    in.cache = {memory.matrix(8, 32), counts.data()};
  }));
}
