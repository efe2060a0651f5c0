// Lines of a file or a pipe, as many at a time as are there.
#pragma once

#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <t5zero/core/error.hpp>
#include <t5zero/core/integers.hpp>

namespace t5zero {

/// Reads ahead only what the source has ready, so that a program at the other end of a pipe which waits for
/// an answer gets it.
class line_reader {
 public:
  /// "-": standard input. Throws input_error.
  explicit line_reader(const std::string& path) : name_(path == "-" ? "standard input" : path) {
    if (path == "-") {
      descriptor_ = STDIN_FILENO;
      return;
    }
    if (std::filesystem::is_directory(path)) throw input_error(path + ": is a directory; give a text file");
    descriptor_ = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
    if (descriptor_ < 0)
      throw input_error(path + ": cannot be read (" + std::strerror(errno) + "); give a text file");
    owns_ = true;
  }
  line_reader(const line_reader&) = delete;
  line_reader& operator=(const line_reader&) = delete;
  ~line_reader() {
    if (owns_) ::close(descriptor_);
  }

  [[nodiscard]] const std::string& name() const { return name_; }
  /// Lines handed out so far.
  [[nodiscard]] index_t count() const { return count_; }

  /// Waits for one line and takes up to `most`, without their line breaks; empty at the end. Throws io_error.
  [[nodiscard]] std::vector<std::string> next(index_t most) {
    std::vector<std::string> lines;
    while (static_cast<index_t>(lines.size()) < most) {
      const std::size_t end = buffer_.find('\n', searched_);
      if (end != std::string::npos) {
        lines.push_back(line_of(start_, end));
        start_ = searched_ = end + 1;
        continue;
      }
      searched_ = buffer_.size();
      if (at_end_) {
        if (start_ < buffer_.size()) lines.push_back(line_of(start_, buffer_.size()));
        start_ = searched_ = buffer_.size();
        break;
      }
      if (!lines.empty() && !ready()) break;
      fill();
    }
    count_ += static_cast<index_t>(lines.size());
    return lines;
  }

 private:
  [[nodiscard]] std::string line_of(std::size_t first, std::size_t end) const {
    if (end > first && buffer_[end - 1] == '\r') --end;
    return buffer_.substr(first, end - first);
  }
  [[nodiscard]] bool ready() const {
    struct pollfd waits {
      descriptor_, POLLIN, 0
    };
    return ::poll(&waits, 1, 0) > 0;
  }
  void fill() {
    buffer_.erase(0, start_);
    searched_ -= start_;
    start_ = 0;
    std::array<char, 65536> chunk;
    ssize_t got = 0;
    do {
      got = ::read(descriptor_, chunk.data(), chunk.size());
    } while (got < 0 && errno == EINTR);
    if (got < 0) throw io_error(name_ + ": reading failed (" + std::strerror(errno) + ")");
    at_end_ = got == 0;
    buffer_.append(chunk.data(), static_cast<std::size_t>(got));
  }

  std::string name_;
  int descriptor_ = -1;
  bool owns_ = false;
  bool at_end_ = false;
  std::string buffer_;
  std::size_t start_ = 0;     ///< of the first line that was not handed out
  std::size_t searched_ = 0;  ///< no line break in [start_, searched_)
  index_t count_ = 0;
};

}  // namespace t5zero
