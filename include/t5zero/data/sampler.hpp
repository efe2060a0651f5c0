// The order of training examples: that of accelerate's seedable sampler, which is torch.randperm.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <numeric>
#include <random>
#include <utility>
#include <vector>

#include <t5zero/core/integers.hpp>

namespace t5zero {

/// Epoch `epoch` (from 0) of n examples: mt19937 seeded with seed + epoch, plain modulo, n - 1 draws.
[[nodiscard]] inline std::vector<index_t> epoch_order(index_t n, std::uint32_t seed, std::uint32_t epoch) {
  std::vector<index_t> order(static_cast<std::size_t>(n));
  std::iota(order.begin(), order.end(), index_t{0});
  std::mt19937 generator(seed + epoch);
  for (index_t i = 0; i + 1 < n; ++i) {
    const index_t other = i + static_cast<index_t>(generator() % static_cast<std::uint64_t>(n - i));
    std::swap(order[static_cast<std::size_t>(i)], order[static_cast<std::size_t>(other)]);
  }
  return order;
}

/// Hugging Face's group_by_length (LengthGroupedSampler): the shuffled order in groups of up to 50 batches,
/// each group from long to short, the longest example of all first, so that too little memory shows at once.
/// lengths: tokens of each example. batch: sentences of an update on one rank, at least 1.
[[nodiscard]] inline std::vector<index_t> length_grouped_order(const std::vector<index_t>& lengths,
                                                               index_t batch, std::uint32_t seed,
                                                               std::uint32_t epoch) {
  const auto n = static_cast<index_t>(lengths.size());
  std::vector<index_t> order = epoch_order(n, seed, epoch);
  const index_t batches_of_group = std::max<index_t>(1, std::min<index_t>(n / (4 * batch), 50));
  const index_t group = batches_of_group * batch;
  const auto length = [&](index_t example) { return lengths[static_cast<std::size_t>(example)]; };
  std::ptrdiff_t longest = 0;
  for (index_t first = 0; first < n; first += group) {
    const auto begin = order.begin() + first;
    std::stable_sort(begin, order.begin() + std::min(n, first + group),
                     [&](index_t a, index_t b) { return length(a) > length(b); });
    if (length(*begin) > length(order[static_cast<std::size_t>(longest)])) longest = first;
  }
  if (n > 0) std::swap(order[0], order[static_cast<std::size_t>(longest)]);
  return order;
}

}  // namespace t5zero
