// What killed processes left half-written or half-removed, under hidden names such as ".x.<pid>.partial".
#pragma once

#include <signal.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <cstddef>
#include <cstdio>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <system_error>
#include <vector>

#include <t5zero/core/integers.hpp>

namespace t5zero {

namespace detail {

/// The digits of `text` as a number, -1 if it is anything else.
[[nodiscard]] inline index_t digits_of(std::string_view text) {
  index_t value = -1;
  const auto end = std::from_chars(text.data(), text.data() + text.size(), value);
  return end.ec == std::errc{} && end.ptr == text.data() + text.size() && !text.starts_with('-') ? value : -1;
}

/// A hidden name of a process that is gone, in its parts: ".<of>.<pid><why>".
struct stale_name {
  std::string of;
  std::string why;  ///< ".partial", ".removed" or ".replaced"
};
[[nodiscard]] inline std::optional<stale_name> stale_name_of(std::string name) {
  if (!name.starts_with('.')) return std::nullopt;
  const std::size_t suffix = name.rfind('.');
  const std::string why = name.substr(suffix);
  if (why != ".partial" && why != ".removed" && why != ".replaced") return std::nullopt;
  name.resize(suffix);
  const std::size_t number = name.rfind('.') + 1;
  const index_t process = digits_of(std::string_view(name).substr(number));
  if (process <= 0 || process > 0x7fffffff) return std::nullopt;
  const bool lives = ::kill(static_cast<pid_t>(process), 0) == 0 || errno == EPERM;
  if (lives && process != ::getpid()) return std::nullopt;
  return stale_name{number < 3 ? std::string() : name.substr(1, number - 2), why};
}

}  // namespace detail

/// Removes all of it in a directory. That of living processes stays. What was to be replaced and has no
/// successor yet gets its name back.
inline void remove_stale_partials(const std::filesystem::path& output) {
  namespace fs = std::filesystem;
  std::vector<fs::path> stale;
  std::error_code failure;
  for (const auto& entry : fs::directory_iterator(output, failure)) {
    const auto left = detail::stale_name_of(entry.path().filename().string());
    if (!left) continue;
    stale.push_back(entry.path());
    if (left->why != ".replaced" || left->of.empty()) continue;
    const fs::path target = output / left->of;
    if (fs::exists(fs::symlink_status(target, failure))) continue;
    if (::rename(entry.path().c_str(), target.c_str()) == 0) stale.pop_back();
  }
  for (const fs::path& path : stale) fs::remove_all(path, failure);
}

/// Removes what is half-written of one file; all else in the directory is somebody else's.
inline void remove_stale_partials_of(const std::filesystem::path& file) {
  namespace fs = std::filesystem;
  std::vector<fs::path> stale;
  std::error_code failure;
  for (const auto& entry : fs::directory_iterator(file.parent_path(), failure)) {
    const auto left = detail::stale_name_of(entry.path().filename().string());
    if (left && left->why == ".partial" && left->of == file.filename().string())
      stale.push_back(entry.path());
  }
  for (const fs::path& path : stale) fs::remove(path, failure);
}

}  // namespace t5zero
