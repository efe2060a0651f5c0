// The exceptions of t5zero. Everything thrown on purpose derives from `error`.
#pragma once

#include <source_location>
#include <stdexcept>
#include <string>

namespace t5zero {

/// Base of all t5zero exceptions. `exit_code()` is what a program that lets it end the run returns.
class error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
  [[nodiscard]] virtual int exit_code() const noexcept { return 1; }
};

/// The user's input is wrong: a flag, a file, a line. The text names it, its value, and the repair.
class input_error : public error {
 public:
  using error::error;
  [[nodiscard]] int exit_code() const noexcept override { return 2; }
};

/// The run does not fit the memory. The text says how many bytes are missing and what would fit.
class capacity_error : public input_error {
 public:
  using input_error::input_error;
};

/// The operating system failed us: a full disk, an unreadable file that was there before.
class io_error : public error {
 public:
  using error::error;
};

/// A GPU, its driver or one of its libraries reported an error. The text names the call's place and the
/// reason.
class device_error : public error {
 public:
  using error::error;
};

/// The computation left the representable numbers, e.g. the loss scale cannot be lowered further.
class numeric_error : public error {
 public:
  using error::error;
};

/// A caller of the library broke a function's contract (a shape, a size). The text ends in file:line of the
/// check, where the contract stands.
class contract_error : public error {
 public:
  explicit contract_error(const std::string& message,
                          std::source_location where = std::source_location::current())
      : error(message + " [" + where.file_name() + ":" + std::to_string(where.line()) + "]") {}
};

/// Throws `contract_error` unless `condition` holds. `message` must be a literal: it costs nothing when all
/// is well.
constexpr void require(bool condition, const char* message,
                       std::source_location where = std::source_location::current()) {
  if (!condition) throw contract_error(message, where);
}

}  // namespace t5zero
