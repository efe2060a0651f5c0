// Where a model's weights come from. The model asks for a range of the flat parameter buffer (a layer, the
// embedding) and holds the lease while it computes; whether the range was there all along or had to be
// gathered is not its business.
#pragma once

#include <concepts>

#include <t5zero/core/dtype.hpp>
#include <t5zero/plan/parameter_table.hpp>

namespace t5zero {

/// A lease, which may be moved: `data()` is the first element of the range for as long as it lives.
template <class L, class T>
concept parameter_lease_of = std::move_constructible<L> && requires(const L& lease) {
  { lease.data() } -> std::same_as<const T*>;
};

/// acquire(range): all of it. acquire_rows(range): of a table, the rows that the ids of the batch at hand
/// name.
template <class S, class T>
concept parameter_source_of = element<T> && requires(S& source, parameter_range range) {
  { source.acquire(range) } -> parameter_lease_of<T>;
  { source.acquire_rows(range) } -> parameter_lease_of<T>;
};

}  // namespace t5zero
