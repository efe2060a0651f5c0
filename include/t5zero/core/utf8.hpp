// Whether a text is UTF-8.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

#include <t5zero/core/error.hpp>

namespace t5zero {

/// Throws input_error naming the byte, from 1, after `where` if `line` is not UTF-8.
inline void check_utf8(std::string_view line, const std::string& where) {
  for (std::size_t i = 0; i < line.size();) {
    const auto lead = static_cast<unsigned char>(line[i]);
    const std::size_t length = lead < 0x80         ? 1
                               : (lead >> 5) == 6  ? 2
                               : (lead >> 4) == 14 ? 3
                               : (lead >> 3) == 30 ? 4
                                                   : 0;
    bool good = length > 0 && i + length <= line.size() && lead != 0xc0 && lead != 0xc1 && lead < 0xf5;
    for (std::size_t j = 1; good && j < length; ++j)
      good = (static_cast<unsigned char>(line[i + j]) >> 6) == 2;
    if (good &&
        length > 2) {  // Unicode table 3-7: no longer form of a shorter one, no surrogate, no end beyond
      const auto second = static_cast<unsigned char>(line[i + 1]);
      good = (lead != 0xe0 || second >= 0xa0) && (lead != 0xed || second < 0xa0) &&
             (lead != 0xf0 || second >= 0x90) && (lead != 0xf4 || second < 0x90);
    }
    if (!good) {
      throw input_error(where + ": not UTF-8 at byte " + std::to_string(i + 1) +
                        "; convert the file (iconv -t UTF-8)");
    }
    i += length;
  }
}

}  // namespace t5zero
