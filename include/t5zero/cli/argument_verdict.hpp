// One row of the argument table.
#pragma once

#include <cstdint>
#include <string_view>

namespace t5zero {

/// What t5zero does with an argument.
enum class verdict : std::uint8_t {
  honoured,
  accepted,  ///< no effect (yet); named in one notice when it is given another value than its default
  refused    ///< an error unless it is given its default value
};

/// How an argument takes values on the command line.
enum class argument_kind : std::uint8_t {
  flag,            ///< default False: bare means True, a value may follow
  on_flag,         ///< default True: as flag, and `--no_x` means False
  optional_flag,   ///< no default: needs a value
  optional_value,  ///< default False: bare means True, any word may follow
  value,           ///< exactly one value
  list             ///< one value or more
};

/// Name, verdict, and why.
struct argument_verdict {
  std::string_view name;  ///< canonical: underscores, no dashes in front
  argument_kind kind = argument_kind::value;
  verdict outcome = verdict::honoured;
  std::string_view fallback;  ///< the default as text; empty: none
  std::string_view text;      ///< what it does, or why it is accepted or refused
};

[[nodiscard]] constexpr std::string_view to_string(verdict outcome) {
  switch (outcome) {
    case verdict::honoured:
      return "honoured";
    case verdict::accepted:
      return "accepted";
    case verdict::refused:
      break;
  }
  return "refused";
}

}  // namespace t5zero
