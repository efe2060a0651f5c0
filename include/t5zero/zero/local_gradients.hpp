// The gradient sink of one rank that keeps whole gradients: every ZeRO stage at world size 1.
#pragma once

#include <algorithm>
#include <cstddef>
#include <functional>
#include <utility>
#include <vector>

#include <t5zero/core/dtype.hpp>
#include <t5zero/core/error.hpp>
#include <t5zero/core/integers.hpp>
#include <t5zero/plan/parameter_table.hpp>
#include <t5zero/tensor/tensor_view.hpp>

namespace t5zero::zero {

/// Gradients of all parameters in one flat buffer of element type `type`. A gradient of several
/// contributions is summed in fp32 beside a 16-bit buffer and rounded once, when it is complete. With several
/// micro-batches to an update the buffer is fp32 and later micro-batches add to it.
class local_gradients {
 public:
  /// Rounds `count` fp32 sums to `type`: the backend's conversion.
  using rounding = std::function<void(const float* from, void* to, dtype type, index_t count)>;
  /// Fills `count` fp32 sums with zeros, on the backend.
  using zeroing = std::function<void(float* sums, index_t count)>;
  /// Told of each range when its gradient is final.
  using completion = std::function<void(parameter_range range)>;

  /// data: [parameter_count] elements of `type`; sums: as plan_memory planned, unused if type is fp32.
  local_gradients(const model_shape& shape, std::byte* data, dtype type, float* sums, rounding round,
                  zeroing zero, completion completed)
      : data_(data),
        type_(type),
        round_(std::move(round)),
        zero_(std::move(zero)),
        completed_(std::move(completed)) {
    for_each_gradient_sum(shape, [&](const parameter_row& row, index_t first) {
      shared_.push_back({row.range(), type == dtype::f32 ? nullptr : sums + first, false});
    });
  }

  /// Before the first (accumulates == false) or a later micro-batch of an update.
  void begin_micro_batch(bool accumulates) {
    require(!accumulates || type_ == dtype::f32,
            "local_gradients: micro-batches accumulate in fp32; plan for several micro_batches");
    accumulates_ = accumulates;
    for (shared_gradient& shared : shared_) shared.contributed = false;
  }

  [[nodiscard]] gradient_view contribute(parameter_range range, index_t rows, index_t cols) {
    require(rows * cols == range.count, "local_gradients: the view does not cover the range");
    if (shared_gradient* shared = find(range)) {
      const bool adds = std::exchange(shared->contributed, true) || accumulates_;
      return {sum_of(*shared), dtype::f32, adds ? gradient_mode::accumulate : gradient_mode::overwrite, rows,
              cols};
    }
    return {at(range), type_, accumulates_ ? gradient_mode::accumulate : gradient_mode::overwrite, rows,
            cols};
  }

  [[nodiscard]] matrix_view<float> accumulator(parameter_range range, index_t rows, index_t cols) {
    shared_gradient* shared = find(range);
    require(shared != nullptr && rows * cols == range.count,
            "local_gradients: only gradients that are sums have an accumulator");
    float* sum = sum_of(*shared);
    if (!std::exchange(shared->contributed, true) && !accumulates_) zero_(sum, range.count);
    return {sum, rows, cols};
  }

  void complete(parameter_range range) {
    const shared_gradient* shared = find(range);
    if (shared != nullptr && shared->sum != nullptr) round_(shared->sum, at(range), type_, range.count);
    completed_(range);
  }

 private:
  struct shared_gradient {
    parameter_range range;
    float* sum = nullptr;  ///< null: the buffer itself is fp32
    bool contributed = false;
  };

  [[nodiscard]] shared_gradient* find(parameter_range range) {
    const auto found = std::find_if(shared_.begin(), shared_.end(),
                                    [&](const shared_gradient& shared) { return shared.range == range; });
    return found == shared_.end() ? nullptr : &*found;
  }
  [[nodiscard]] void* at(parameter_range range) const { return data_ + range.first * byte_size(type_); }
  [[nodiscard]] float* sum_of(const shared_gradient& shared) const {
    return shared.sum != nullptr ? shared.sum : static_cast<float*>(at(shared.range));
  }

  std::byte* data_;
  dtype type_;
  rounding round_;
  zeroing zero_;
  completion completed_;
  bool accumulates_ = false;
  std::vector<shared_gradient> shared_;
};

}  // namespace t5zero::zero
