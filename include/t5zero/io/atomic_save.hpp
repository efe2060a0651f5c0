// Files appear whole or not at all: each is written under a temporary name, synced, and renamed when all are
// there.
#pragma once

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <cstring>
#include <filesystem>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <t5zero/core/error.hpp>
#include <t5zero/core/integers.hpp>

namespace t5zero {

/// Writes several files of one directory. Until `commit`, the files that were there before stay as they are;
/// without it, or after an error, nothing is left behind.
class atomic_save {
 public:
  /// Creates the directory if need be. Throws io_error.
  explicit atomic_save(std::filesystem::path directory) : directory_(std::move(directory)) {
    std::error_code failure;
    std::filesystem::create_directories(directory_, failure);
    if (failure) throw io_error(directory_.string() + ": cannot be created (" + failure.message() + ")");
  }
  atomic_save(const atomic_save&) = delete;
  atomic_save& operator=(const atomic_save&) = delete;
  ~atomic_save() {
    close_current();
    for (const std::string& name : names_) ::unlink(temporary(name).c_str());
  }

  /// Begins a file; `write` appends to it.
  void begin(const std::string& name) {
    finish_current();
    descriptor_ = ::open(temporary(name).c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    if (descriptor_ < 0) fail(name, "cannot be created");
    names_.push_back(name);
  }
  void write(const void* data, index_t bytes) {
    const auto* from = static_cast<const std::byte*>(data);
    while (bytes > 0) {
      const ssize_t written = ::write(descriptor_, from, static_cast<std::size_t>(bytes));
      if (written < 0 && errno == EINTR) continue;
      if (written <= 0)
        fail(names_.back(), "cannot be written, " + std::to_string(bytes) + " bytes are missing");
      from += written;
      bytes -= written;
    }
  }
  void add(const std::string& name, std::string_view text) {
    begin(name);
    write(text.data(), static_cast<index_t>(text.size()));
  }

  /// Renames all files to their names.
  void commit() {
    finish_current();
    for (const std::string& name : names_) {
      if (::rename(temporary(name).c_str(), (directory_ / name).c_str()) != 0)
        fail(name, "cannot be renamed");
    }
    names_.clear();
  }

 private:
  [[nodiscard]] std::string temporary(const std::string& name) const {
    return (directory_ / ("." + name + ".partial")).string();
  }
  void finish_current() {
    if (descriptor_ < 0) return;
    const bool synced = ::fsync(descriptor_) == 0;
    const int failure = errno;
    const bool closed = ::close(std::exchange(descriptor_, -1)) == 0;
    if (!synced) errno = failure;
    if (!synced || !closed) fail(names_.back(), "cannot be written");
  }
  void close_current() noexcept {
    if (descriptor_ >= 0) ::close(std::exchange(descriptor_, -1));
  }
  [[noreturn]] void fail(const std::string& name, const std::string& what) const {
    const int number = errno;
    throw io_error((directory_ / name).string() + " " + what + " (" + std::strerror(number) +
                   "); what was saved before is untouched");
  }

  std::filesystem::path directory_;
  std::vector<std::string> names_;
  int descriptor_ = -1;
};

}  // namespace t5zero
