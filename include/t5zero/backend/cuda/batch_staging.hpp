// How batches reach the GPU. A batch is padded to a shape of a short ladder, so that a step's graph is
// captured once for each rung and replayed; the padding forms a sequence of its own, whose labels do not
// count.
#pragma once

#include <cuda_runtime_api.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>

#include <t5zero/backend/cuda/check.hpp>
#include <t5zero/backend/cuda/execution.hpp>
#include <t5zero/backend/cuda/handles.hpp>
#include <t5zero/core/error.hpp>
#include <t5zero/core/integers.hpp>
#include <t5zero/plan/batch_shape.hpp>
#include <t5zero/tensor/batch_view.hpp>
#include <t5zero/tensor/slice.hpp>

namespace t5zero::cuda {

namespace detail {

/// Distance of the ladder's rungs at n tokens: a quarter of the power of two below, at least 16.
[[nodiscard]] constexpr index_t rung_distance(index_t n) {
  const auto power = static_cast<index_t>(std::bit_floor(static_cast<std::uint64_t>(n > 0 ? n : 1)));
  return power / 4 > 16 ? power / 4 : 16;
}
/// The first rung at or above n; monotone.
[[nodiscard]] constexpr index_t rung(index_t n) {
  return round_up(n, rung_distance(n));
}
/// The rung for the length of sequences of so many padded tokens in all, `padding` of them a sequence too. A
/// length takes blocks that find nothing to do; so that batches have few shapes, its rungs are powers of two.
[[nodiscard]] constexpr index_t length_rung(index_t length, index_t padding, index_t tokens) {
  const auto longest = static_cast<std::uint64_t>(std::max({length, padding, index_t{128}}));
  return std::min(tokens, static_cast<index_t>(std::bit_ceil(longest)));
}

}  // namespace detail

/// The padded shape whose buffers hold any batch within `batch`: one more sequence takes the padding.
[[nodiscard]] constexpr batch_shape padded(const batch_shape& batch) {
  const index_t source = detail::rung(batch.source_tokens);
  const index_t target = detail::rung(batch.target_tokens);
  return {batch.batch + 1, source, target,
          detail::length_rung(batch.max_source_length, detail::rung_distance(batch.source_tokens), source),
          detail::length_rung(batch.max_target_length, detail::rung_distance(batch.target_tokens), target)};
}
static_assert(padded(batch_shape{1, 40, 33, 40, 33}).source_tokens == 48);

/// Copies batches to the device through slots of pinned memory.
class batch_staging {
 public:
  static constexpr std::size_t slot_count = 4;

  /// largest: bounds every batch, not padded. device: device_bytes(padded shape); host: host_bytes of it.
  batch_staging(std::byte* device, std::byte* host, const batch_shape& largest)
      : device_(device), host_(host), largest_(padded(largest)) {
    for (unique_event& copied : copied_) copied = make_event();
  }
  batch_staging(const batch_staging&) = delete;
  batch_staging& operator=(const batch_staging&) = delete;

  /// Submits the copy; the result's arrays are the device's. `batch` may change when the call returns, which
  /// waits only if all slots are on their way.
  [[nodiscard]] batch_view stage(execution& e, const batch_view& batch) {
    const std::size_t slot = next_slot_;
    next_slot_ = (next_slot_ + 1) % slot_count;
    check(cudaEventSynchronize(copied_[slot].get()));
    const batch_view shape = padded_view(batch);
    const layout places(shape);
    require(places.bytes <= device_bytes(largest_), "cuda::batch_staging: a larger batch than was planned");
    std::byte* const to = host_ + static_cast<index_t>(slot) * device_bytes(largest_);
    pad_side(batch.source, shape.source, to, places.source);
    pad_side(batch.target, shape.target, to, places.target);
    pad_ids(batch.source_ids, batch.source.tokens, shape.source.tokens, 0, to + places.source_ids.offset);
    pad_ids(batch.decoder_ids, batch.target.tokens, shape.target.tokens, 0, to + places.decoder_ids.offset);
    pad_ids(batch.labels, batch.target.tokens, shape.target.tokens, -100, to + places.labels.offset);
    check(cudaMemcpyAsync(device_, to, static_cast<std::size_t>(places.bytes), cudaMemcpyHostToDevice,
                          e.stream()));
    e.note_barrier();
    check(cudaEventRecord(copied_[slot].get(), e.stream()));
    batch_view staged = shape;
    place_side(staged.source, places.source);
    place_side(staged.target, places.target);
    staged.source_ids = at<const std::int32_t>(places.source_ids);
    staged.decoder_ids = at<const std::int32_t>(places.decoder_ids);
    staged.labels = at<const std::int32_t>(places.labels);
    return staged;
  }

