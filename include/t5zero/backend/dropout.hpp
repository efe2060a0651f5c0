// Dropout as a function of coordinates: the mask is computed where it is needed, in forward and again in
// backward, and never stored. It is the same on every backend, for every batch layout and number of ranks.
//
// Philox4x32-10 (Salmon et al. 2011, "Parallel Random Numbers: As Easy as 1, 2, 3"):
//   key = (seed, site), counter = (micro-step, row of the global batch, position, feature / 4);
// the four lanes of one call are four consecutive features. An element is kept if its lane >= threshold, with
// threshold = round(rate * 2^32), and is then scaled by 1 / (1 - rate).
#pragma once

#include <array>
#include <cstdint>

#include <t5zero/core/config.hpp>
#include <t5zero/core/integers.hpp>

namespace t5zero {

/// Ten rounds; the constants are Philox's multipliers and Weyl increments.
[[nodiscard]] T5ZERO_HOST_DEVICE constexpr std::array<std::uint32_t, 4> philox4x32(
    std::array<std::uint32_t, 4> counter, std::array<std::uint32_t, 2> key) {
  for (int round = 0; round < 10; ++round) {
    const std::uint64_t product0 = std::uint64_t{0xD2511F53U} * counter[0];
    const std::uint64_t product1 = std::uint64_t{0xCD9E8D57U} * counter[2];
    counter = {static_cast<std::uint32_t>(product1 >> 32) ^ counter[1] ^ key[0],
               static_cast<std::uint32_t>(product1),
               static_cast<std::uint32_t>(product0 >> 32) ^ counter[3] ^ key[1],
               static_cast<std::uint32_t>(product0)};
    key[0] += 0x9E3779B9U;
    key[1] += 0xBB67AE85U;
  }
  return counter;
}

// Known answers of the reference implementation (Random123, kat_vectors).
static_assert(philox4x32({0, 0, 0, 0}, {0, 0}) ==
              std::array<std::uint32_t, 4>{0x6627e8d5U, 0xe169c58dU, 0xbc57ac4cU, 0x9b00dbd8U});
static_assert(philox4x32({0x243f6a88U, 0x85a308d3U, 0x13198a2eU, 0x03707344U}, {0xa4093822U, 0x299f31d0U}) ==
              std::array<std::uint32_t, 4>{0xd16cfe09U, 0x94fdccebU, 0x5001e420U, 0x24126ea1U});

/// One place of the model where dropout is applied, at one micro-step. rate == 0 means none.
struct dropout_site {
  float rate = 0.0F;
  std::uint32_t seed = 0;
  std::uint32_t site = 0;  ///< which place; see model/dropout_sites.hpp
  /// Micro-batches seen since the start of training, in the backend's memory: a captured step is replayed
  /// while the number grows. Not read where rate is 0.
  const std::uint32_t* micro_step = nullptr;

  [[nodiscard]] T5ZERO_HOST_DEVICE constexpr bool active() const { return rate > 0.0F; }
  /// Lanes below this are dropped.
  [[nodiscard]] T5ZERO_HOST_DEVICE constexpr std::uint32_t threshold() const {
    const double scaled = static_cast<double>(rate) * 4294967296.0 + 0.5;
    return scaled >= 4294967295.0 ? 0xffffffffU : static_cast<std::uint32_t>(scaled);
  }
  /// What kept elements are multiplied by.
  [[nodiscard]] T5ZERO_HOST_DEVICE constexpr float scale() const { return 1.0F / (1.0F - rate); }
  /// The four lanes of features [4 * quad, 4 * quad + 4) of one token.
  [[nodiscard]] T5ZERO_HOST_DEVICE constexpr std::array<std::uint32_t, 4> lanes(std::uint32_t row,
                                                                                std::uint32_t position,
                                                                                std::uint32_t quad) const {
    return philox4x32({*micro_step, row, position, quad}, {seed, site});
  }
  /// The same place for another head: attention weights have a site for each head, features are key
  /// positions.
  [[nodiscard]] T5ZERO_HOST_DEVICE constexpr dropout_site for_head(index_t head) const {
    dropout_site result = *this;
    result.site += static_cast<std::uint32_t>(head) << 16;
    return result;
  }
};

}  // namespace t5zero
