// Slices of an arena: offsets handed out at planning time, pointers only later. The same constexpr code that
// counts bytes for a static_assert or for --plan places the buffers of a run, so planned and allocated bytes
// are one number.
#pragma once

#include <t5zero/core/config.hpp>
#include <t5zero/core/integers.hpp>

namespace t5zero {

/// Every slice starts at a multiple of this: a cache line, an AVX-512 register, and what cuBLASLt asks of its
/// workspace.
inline constexpr index_t slice_alignment = 256;

/// Bytes [offset, offset + bytes) of an arena.
struct slice {
  index_t offset = 0;
  index_t bytes = 0;
  friend constexpr bool operator==(slice, slice) = default;
};

/// Slices of equal size, one after another: one for each layer, or `period` ones that layers take in turn.
struct slice_array {
  slice first;
  index_t stride = 0;
  index_t period = 1;

  [[nodiscard]] constexpr slice operator[](index_t i) const {
    return {first.offset + i % period * stride, first.bytes};
  }
};

/// Hands out slices from 0 on. `rewind` gives a region back, so that buffers which are never alive together
/// share bytes; `high_water` is what the arena needs.
class slice_builder {
 public:
  constexpr slice take(index_t bytes) {
    const slice result{position_, bytes};
    position_ += round_up(bytes, slice_alignment);
    if (position_ > high_water_) high_water_ = position_;
    return result;
  }
  constexpr slice_array take_array(index_t count, index_t bytes) {
    const index_t stride = round_up(bytes, slice_alignment);
    const slice all = take(count * stride);
    return {{all.offset, bytes}, stride, count};
  }
  [[nodiscard]] constexpr index_t position() const { return position_; }
  [[nodiscard]] constexpr index_t high_water() const { return high_water_; }
  constexpr void rewind(index_t position) { position_ = position; }
  constexpr void skip_to_high_water() { position_ = high_water_; }

 private:
  index_t position_ = 0;
  index_t high_water_ = 0;
};

}  // namespace t5zero
