// The order of training examples: that of accelerate's seedable sampler, which is torch.randperm.
#pragma once

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

}  // namespace t5zero
