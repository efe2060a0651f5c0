// The batches of a training, known before it begins: their order is a function of the seed.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include <t5zero/core/integers.hpp>
#include <t5zero/data/batcher.hpp>
#include <t5zero/data/sampler.hpp>
#include <t5zero/plan/batch_shape.hpp>
#include <t5zero/train/loop_options.hpp>
#include <t5zero/train/step_arithmetic.hpp>

namespace t5zero {

/// The order of the examples of an epoch, counted from 0.
[[nodiscard]] inline std::vector<index_t> order_of_epoch(const tokenized_dataset& data,
                                                         const loop_options& options, index_t epoch) {
  const auto of_seed = static_cast<std::uint32_t>(epoch);
  if (!options.groups_by_length) return epoch_order(data.size(), options.order_seed, of_seed);
  std::vector<index_t> lengths;
  for (index_t i = 0; i < data.size(); ++i) lengths.push_back(static_cast<index_t>(data.source(i).size()));
  return length_grouped_order(lengths, options.batch_size * options.gradient_accumulation, options.order_seed,
                              of_seed);
}

/// So many examples are looked at to plan for them; the orders of a longer training count as any order.
inline constexpr index_t planned_examples = index_t{1} << 24;

/// Holds every batch of `updates` updates, and at least one batch, from the first of epoch `first_epoch` on:
/// what memory is planned for. Any order would need room for the longest examples together.
[[nodiscard]] inline batch_shape largest_coming_batch(const tokenized_dataset& data,
                                                      const loop_options& options,
                                                      const step_arithmetic& steps, index_t first_epoch,
                                                      index_t updates) {
  if (ceil_div(updates, steps.updates_per_epoch) > ceil_div(planned_examples, data.size()))
    return data.largest_batch_of_any_order(options.batch_size, options.padding);
  batch_shape largest;
  index_t done = 0;
  for (index_t epoch = first_epoch; epoch == first_epoch || done < updates; ++epoch) {
    const std::vector<index_t> order = order_of_epoch(data, options, epoch);
    for (index_t batch = 0; batch < steps.batches_per_epoch; ++batch) {
      const index_t first = batch * options.batch_size;
      const index_t count = std::min(options.batch_size, data.size() - first);
      largest = largest.covering(data.shape_of(
          std::span(order).subspan(static_cast<std::size_t>(first), static_cast<std::size_t>(count)),
          options.padding));
      if ((batch + 1) % options.gradient_accumulation != 0 && batch + 1 < steps.batches_per_epoch) continue;
      if (++done >= updates) return largest;
    }
  }
  return largest;
}

}  // namespace t5zero
