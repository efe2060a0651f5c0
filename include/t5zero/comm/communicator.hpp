// What ranks say to each other with.
#pragma once

#include <concepts>

#include <t5zero/core/integers.hpp>

namespace t5zero::comm {

/// A group of ranks. `is_alone` is a compile-time fact of comm::self: with it, sharding costs nothing,
/// because the types that would shard are not chosen.
template <class C>
concept communicator = requires(const C& c) {
  { c.rank() } -> std::convertible_to<index_t>;
  { c.world_size() } -> std::convertible_to<index_t>;
  { C::is_alone } -> std::convertible_to<bool>;
};

}  // namespace t5zero::comm
