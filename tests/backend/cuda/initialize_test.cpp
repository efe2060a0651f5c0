// A seed gives the GPU the CPU's weights.
#include <t5zero/backend/cpu/operations.hpp>
#include <t5zero/backend/cuda/operations.hpp>

#include <cstdint>
#include <vector>

#include "backend/cuda/device_machine.hpp"
#include "backend/cuda/host_machine.hpp"
#include "catch.hpp"

using namespace t5zero_test;

TEST_CASE("cuda: initial weights are the CPU's", "[cuda]") {
  if (!has_gpu()) return;
  device_machine gpu;
  host_machine cpu;
  for (const index_t size :
       {index_t{1}, index_t{2}, index_t{5}, index_t{1023}, index_t{1024}, index_t{100001}}) {
    for (const std::uint64_t first : {std::uint64_t{0}, std::uint64_t{48}, std::uint64_t{5'000'000'000}}) {
      for (const double std : {0.0, 0.05}) {
        CAPTURE(size, first, std);
        std::vector<float> expected(static_cast<std::size_t>(size));
        t5zero::cpu::operations<float>::initialize(cpu.main(), {expected.data(), size}, std, 1.5, 42, first);
        const device_array<float> found(size);
        t5zero::cuda::operations<float>::initialize(gpu.main(), found.vector(), std, 1.5, 42, first);
        CHECK(largest_difference(found.download(), expected) < 1e-7);
      }
    }
  }
}
