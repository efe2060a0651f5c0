// checkpoint-N directories: written under a hidden name and renamed when whole, so that a directory of that
// name is complete whatever happened.
#pragma once

#include <fcntl.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <filesystem>
#include <functional>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <t5zero/core/error.hpp>
#include <t5zero/core/integers.hpp>
#include <t5zero/io/atomic_save.hpp>

namespace t5zero {

/// A checkpoint of a run, by the number of updates it stands after.
struct checkpoint_directory {
  index_t step = 0;
  std::filesystem::path path;
};

namespace detail {

/// The digits of `text` as a number, -1 if it is anything else.
[[nodiscard]] inline index_t digits_of(std::string_view text) {
  index_t value = -1;
  const auto end = std::from_chars(text.data(), text.data() + text.size(), value);
  return end.ec == std::errc{} && end.ptr == text.data() + text.size() && !text.starts_with('-') ? value : -1;
}

inline constexpr std::string_view checkpoint_prefix = "checkpoint-";

inline void sync_directory(const std::filesystem::path& directory) {
  const int descriptor = ::open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (descriptor < 0) return;
  ::fsync(descriptor);
  ::close(descriptor);
}

/// Removes a directory that others must not take for whole meanwhile.
inline void remove_hidden_first(const std::filesystem::path& directory) {
  const std::filesystem::path hidden = directory.parent_path() / ("." + directory.filename().string() + "." +
                                                                  std::to_string(::getpid()) + ".removed");
  std::error_code failure;
  std::filesystem::rename(directory, hidden, failure);
  if (!failure) std::filesystem::remove_all(hidden, failure);
}

}  // namespace detail

/// The checkpoints in a run's output directory, ascending.
[[nodiscard]] inline std::vector<checkpoint_directory> find_checkpoints(const std::filesystem::path& output) {
  std::vector<checkpoint_directory> found;
  std::error_code failure;
  for (const auto& entry : std::filesystem::directory_iterator(output, failure)) {
    const std::string name = entry.path().filename().string();
    if (!name.starts_with(detail::checkpoint_prefix) || !entry.is_directory(failure)) continue;
    const index_t step = detail::digits_of(std::string_view(name).substr(detail::checkpoint_prefix.size()));
    if (step >= 0) found.push_back({step, entry.path()});
  }
  std::sort(found.begin(), found.end(), [](const auto& a, const auto& b) { return a.step < b.step; });
  return found;
}

/// Removes the oldest checkpoints until `limit` are left; never those of the steps `kept`, also where they
/// are more than the limit. of_others: steps of checkpoints of other runs, which count as older than this
/// run's.
inline void prune_checkpoints(const std::filesystem::path& output, index_t limit,
                              const std::set<index_t>& kept, const std::set<index_t>& of_others = {}) {
  std::vector<checkpoint_directory> all = find_checkpoints(output);
  std::stable_partition(all.begin(), all.end(), [&](const checkpoint_directory& checkpoint) {
    return of_others.contains(checkpoint.step);
  });
  auto excess = static_cast<index_t>(all.size()) - limit;
  for (const checkpoint_directory& checkpoint : all) {
    if (excess <= 0) return;
    if (kept.contains(checkpoint.step)) continue;
    detail::remove_hidden_first(checkpoint.path);
    --excess;
  }
}

/// Writes output/checkpoint-<step>: `fill` adds its files to an atomic_save of the hidden directory. Whatever
/// goes wrong before the rename leaves nothing of it. Throws io_error.
inline void save_checkpoint(const std::filesystem::path& output, index_t step,
                            const std::function<void(atomic_save&)>& fill) {
  namespace fs = std::filesystem;
  const std::string name = std::string(detail::checkpoint_prefix) + std::to_string(step);
  const fs::path hidden = output / ("." + name + "." + std::to_string(::getpid()) + ".partial");
  const fs::path target = output / name;
  std::error_code ignored;
  fs::remove_all(hidden, ignored);
  try {
    {
      atomic_save save(hidden);
      fill(save);
      save.commit();
    }
    if (fs::exists(target)) detail::remove_hidden_first(target);
    if (::rename(hidden.c_str(), target.c_str()) != 0) {
      throw io_error(target.string() + " cannot be put in place (" + std::strerror(errno) +
                     "); earlier checkpoints are untouched");
    }
  } catch (...) {
    fs::remove_all(hidden, ignored);
    throw;
  }
  detail::sync_directory(output);
}

/// Removes what killed processes left half-written or half-removed: names like ".x.<pid>.partial" whose
/// process is gone. Those of living processes stay.
inline void remove_stale_partials(const std::filesystem::path& output) {
  namespace fs = std::filesystem;
  std::vector<fs::path> stale;
  std::error_code failure;
  for (const auto& entry : fs::directory_iterator(output, failure)) {
    std::string name = entry.path().filename().string();
    if (!name.starts_with('.')) continue;
    const std::size_t suffix = name.rfind('.');
    if (name.substr(suffix) != ".partial" && name.substr(suffix) != ".removed") continue;
    name.resize(suffix);
    const index_t process = detail::digits_of(std::string_view(name).substr(name.rfind('.') + 1));
    if (process <= 0 || process > 0x7fffffff) continue;
    const bool lives = ::kill(static_cast<pid_t>(process), 0) == 0 || errno == EPERM;
    if (!lives || process == ::getpid()) stale.push_back(entry.path());
  }
  for (const fs::path& path : stale) fs::remove_all(path, failure);
}

}  // namespace t5zero