  /// Of one copy, for a padded shape.
  [[nodiscard]] static constexpr index_t device_bytes(const batch_shape& largest) {
    batch_view view;
    view.source.batch = view.target.batch = largest.batch;
    view.source.tokens = largest.source_tokens;
    view.target.tokens = largest.target_tokens;
    return layout(view).bytes;
  }
  [[nodiscard]] static constexpr index_t host_bytes(const batch_shape& largest) {
    return static_cast<index_t>(slot_count) * device_bytes(largest);
  }

 private:
  struct side_slices {
    slice offsets, rows, positions;
  };
  /// Where the arrays of a padded batch stand.
  struct layout {
    constexpr explicit layout(const batch_view& shape) {
      slice_builder builder;
      const auto side = [&](const ragged_view& view) {
        side_slices slices;
        slices.offsets = builder.take((view.batch + 1) * 8);
        slices.rows = builder.take(view.tokens * 4);
        slices.positions = builder.take(view.tokens * 4);
        return slices;
      };
      source = side(shape.source);
      target = side(shape.target);
      source_ids = builder.take(shape.source.tokens * 4);
      decoder_ids = builder.take(shape.target.tokens * 4);
      labels = builder.take(shape.target.tokens * 4);
      bytes = builder.high_water();
    }
    side_slices source, target;
    slice source_ids, decoder_ids, labels;
    index_t bytes = 0;
  };

  template <class T>
  [[nodiscard]] T* at(slice where) const {
    return reinterpret_cast<T*>(device_ + where.offset);
  }
  void place_side(ragged_view& view, const side_slices& slices) const {
    view.offsets = at<const index_t>(slices.offsets);
    view.rows = at<const std::uint32_t>(slices.rows);
    view.positions = at<const std::uint32_t>(slices.positions);
  }

  /// Sizes only. A batch without targets (a generation's) keeps none.
  [[nodiscard]] batch_view padded_view(const batch_view& batch) const {
    const auto side = [&](const ragged_view& from) {
      ragged_view to;
      to.batch = largest_.batch;
      to.tokens = from.tokens > 0 ? detail::rung(from.tokens) : 0;
      to.max_length =
          from.tokens > 0 ? detail::length_rung(from.max_length, to.tokens - from.tokens, to.tokens) : 0;
      return to;
    };
    batch_view result;
    result.source = side(batch.source);
    result.target = side(batch.target);
    return result;
  }
  /// Sequences that are not there are empty; the last one holds the padding.
  static void pad_side(const ragged_view& from, const ragged_view& shape, std::byte* to,
                       const side_slices& slices) {
    auto* const offsets = reinterpret_cast<index_t*>(to + slices.offsets.offset);
    auto* const rows = reinterpret_cast<std::uint32_t*>(to + slices.rows.offset);
    auto* const positions = reinterpret_cast<std::uint32_t*>(to + slices.positions.offset);
    for (index_t b = 0; b < shape.batch; ++b)
      offsets[b] = from.tokens == 0 ? 0 : b <= from.batch ? from.offsets[b] : from.tokens;
    offsets[shape.batch] = shape.tokens;
    std::copy_n(from.rows, from.tokens, rows);
    std::copy_n(from.positions, from.tokens, positions);
    for (index_t t = from.tokens; t < shape.tokens; ++t) {
      rows[t] = 0xffffffffU;  // no row of a batch
      positions[t] = static_cast<std::uint32_t>(t - from.tokens);
    }
  }
  static void pad_ids(const std::int32_t* from, index_t count, index_t padded_count, std::int32_t filler,
                      std::byte* to) {
    auto* const ids = reinterpret_cast<std::int32_t*>(to);
    std::copy_n(from, count, ids);
    std::fill(ids + count, ids + padded_count, filler);
  }

  std::byte* device_;
  std::byte* host_;
  batch_shape largest_;
  std::size_t next_slot_ = 0;
  std::array<unique_event, slot_count> copied_;
};

}  // namespace t5zero::cuda
