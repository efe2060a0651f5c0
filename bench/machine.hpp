// What the benchmarks ask of the device that they measure.
#pragma once

#include <algorithm>
#include <concepts>
#include <string>

#include <t5zero/core/integers.hpp>

namespace t5zero_bench {

/// A device: its name, and bytes of its memory that are taken now.
template <class Machine>
concept measured_machine = requires(const Machine& machine) {
  { machine.name() } -> std::convertible_to<std::string>;
  { machine.used_bytes() } -> std::convertible_to<t5zero::index_t>;
};

/// What is taken beside a trainer's arena: when the trainer was just made, by the driver's context or the
/// process.
template <measured_machine Machine, class Trainer>
[[nodiscard]] t5zero::index_t context_bytes(const Machine& machine, const Trainer& trainer) {
  return std::max(t5zero::index_t{0}, machine.used_bytes() - trainer.allocated_bytes());
}

}  // namespace t5zero_bench
