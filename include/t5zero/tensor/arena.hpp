// One allocation per memory space, sized by the plan; nothing is allocated after it.
#pragma once

#include <cstddef>
#include <utility>

#include <t5zero/core/integers.hpp>
#include <t5zero/tensor/slice.hpp>

namespace t5zero {

/// Owns `bytes` of a memory space. Memory has `static std::byte* allocate(index_t)` (zeroed, aligned to a
/// page; throws capacity_error) and `static void release(std::byte*, index_t) noexcept`.
template <class Memory>
class arena {
 public:
  explicit arena(index_t bytes) : data_(Memory::allocate(bytes)), bytes_(bytes) {}
  arena(arena&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}
  arena& operator=(arena&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
    return *this;
  }
  ~arena() {
    if (data_ != nullptr) Memory::release(data_, bytes_);
  }

  [[nodiscard]] std::byte* data() const { return data_; }
  [[nodiscard]] index_t bytes() const { return bytes_; }
  /// The memory of a planned slice; null if it is empty.
  template <class T>
  [[nodiscard]] T* at(slice where) const {
    return where.bytes == 0 ? nullptr : reinterpret_cast<T*>(data_ + where.offset);
  }

 private:
  std::byte* data_;
  index_t bytes_;
};

}  // namespace t5zero
