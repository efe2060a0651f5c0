// Random normal weights as a function of seed and place: values[i] = factor * N(0, std) of element
// first_element + i (Box and Muller 1958, on Philox), or the constant `factor` where std is 0. The arithmetic
// is that of cpu/initialize.hpp, in double, so that a seed names the same weights on every backend.
// Overwrites; any alignment; deterministic; one launch on the execution's stream. Runs once: not made to be
// quick.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include <t5zero/backend/cuda/check.hpp>
#include <t5zero/backend/cuda/execution.hpp>
#include <t5zero/backend/cuda/operations.hpp>
#include <t5zero/backend/dropout.hpp>

namespace t5zero::cuda {

namespace detail {

/// A thread computes four elements, those of one call of Philox.
template <int Threads>
__global__ void __launch_bounds__(Threads)
    initialize_kernel(vector_view<float> values, double std, double factor, std::uint32_t seed,
                      std::uint64_t first_element) {
  const index_t i = (static_cast<index_t>(blockIdx.x) * Threads + static_cast<index_t>(threadIdx.x)) * 4;
  if (i >= values.size) return;
  const std::uint64_t place = (first_element + static_cast<std::uint64_t>(i)) / 4;
  const auto bits =
      philox4x32({static_cast<std::uint32_t>(place), static_cast<std::uint32_t>(place >> 32), 0, 0},
                 {seed, 0x74357a30U});
  constexpr double pi = 3.14159265358979323846;
#pragma unroll
  for (int pair = 0; pair < 2; ++pair) {
    const double u = (static_cast<double>(bits[2 * pair]) + 0.5) / 4294967296.0;
    const double angle = 2.0 * pi * static_cast<double>(bits[2 * pair + 1]) / 4294967296.0;
    const double radius = sqrt(-2.0 * log(u)) * std * factor;
    double sine = 0.0;
    double cosine = 0.0;
    sincos(angle, &sine, &cosine);
    const index_t at = i + 2 * pair;
    if (at < values.size) values[at] = static_cast<float>(std == 0.0 ? factor : radius * cosine);
    if (at + 1 < values.size) values[at + 1] = static_cast<float>(std == 0.0 ? factor : radius * sine);
  }
}

}  // namespace detail

inline void initialize(execution& e, vector_view<float> values, double std, double factor, std::uint32_t seed,
                       std::uint64_t first_element) {
  if (values.size == 0) return;
  constexpr int threads = 256;
  detail::initialize_kernel<threads>
      <<<static_cast<unsigned>(ceil_div(values.size, 4 * threads)), threads, 0, e.stream()>>>(
          values, std, factor, seed, first_element);
  check(cudaGetLastError());
}

template <element T>
void operations<T>::initialize(execution& e, vector_view<float> values, double std, double factor,
                               std::uint32_t seed, std::uint64_t first_element) {
  cuda::initialize(e, values, std, factor, seed, first_element);
}

}  // namespace t5zero::cuda
