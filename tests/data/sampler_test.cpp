// Orders of examples.
#include <t5zero/data/sampler.hpp>

#include <algorithm>
#include <numeric>
#include <vector>

#include "catch.hpp"

using t5zero::index_t;

TEST_CASE("grouped by length: a permutation, groups from long to short, the longest first", "[data]") {
  std::vector<index_t> lengths(1003);
  for (std::size_t i = 0; i < lengths.size(); ++i) lengths[i] = static_cast<index_t>(i * 7919 % 211);
  lengths[700] = 1000;
  const auto order = t5zero::length_grouped_order(lengths, 8, 42, 3);
  auto sorted = order;
  std::sort(sorted.begin(), sorted.end());
  std::vector<index_t> all(lengths.size());
  std::iota(all.begin(), all.end(), index_t{0});
  CHECK(sorted == all);
  CHECK(order[0] == 700);
  // min(1003 / 32, 50) = 31 batches of 8: groups of 248. Only the heads of two groups were exchanged.
  for (std::size_t first = 0; first < order.size(); first += 248) {
    const std::size_t end = std::min(order.size(), first + 248);
    for (std::size_t i = first + 2; i < end; ++i)
      CHECK(lengths[static_cast<std::size_t>(order[i - 1])] >= lengths[static_cast<std::size_t>(order[i])]);
  }
  CHECK(order == t5zero::length_grouped_order(lengths, 8, 42, 3));
  CHECK(order != t5zero::length_grouped_order(lengths, 8, 42, 4));
  CHECK(t5zero::length_grouped_order({5}, 8, 1, 0) == std::vector<index_t>{0});
}
