// A checksum fast enough for every byte of a training state.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include <t5zero/core/integers.hpp>

namespace t5zero {

/// Fletcher's checksum over 32-bit words with 64-bit sums in eight lanes, mixed at the end: it is made to
/// find a damaged word, swapped words and lost blocks; 64 bits can coincide, and it is no defence against
/// intent. `bytes`: a multiple of 4.
[[nodiscard]] inline std::uint64_t checksum(const void* data, index_t bytes) {
  constexpr index_t lanes = 8;
  std::uint64_t sums[lanes] = {};
  std::uint64_t weighted[lanes] = {};
  const auto* const from = static_cast<const std::byte*>(data);
  const index_t words = bytes / 4;
  index_t i = 0;
  for (; i + lanes <= words; i += lanes) {
    std::uint32_t block[lanes];
    std::memcpy(block, from + i * 4, sizeof(block));
    for (index_t lane = 0; lane < lanes; ++lane) {
      sums[lane] += block[lane];
      weighted[lane] += sums[lane];
    }
  }
  for (; i < words; ++i) {
    std::uint32_t word = 0;
    std::memcpy(&word, from + i * 4, sizeof(word));
    sums[i % lanes] += word;
    weighted[i % lanes] += sums[i % lanes];
  }
  auto result = static_cast<std::uint64_t>(words);
  for (index_t lane = 0; lane < lanes; ++lane) {
    for (const std::uint64_t part : {sums[lane], weighted[lane]}) {
      result = (result ^ part) * 0x9e3779b97f4a7c15U;  // 2^64 / golden ratio: spreads every bit upwards
      result ^= result >> 29;
    }
  }
  return result;
}

}  // namespace t5zero
