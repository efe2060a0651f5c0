// compiles: each documented configuration, at the lengths that its command has by default, within its budget
#include <t5zero/cpu.hpp>

namespace t5zero {

constexpr index_t mib = index_t{1} << 20;

/// Bytes of a run with batches of `batch` sentences of 1024 source and 128 target tokens, all of them full.
template <class Run>
constexpr index_t planned_bytes(index_t batch) {
  return Run::plan(Run::model::shape, batch_shape::of_lengths(batch, 1024, 128)).total_bytes;
}

static_assert(planned_bytes<run<t5_small, zero_2, fp16, cpu::backend>>(1) <= 1136 * mib);
static_assert(planned_bytes<run<t5_large, zero_2, fp32, cpu::backend>>(4) <= 17600 * mib);
static_assert(planned_bytes<run<t5_3b, zero_3, fp16, cpu::backend>>(1) <= 46560 * mib);
static_assert(planned_bytes<run<t5_small, zero_0, fp32, cpu::backend>>(4) <= 1840 * mib);

// ZeRO on one rank costs nothing and saves nothing.
static_assert(planned_bytes<run<t5_small, zero_3, fp16, cpu::backend>>(1) ==
              planned_bytes<run<t5_small, zero_0, fp16, cpu::backend>>(1));

}  // namespace t5zero
