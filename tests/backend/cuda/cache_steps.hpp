// Steps of a generation whose rows each add a key to a cache and attend to all that they have so far: what
// tests of early reads of keys go through.
#pragma once

#include <vector>

#include <t5zero/backend/backend.hpp>

#include "device_machine.hpp"

namespace t5zero_test {

template <t5zero::element T>
struct cache_steps {
  static constexpr index_t rows = 4;
  static constexpr index_t steps = 12;
  static constexpr index_t n_heads = 8;
  static constexpr index_t d_kv = 64;
  static constexpr index_t d_model = 512;
  static constexpr index_t inner_dim = n_heads * d_kv;
  static constexpr index_t cache_rows = rows * steps;

  cache_steps() {
    std::vector<index_t> first_keys;
    std::vector<index_t> own_places;
    std::vector<index_t> key_counts;
    for (index_t r = 0; r < rows; ++r) first_keys.push_back(r * steps);
    for (index_t step = 0; step < steps; ++step) {
      for (index_t r = 0; r < rows; ++r) {
        own_places.push_back(r * steps + step);
        key_counts.push_back(step + 1);
      }
    }
    first = on_device(first_keys);
    places = on_device(own_places);
    counts = on_device(key_counts);
  }

  /// Where the keys and values of a step's rows go.
  [[nodiscard]] const index_t* places_of(index_t step) const { return places.data() + step * rows; }
  /// Attention to what `cache` [cache_rows, 2 * inner_dim] holds by then; without a query.
  [[nodiscard]] t5zero::decode_attention_inputs<T> attention(index_t step,
                                                             const device_array<T>& cache) const {
    t5zero::decode_attention_inputs<T> in;
    in.key = {cache.data(), cache_rows, inner_dim, 2 * inner_dim};
    in.value = {cache.data() + inner_dim, cache_rows, inner_dim, 2 * inner_dim};
    in.n_heads = n_heads;
    in.d_kv = d_kv;
    in.keys.first = first.data();
    in.keys.counts = counts.data() + step * rows;
    in.keys.max_count = steps;
    return in;
  }
  /// Contexts of all steps. submit(device, step, cache, context) submits one; `overlaps`: a kernel may start
  /// while the one in front runs. The cache begins poisoned.
  template <class Submit>
  [[nodiscard]] std::vector<T> contexts(bool overlaps, const Submit& submit) const {
    device_machine device(index_t{1} << 20, /*allows_tf32=*/false, overlaps);
    const device_array<T> cache(cache_rows * 2 * inner_dim);
    const device_array<T> result(steps * rows * inner_dim);
    for (index_t step = 0; step < steps; ++step) {
      submit(device, step, cache,
             t5zero::matrix_view<T>(result.data() + step * rows * inner_dim, rows, inner_dim));
    }
    device.wait();
    return result.download();
  }

  device_array<T> norm = on_device(random_elements<T>(d_model, 2));
  device_array<T> weight = on_device(random_elements<T>(3 * inner_dim * d_model, 3, 0.02F));
  device_array<index_t> first{0}, places{0}, counts{0};
};

}  // namespace t5zero_test
