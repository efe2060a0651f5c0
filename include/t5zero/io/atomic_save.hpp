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
#include <system_error>
#include <utility>
#include <vector>

#include <t5zero/core/error.hpp>
#include <t5zero/core/integers.hpp>

namespace t5zero {

/// Makes the names in a directory last, where the file system can.
inline void sync_directory(const std::filesystem::path& directory) {
  const int descriptor = ::open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (descriptor < 0) return;
  ::fsync(descriptor);
  ::close(descriptor);
}

/// Writes several files of one directory. Until `commit`, the files that were there before stay as they are;
/// without it, or after an error before it, nothing is left behind; a kill leaves
/// ".name.<pid>.partial" (see stale_partials.hpp).
class atomic_save {
 public:
  /// Creates the directory if need be. Throws io_error.
  explicit atomic_save(std::filesystem::path directory) : directory_(std::move(directory)) {
    std::error_code failure;
    std::filesystem::path missing = std::filesystem::absolute(directory_).lexically_normal();
    if (!missing.has_filename()) missing = missing.parent_path();  // of "a/b/"
    for (; !std::filesystem::exists(missing, failure) && missing.has_relative_path();
         missing = missing.parent_path())
      created_.push_back(missing);
    std::filesystem::create_directories(directory_, failure);
    if (failure || !std::filesystem::is_directory(directory_)) {
      remove_created();
      throw io_error(directory_.string() + ": the directory cannot be created (" +
                     (failure ? failure.message() : "a file has this name") + ")");
    }
  }
  atomic_save(const atomic_save&) = delete;
  atomic_save& operator=(const atomic_save&) = delete;
  ~atomic_save() {
    close_current();
    for (const std::string& name : names_) ::unlink(temporary(name).c_str());
    remove_created();
  }

  [[nodiscard]] const std::filesystem::path& directory() const { return directory_; }

  /// Begins a file; `write` appends to it.
  void begin(const std::string& name) {
    finish_current();
    if (std::filesystem::is_directory(directory_ / name)) {
      errno = EISDIR;
      fail(name, "cannot be replaced");
    }
    // What an interrupted run left under this name goes; a link would be followed out of the directory.
    ::unlink(temporary(name).c_str());
    descriptor_ = ::open(temporary(name).c_str(), O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0644);
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

  /// Takes `name`, a file of an earlier save that the new files would contradict, away at `commit`.
  void retire(std::string name) { retired_.push_back(std::move(name)); }

  /// Renames all files to their names. Throws io_error; only a rename that fails half-way (each was checked
  /// to be possible) leaves new files beside old ones, and the message says so.
  void commit() {
    finish_current();
    for (std::size_t i = 0; i < names_.size(); ++i) {
      if (::rename(temporary(names_[i]).c_str(), (directory_ / names_[i]).c_str()) != 0) {
        throw io_error((directory_ / names_[i]).string() + " cannot be renamed (" + std::strerror(errno) +
                       "); " + std::to_string(i) + " of " + std::to_string(names_.size()) +
                       " files of this save are in place, the others are as before: save again");
      }
    }
    names_.clear();
    sync_directory(directory_);  // makes the names last; the files themselves were synced before
    for (const std::string& name : retired_) ::unlink((directory_ / name).c_str());
    sync_directory(directory_);
    // A new directory's own name is in the one above it.
    for (const std::filesystem::path& made : created_) sync_directory(made.parent_path());
    created_.clear();
  }

 private:
  void remove_created() noexcept {
    for (const std::filesystem::path& made : created_)
      ::rmdir(made.c_str());  // fails, as it should, when files are in it
    created_.clear();
  }
  [[nodiscard]] std::string temporary(const std::string& name) const {
    // The process in the name: two programs that save in one directory do not write each other's files.
    return (directory_ / ("." + name + "." + std::to_string(::getpid()) + ".partial")).string();
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
                   "); what was saved before is untouched" +
                   (number == ENOSPC || number == EDQUOT ? "; free space there and start again" : ""));
  }

  std::filesystem::path directory_;
  std::vector<std::string> names_;
  std::vector<std::string> retired_;
  /// Directories made by us, the innermost first; nothing is committed to them yet.
  std::vector<std::filesystem::path> created_;
  int descriptor_ = -1;
};

}  // namespace t5zero
