// Non-owning views of tensors: a pointer and extents. Row-major; a matrix may have a row stride larger than
// its width, so that q, k and v can be columns of one buffer.
#pragma once

#include <concepts>
#include <type_traits>

#include <t5zero/core/config.hpp>
#include <t5zero/core/dtype.hpp>
#include <t5zero/core/error.hpp>
#include <t5zero/core/integers.hpp>

namespace t5zero {

/// `size` consecutive elements.
template <class T>
struct vector_view {
  T* data = nullptr;
  index_t size = 0;

  T5ZERO_HOST_DEVICE constexpr T& operator[](index_t i) const { return data[i]; }
  T5ZERO_HOST_DEVICE constexpr T* begin() const { return data; }
  T5ZERO_HOST_DEVICE constexpr T* end() const { return data + size; }
  /// A view of mutable elements may be read through.
  template <std::same_as<T> U>
  requires(!std::is_const_v<U>)  // NOLINTNEXTLINE(google-explicit-constructor)
      T5ZERO_HOST_DEVICE constexpr
      operator vector_view<const U>() const {
    return {data, size};
  }
  [[nodiscard]] T5ZERO_HOST_DEVICE constexpr vector_view subview(index_t first, index_t count) const {
    return {data + first, count};
  }
};

/// rows x cols elements, row i at data + i * stride.
template <class T>
struct matrix_view {
  T* data = nullptr;
  index_t rows = 0;
  index_t cols = 0;
  index_t stride = 0;  ///< elements between the starts of two rows, >= cols

  constexpr matrix_view() = default;
  T5ZERO_HOST_DEVICE constexpr matrix_view(T* data_, index_t rows_, index_t cols_)
      : data(data_), rows(rows_), cols(cols_), stride(cols_) {}
  T5ZERO_HOST_DEVICE constexpr matrix_view(T* data_, index_t rows_, index_t cols_, index_t stride_)
      : data(data_), rows(rows_), cols(cols_), stride(stride_) {}

  T5ZERO_HOST_DEVICE constexpr T& operator()(index_t i, index_t j) const { return data[i * stride + j]; }
  [[nodiscard]] T5ZERO_HOST_DEVICE constexpr vector_view<T> row(index_t i) const {
    return {data + i * stride, cols};
  }
  /// Rows [first, first + count).
  [[nodiscard]] T5ZERO_HOST_DEVICE constexpr matrix_view row_block(index_t first, index_t count) const {
    return {data + first * stride, count, cols, stride};
  }
  /// Columns [first, first + count).
  [[nodiscard]] T5ZERO_HOST_DEVICE constexpr matrix_view column_block(index_t first, index_t count) const {
    return {data + first, rows, count, stride};
  }
  [[nodiscard]] T5ZERO_HOST_DEVICE constexpr index_t size() const { return rows * cols; }
  [[nodiscard]] T5ZERO_HOST_DEVICE constexpr bool contiguous() const { return stride == cols || rows <= 1; }
  template <std::same_as<T> U>
  requires(!std::is_const_v<U>)  // NOLINTNEXTLINE(google-explicit-constructor)
      T5ZERO_HOST_DEVICE constexpr
      operator matrix_view<const U>() const {
    return {data, rows, cols, stride};
  }
};

/// What writing a gradient does to what is there already.
enum class gradient_mode : std::uint8_t { overwrite, accumulate };

/// Where the gradient of one matrix (or, with rows == 1, vector) goes: contiguous, element type known at run
/// time because it depends on an option (with accumulation over micro-batches it is fp32 in every precision).
struct gradient_view {
  void* data = nullptr;
  dtype type = dtype::f32;
  gradient_mode mode = gradient_mode::overwrite;
  index_t rows = 0;
  index_t cols = 0;

  template <element T>
  [[nodiscard]] matrix_view<T> as() const {
    require(type == dtype_of<T>,
            "gradient_view::as: asked for an element type that the gradient does not have");
    return {static_cast<T*>(data), rows, cols};
  }
};

}  // namespace t5zero
