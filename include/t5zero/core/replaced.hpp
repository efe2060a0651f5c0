// Find and replace.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace t5zero {

/// `text` with every `from`, read from the left without overlap, as `to`. from: not empty.
[[nodiscard]] inline std::string replaced(std::string_view text, std::string_view from, std::string_view to) {
  std::string result;
  std::size_t done = 0;
  for (std::size_t at = text.find(from); at != std::string_view::npos; at = text.find(from, done)) {
    result.append(text, done, at - done).append(to);
    done = at + from.size();
  }
  return result.append(text.substr(done));
}

}  // namespace t5zero
