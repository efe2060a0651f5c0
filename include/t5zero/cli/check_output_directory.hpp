// Whether --output_dir can be written to.
#pragma once

#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <string>
#include <system_error>

#include <t5zero/cli/options.hpp>
#include <t5zero/core/error.hpp>

namespace t5zero::cli {

/// Refuses, before anything is read, a directory that could not be written to at the end.
inline void check_output_directory(const options& chosen) {
  namespace fs = std::filesystem;
  const fs::path output = chosen.output_dir;
  std::error_code ignored;
  fs::path existing = fs::absolute(output).lexically_normal();
  while (!fs::exists(fs::symlink_status(existing, ignored)) && existing.has_relative_path()) {
    existing = existing.parent_path();
  }
  const std::string flag = "--output_dir " + chosen.output_dir + ": ";
  if (!fs::is_directory(existing, ignored)) {
    throw input_error(flag + existing.string() + " is not a directory; name another output directory");
  }
  if (::access(existing.c_str(), W_OK | X_OK) != 0) {
    throw input_error(flag + existing.string() + " may not be written to (" + std::strerror(errno) +
                      "); name another output directory");
  }
}

}  // namespace t5zero::cli
