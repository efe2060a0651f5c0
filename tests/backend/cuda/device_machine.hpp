// What tests of the CUDA operations share: a GPU with its streams and workspace, device memory that notices
// writes past its end, ragged batches on both sides, and random data.
#pragma once

#include <cuda_runtime_api.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <memory>
#include <random>
#include <utility>
#include <vector>

#include <t5zero/backend/cuda/check.hpp>
#include <t5zero/backend/cuda/device.hpp>
#include <t5zero/backend/cuda/execution.hpp>
#include <t5zero/backend/dropout.hpp>
#include <t5zero/core/dtype.hpp>
#include <t5zero/core/integers.hpp>
#include <t5zero/tensor/ragged_view.hpp>
#include <t5zero/tensor/tensor_view.hpp>

#include "catch.hpp"
#include "skip.hpp"

namespace t5zero_test {

using t5zero::index_t;

/// False, and the test is reported as skipped, where there is no GPU. Return from the test then.
[[nodiscard]] inline bool has_gpu() {
  int count = 0;
  if (cudaGetDeviceCount(&count) == cudaSuccess && count > 0) return true;
  skip_test("no GPU");
  return false;
}

/// Does compute-sanitizer run the test (sanitize.sh)? It is a hundred times slower, and takes memory.
[[nodiscard]] inline bool under_sanitizer() {
  return std::getenv("T5ZERO_UNDER_SANITIZER") != nullptr;
}

/// `size` elements of device memory between two guards; download() checks that the guards are whole.
template <class U>
class device_array {
 public:
  explicit device_array(index_t size) : size_(size) {
    t5zero::cuda::check(cudaMalloc(&memory_, bytes() + 2 * guard));
    t5zero::cuda::check(cudaMemset(memory_, poison_byte, bytes() + 2 * guard));
    t5zero::cuda::check(cudaDeviceSynchronize());
  }
  device_array(device_array&& other) noexcept
      : memory_(std::exchange(other.memory_, nullptr)), size_(std::exchange(other.size_, 0)) {}
  device_array& operator=(device_array&& other) noexcept {
    std::swap(memory_, other.memory_);
    std::swap(size_, other.size_);
    return *this;
  }
  ~device_array() { cudaFree(memory_); }

  [[nodiscard]] U* data() const { return reinterpret_cast<U*>(static_cast<std::byte*>(memory_) + guard); }
  [[nodiscard]] index_t size() const { return size_; }
  [[nodiscard]] t5zero::vector_view<U> vector() const { return {data(), size_}; }
  [[nodiscard]] t5zero::matrix_view<U> matrix(index_t rows, index_t cols) const {
    REQUIRE(rows * cols <= size_);
    return {data(), rows, cols};
  }

  /// All bits set: NaN in every element type, -1 in integers.
  void poison() {
    t5zero::cuda::check(cudaMemset(data(), poison_byte, bytes()));
    t5zero::cuda::check(cudaDeviceSynchronize());
  }
  void upload(const std::vector<U>& from) {
    REQUIRE(static_cast<index_t>(from.size()) == size_);
    t5zero::cuda::check(cudaMemcpy(data(), from.data(), bytes(), cudaMemcpyHostToDevice));
    t5zero::cuda::check(cudaDeviceSynchronize());  // the streams of a device do not wait for the default one
  }
  /// Waits for all streams.
  [[nodiscard]] std::vector<U> download() const {
    t5zero::cuda::check(cudaDeviceSynchronize());
    std::vector<U> result(static_cast<std::size_t>(size_));
    t5zero::cuda::check(cudaMemcpy(result.data(), data(), bytes(), cudaMemcpyDeviceToHost));
    std::vector<unsigned char> guards(2 * guard);
    const auto* const first = static_cast<const std::byte*>(memory_);
    t5zero::cuda::check(cudaMemcpy(guards.data(), first, guard, cudaMemcpyDeviceToHost));
    t5zero::cuda::check(
        cudaMemcpy(guards.data() + guard, first + guard + bytes(), guard, cudaMemcpyDeviceToHost));
    CHECK(std::all_of(guards.begin(), guards.end(), [](unsigned char byte) { return byte == poison_byte; }));
    return result;
  }

 private:
  static constexpr std::size_t guard = 256;
  static constexpr unsigned char poison_byte = 0xff;

  [[nodiscard]] std::size_t bytes() const { return static_cast<std::size_t>(size_) * sizeof(U); }

  void* memory_ = nullptr;
  index_t size_ = 0;
};

template <class U>
[[nodiscard]] device_array<U> on_device(const std::vector<U>& from) {
  device_array<U> result(static_cast<index_t>(from.size()));
  result.upload(from);
  return result;
}

/// The first GPU, with workspace for its streams.
class device_machine {
 public:
  /// `workspace_bytes`: of the main stream.
  explicit device_machine(index_t workspace_bytes = index_t{64} << 20, bool allows_tf32 = false,
                          bool overlaps_launches = true)
      : device_({.ordinal = 0, .allows_tf32 = allows_tf32, .overlaps_launches = overlaps_launches}),
        workspace_(t5zero::cuda::workspace_division::of_main(workspace_bytes).total_bytes()) {
    device_.set_workspace(workspace_.data(), workspace_.size());
  }

