// Lines to standard output as they come, or to a file that appears when all are there.
#pragma once

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
    std::error_code unknown;
    // A link is followed: the file it names is replaced, not the link.
    const fs::path target = fs::weakly_canonical(path, unknown);
    const fs::file_status status = fs::status(target, unknown);
    if (path.empty() || fs::is_directory(status) || !fs::is_directory(target.parent_path(), unknown))
      cannot();
    if (fs::exists(status) && !fs::is_regular_file(status)) {
      opened_.open(target, std::ios::binary);
      if (!opened_) cannot();
      stream_ = &opened_;
      return;
    }
    name_ = target.filename().string();
    try {
      remove_stale_partials_of(target);
      save_.emplace(target.parent_path());
      save_->begin(name_);
    } catch (const io_error&) {
      cannot();
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
  [[noreturn]] void cannot() const { throw io_error(flag_ + ": cannot be written; name another file"); }

  std::string flag_;
  std::string name_;
  std::ofstream opened_;
  std::ostream* stream_ = nullptr;
  std::optional<atomic_save> save_;
  std::string waiting_;  ///< for the file
  index_t count_ = 0;
};

}  // namespace t5zero
