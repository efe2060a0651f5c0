// Lines to standard output as they come, or to a file that appears when all are there.
#pragma once

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <optional>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>

#include <t5zero/core/error.hpp>
#include <t5zero/core/integers.hpp>
#include <t5zero/io/atomic_save.hpp>
#include <t5zero/io/stale_partials.hpp>

namespace t5zero {

namespace detail {

/// Whether a path names what a process has open, as /dev/stdout and the shell's >(command) do: links that
/// lead to no name of a file system.
[[nodiscard]] inline bool names_open_file(const std::filesystem::path& path) {
  const std::string text = path.lexically_normal().string();
  constexpr std::array<std::string_view, 4> places = {"/dev/stdout", "/dev/stderr", "/dev/fd/", "/proc/"};
  return std::any_of(places.begin(), places.end(), [&](auto place) { return text.starts_with(place); });
}

}  // namespace detail

/// Until `finish`, a file that had the name before stays as it is; without it, nothing is left behind. A
/// signal that ends the program leaves ".name.<pid>.partial", which goes when the next one writes the same
/// file.
class line_writer {
 public:
  /// "-": standard output, line by line. So are pipes and devices. Throws io_error naming `flag`.
  line_writer(const std::string& path, std::string flag) : flag_(std::move(flag) + " " + path) {
    namespace fs = std::filesystem;
    if (path == "-") {
      stream_ = &std::cout;
      return;
    }
    if (path.empty()) cannot("its name is empty");
    std::error_code unknown;
    const fs::file_status status = fs::status(path, unknown);
    if (fs::is_directory(status)) cannot(std::strerror(EISDIR));
    if (detail::names_open_file(path) || (fs::exists(status) && !fs::is_regular_file(status))) {
      // A file that a shell opened keeps what is in it.
      opened_.open(path, std::ios::binary | std::ios::app);
      if (!opened_) cannot(std::strerror(errno));
      stream_ = &opened_;
      return;
    }
    // A link is followed: the file it names is replaced, not the link. Absolute: a bare name has no parent.
    const fs::path target = fs::weakly_canonical(fs::absolute(path), unknown);
    const fs::file_status parent = fs::status(target.parent_path(), unknown);
    if (!fs::is_directory(parent)) cannot(fs::exists(parent) ? std::strerror(ENOTDIR) : unknown.message());
    name_ = target.filename().string();
    try {
      remove_stale_partials_of(target);
      save_.emplace(target.parent_path());
      save_->begin(name_);
    } catch (const io_error& failure) {
      cannot(failure.what());
    }
  }

  /// Throws io_error.
  void add(std::string_view line) {
    ++count_;
    if (save_) {
      waiting_.append(line).append(1, '\n');
    } else {
      *stream_ << line << '\n';
    }
  }
  /// What was added is on its way to who reads the stream. Throws io_error.
  void flush() {
    if (save_) {
      save_->write(waiting_.data(), static_cast<index_t>(waiting_.size()));
      waiting_.clear();
      return;
    }
    if (stream_->flush()) return;
    throw io_error(flag_ + ": writing failed before line " + std::to_string(count_ + 1));
  }
  /// The file gets its name. Throws io_error.
  void finish() {
    flush();
    if (save_) save_->commit();
  }

 private:
  [[noreturn]] void cannot(const std::string& why) const {
    throw io_error(flag_ + ": cannot be written (" + why + "); name another file");
  }

  std::string flag_;
  std::string name_;
  std::ofstream opened_;
  std::ostream* stream_ = nullptr;
  std::optional<atomic_save> save_;
  std::string waiting_;  ///< for the file
  index_t count_ = 0;
};

}  // namespace t5zero
