// Names of files that hold a part each, as the Hub numbers them.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace t5zero {

/// "<prefix>00001-of-00002<extension>".
[[nodiscard]] inline std::string shard_name(std::string_view prefix, std::size_t number, std::size_t shards,
                                            std::string_view extension) {
  const auto five_digits = [](std::size_t value) {
    const std::string digits = std::to_string(value);
    return std::string(digits.size() < 5 ? 5 - digits.size() : 0, '0') + digits;
  };
  std::string name(prefix);
  return name.append(five_digits(number)).append("-of-").append(five_digits(shards)).append(extension);
}

}  // namespace t5zero
