// Numbers as Python prints them, for log lines and result files that Python tools read.
#pragma once

#include <array>
#include <charconv>
#include <cmath>
#include <cstddef>
#include <string>
#include <string_view>

namespace t5zero {

/// repr(float): the shortest digits that read back to the same double; an exponent below 1e-4 and from 1e16
/// on. Source: Python's float_repr_style 'short' (format code 'r').
[[nodiscard]] inline std::string python_repr(double value) {
  if (std::isnan(value)) return "nan";
  if (std::isinf(value)) return value < 0 ? "-inf" : "inf";
  std::array<char, 40> buffer{};
  const auto end =
      std::to_chars(buffer.data(), buffer.data() + buffer.size(), value, std::chars_format::scientific);
  const std::string_view scientific(buffer.data(), static_cast<std::size_t>(end.ptr - buffer.data()));
  const std::size_t mark = scientific.find('e');
  int exponent = 0;
  const std::string_view exponent_text = scientific.substr(mark + (scientific[mark + 1] == '+' ? 2 : 1));
  std::from_chars(exponent_text.data(), exponent_text.data() + exponent_text.size(), exponent);
  // to_chars writes at least two exponent digits, as Python does.
  if (exponent < -4 || exponent >= 16) return std::string(scientific);
  const auto fixed_end =
      std::to_chars(buffer.data(), buffer.data() + buffer.size(), value, std::chars_format::fixed);
  std::string text(buffer.data(), fixed_end.ptr);
  if (text.find('.') == std::string::npos) text += ".0";
  return text;
}

/// A number as Python's json module writes it: as python_repr, but NaN and Infinity.
[[nodiscard]] inline std::string python_json(double value) {
  if (std::isnan(value)) return "NaN";
  if (std::isinf(value)) return value < 0 ? "-Infinity" : "Infinity";
  return python_repr(value);
}

/// round(value, digits) of Python: the double nearest to the decimal rounding of the exact binary value, ties
/// to even.
[[nodiscard]] inline double python_round(double value, int digits) {
  if (!std::isfinite(value)) return value;
  std::array<char, 400> buffer{};  // 309 digits before the point at most
  const auto end =
      std::to_chars(buffer.data(), buffer.data() + buffer.size(), value, std::chars_format::fixed, digits);
  double rounded = value;
  std::from_chars(buffer.data(), end.ptr, rounded);
  return rounded;
}

}  // namespace t5zero
