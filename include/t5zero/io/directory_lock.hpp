// One program at a time in a directory: an advisory lock that the kernel takes back when the program ends.
#pragma once

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include <t5zero/core/error.hpp>
#include <t5zero/core/integers.hpp>

namespace t5zero {

/// Holds `directory`/.t5zero_lock while it lives. A POSIX record lock: it works over NFS, and a program that
/// is killed leaves the file but not the lock. Where the file system has no locks, nobody is kept out.
class directory_lock {
 public:
  static constexpr const char* file_name = ".t5zero_lock";

  /// Makes the directory if need be; what it made goes with it if it is still empty. Throws io_error if the
  /// directory or the file cannot be made, input_error ("<directory>: ...") naming the process that holds it.
  explicit directory_lock(const std::filesystem::path& directory) : path_(directory / file_name) {
    make(std::filesystem::absolute(directory).lexically_normal());
    while (!take()) {
    }
  }
  directory_lock(const directory_lock&) = delete;
  directory_lock& operator=(const directory_lock&) = delete;
  ~directory_lock() {
    if (holds_) ::unlink(path_.c_str());
    if (descriptor_ >= 0) ::close(descriptor_);
    remove_made();
  }

 private:
  void make(std::filesystem::path directory) {
    namespace fs = std::filesystem;
    if (!directory.has_filename()) directory = directory.parent_path();
    std::vector<fs::path> missing;
    std::error_code failure;
    for (fs::path at = directory; !fs::exists(at, failure) && at.has_relative_path(); at = at.parent_path())
      missing.push_back(at);
    for (; !missing.empty(); missing.pop_back()) {
      if (::mkdir(missing.back().c_str(), 0777) == 0) {
        made_.push_back(missing.back());
      } else if (errno != EEXIST) {
        fail("the directory cannot be created");
      }
    }
  }
  void remove_made() {
    for (; !made_.empty(); made_.pop_back()) ::rmdir(made_.back().c_str());  // fails for what is not empty
  }
  [[noreturn]] void fail(const char* what) {
    const std::string reason = std::strerror(errno);
    remove_made();
    throw io_error(path_.parent_path().string() + ": " + what + " (" + reason + ")");
  }

  /// False: the holder took the file away meanwhile.
  bool take() {
    descriptor_ = ::open(path_.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0644);
    if (descriptor_ < 0) fail("the file .t5zero_lock cannot be created");
    struct flock whole {};
    whole.l_type = F_WRLCK;
    whole.l_whence = SEEK_SET;
    if (::fcntl(descriptor_, F_SETLK, &whole) != 0) {
      if (errno != EACCES && errno != EAGAIN) return true;  // no locks here
      const std::string holder = content();
      ::close(std::exchange(descriptor_, -1));
      remove_made();
      throw input_error(path_.parent_path().string() + ": another run " +
                        (holder.empty() ? std::string() : "(" + holder + ") ") + "is at work there");
    }
    struct stat ours {};
    struct stat there {};
    if (::fstat(descriptor_, &ours) != 0 || ::stat(path_.c_str(), &there) != 0 ||
        ours.st_ino != there.st_ino) {
      ::close(std::exchange(descriptor_, -1));
      return false;
    }
    holds_ = true;
    std::array<char, 256> host{};
    ::gethostname(host.data(), host.size() - 1);
    const std::string text = "process " + std::to_string(::getpid()) + " on " + host.data();
    // A full disk costs the text, not the lock.
    if (::ftruncate(descriptor_, 0) == 0 && ::pwrite(descriptor_, text.data(), text.size(), 0) < 0) {
    }
    return true;
  }
  [[nodiscard]] std::string content() const {
    std::array<char, 320> text{};
    const ssize_t got = ::pread(descriptor_, text.data(), text.size(), 0);
    return {text.data(), static_cast<std::size_t>(got > 0 ? got : 0)};
  }

  std::filesystem::path path_;
  std::vector<std::filesystem::path> made_;  ///< outermost first
  int descriptor_ = -1;
  bool holds_ = false;
};

}  // namespace t5zero
