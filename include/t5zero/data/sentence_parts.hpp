// A long text in parts of a bounded size.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

namespace t5zero {

/// Adds `text` to `parts`, in pieces of at most `most` bytes: cut behind a blank where there is one, else
/// between two characters. The parts together are the text. most: at least 4, the longest character.
inline void add_in_parts(std::string_view text, std::size_t most, std::vector<std::string>& parts) {
  while (text.size() > most) {
    const std::size_t blank = text.find_last_of(" \t\n", most - 1);
    std::size_t end = blank == std::string_view::npos ? most : blank + 1;
    const auto inside_character = [&] { return (static_cast<unsigned char>(text[end]) & 0xc0) == 0x80; };
    for (std::size_t back = 0; back < 3 && inside_character(); ++back) --end;
    parts.emplace_back(text.substr(0, end));
    text.remove_prefix(end);
  }
  parts.emplace_back(text);
}

}  // namespace t5zero
