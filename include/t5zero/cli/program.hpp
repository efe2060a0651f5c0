// What every program around a run does: find its ds_config, turn exceptions into messages and exit codes.
#pragma once

#include <array>
#include <exception>
#include <filesystem>
#include <iostream>
#include <optional>
#include <system_error>

#include <t5zero/cli/options.hpp>
#include <t5zero/core/error.hpp>
#include <t5zero/zero/ds_config.hpp>
#include <t5zero/zero/read_ds_config.hpp>

namespace t5zero::cli {

/// Where installed ds_config files lie: ../share/t5zero/config beside the program, and config/ of a build
/// tree's source.
inline std::array<std::filesystem::path, 2> installed_config_directories() {
  std::error_code ignored;
  const std::filesystem::path program = std::filesystem::read_symlink("/proc/self/exe", ignored);
  const std::filesystem::path bin = program.parent_path();
  return {bin.parent_path() / "share" / "t5zero" / "config",
          bin.parent_path().parent_path().parent_path() / "examples" / "config"};
}

inline std::optional<ds_config> read_deepspeed(const options& chosen) {
  if (!chosen.deepspeed) return std::nullopt;
  return read_ds_config(*chosen.deepspeed, installed_config_directories());
}

/// Runs `body` and turns exceptions into a message on stderr and an exit code.
template <class Body>
int report_errors(const char* program, const Body& body) {
  try {
    return body();
  } catch (const error& e) {
    std::cerr << program << ": error: " << e.what() << "\n";
    return e.exit_code();
  } catch (const std::exception& e) {
    std::cerr << program << ": error: " << e.what() << "\n";
    return 1;
  }
}

}  // namespace t5zero::cli