  [[nodiscard]] t5zero::cuda::execution& main() { return device_.main(); }
  /// Waits until everything that was submitted is done.
  void wait() { device_.wait(); }

 private:
  t5zero::cuda::device device_;
  device_array<std::byte> workspace_;
};

/// A ragged batch in host memory.
class ragged_batch {
 public:
  /// Sequence b is row first_row + b of the global batch.
  explicit ragged_batch(const std::vector<index_t>& lengths, std::uint32_t first_row = 0) : offsets_{0} {
    for (std::size_t b = 0; b < lengths.size(); ++b) {
      for (index_t position = 0; position < lengths[b]; ++position) {
        rows_.push_back(first_row + static_cast<std::uint32_t>(b));
        positions_.push_back(static_cast<std::uint32_t>(position));
      }
      offsets_.push_back(offsets_.back() + lengths[b]);
      max_length_ = std::max(max_length_, lengths[b]);
    }
  }

  [[nodiscard]] const std::vector<index_t>& offsets() const { return offsets_; }
  [[nodiscard]] const std::vector<std::uint32_t>& rows() const { return rows_; }
  [[nodiscard]] const std::vector<std::uint32_t>& positions() const { return positions_; }
  [[nodiscard]] index_t tokens() const { return offsets_.back(); }
  [[nodiscard]] t5zero::ragged_view view() const {
    return {offsets_.data(), rows_.data(), positions_.data(), static_cast<index_t>(offsets_.size()) - 1,
            tokens(),        max_length_};
  }

 private:
  std::vector<index_t> offsets_;
  std::vector<std::uint32_t> rows_;
  std::vector<std::uint32_t> positions_;
  index_t max_length_ = 0;
};

/// The same batch with its arrays in device memory.
class device_ragged_batch {
 public:
  explicit device_ragged_batch(const ragged_batch& from)
      : view_(from.view()),
        offsets_(on_device(from.offsets())),
        rows_(on_device(from.rows())),
        positions_(on_device(from.positions())) {
    view_.offsets = offsets_.data();
    view_.rows = rows_.data();
    view_.positions = positions_.data();
  }

  [[nodiscard]] const t5zero::ragged_view& view() const { return view_; }

 private:
  t5zero::ragged_view view_;
  device_array<index_t> offsets_;
  device_array<std::uint32_t> rows_;
  device_array<std::uint32_t> positions_;
};

/// One dropout site for both sides: the micro-step lies in each side's memory.
class dropout_pair {
 public:
  explicit dropout_pair(float rate, std::uint32_t seed = 42, std::uint32_t site = 7,
                        std::uint32_t micro_step = 3)
      : micro_step_(std::make_unique<std::uint32_t>(micro_step)),
        device_micro_step_(on_device(std::vector<std::uint32_t>{micro_step})) {
    host_.rate = rate;
    host_.seed = seed;
    host_.site = site;
    host_.micro_step = micro_step_.get();
    device_ = host_;
    device_.micro_step = device_micro_step_.data();
  }

  [[nodiscard]] const t5zero::dropout_site& host() const { return host_; }
  [[nodiscard]] const t5zero::dropout_site& device() const { return device_; }

 private:
  std::unique_ptr<std::uint32_t> micro_step_;
  device_array<std::uint32_t> device_micro_step_;
  t5zero::dropout_site host_;
  t5zero::dropout_site device_;
};

/// Normally distributed, rounded to T.
template <t5zero::element T = float>
[[nodiscard]] std::vector<T> random_elements(index_t count, unsigned seed, float deviation = 1.0F) {
  std::mt19937 engine(seed);
  std::normal_distribution<float> normal(0.0F, deviation);
  std::vector<T> values(static_cast<std::size_t>(count));
  for (T& value : values) value = static_cast<T>(normal(engine));
  return values;
}

/// Largest |a - b| / (1 + |b|); infinite where one is NaN or infinite and the other is not the same.
template <class U>
[[nodiscard]] double largest_difference(const std::vector<U>& a, const std::vector<U>& b) {
  REQUIRE(a.size() == b.size());
  const auto number = [](U value) {
    if constexpr (t5zero::element<U>)
      return static_cast<double>(static_cast<float>(value));
    else
      return static_cast<double>(value);
  };
  double worst = 0.0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    const double x = number(a[i]);
    const double y = number(b[i]);
    if (x == y || (std::isnan(x) && std::isnan(y))) continue;
    const double difference = std::abs(x - y) / (1.0 + std::abs(y));
    worst = std::max(worst, std::isfinite(difference) ? difference : std::numeric_limits<double>::infinity());
  }
  return worst;
}

/// What one rounding to T may change, and then some: values on both sides are near one, sums differ in order.
template <t5zero::element T>
inline constexpr double tolerance = std::same_as<T, float>             ? 2e-6
                                    : std::same_as<T, t5zero::float16> ? 1e-3   // 2^-11 each way
                                                                       : 8e-3;  // 2^-8 each way

template <class U>
[[nodiscard]] bool same_bits(const std::vector<U>& a, const std::vector<U>& b) {
  return a.size() == b.size() && (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(U)) == 0);
}

}  // namespace t5zero_test
