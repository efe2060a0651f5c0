// What the benchmarks ask of the device that they measure.
#pragma once

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

}  // namespace t5zero_bench
