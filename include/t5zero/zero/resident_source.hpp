// All weights are here: ZeRO stages 0 to 2, and every stage at world size 1.
#pragma once

#include <t5zero/core/dtype.hpp>
#include <t5zero/plan/parameter_table.hpp>

namespace t5zero::zero {

/// Leases are plain pointers into the flat buffer: no copy, no cost.
template <element T>
class resident_source {
 public:
  class lease {
   public:
    explicit lease(const T* data) : data_(data) {}
    [[nodiscard]] const T* data() const { return data_; }

   private:
    const T* data_;
  };

  /// `weights`: [parameter_count], outlives the source.
  explicit resident_source(const T* weights) : weights_(weights) {}
  [[nodiscard]] lease acquire(parameter_range range) const { return lease(weights_ + range.first); }
  [[nodiscard]] lease acquire_rows(parameter_range table) const { return acquire(table); }

 private:
  const T* weights_;
};

}  // namespace t5zero::zero
