// checkpoint-N directories: written under a hidden name and renamed when whole, so that a directory of that
// name is complete whatever happened.
#pragma once

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
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
#include <t5zero/io/stale_partials.hpp>

namespace t5zero {

/// A checkpoint of a run, by the number of updates it stands after.
struct checkpoint_directory {
  index_t step = 0;
  std::filesystem::path path;
};

namespace detail {

inline constexpr std::string_view checkpoint_prefix = "checkpoint-";

/// The name of `directory` while this process works on it: hidden, beside it.
[[nodiscard]] inline std::filesystem::path hidden_name(const std::filesystem::path& directory,
                                                       std::string_view why) {
  std::string name(1, '.');
  name.append(directory.filename().string()).append(1, '.').append(std::to_string(::getpid()));
  return directory.parent_path() / name.append(why);
}

/// Removes a directory that others must not take for whole meanwhile.
inline void remove_hidden_first(const std::filesystem::path& directory) {
  const std::filesystem::path hidden = hidden_name(directory, ".removed");
  std::error_code failure;
  std::filesystem::rename(directory, hidden, failure);
  if (!failure) std::filesystem::remove_all(hidden, failure);
}

/// Two directories take each other's names, in one step. False: not here (not every file system can).
[[nodiscard]] inline bool exchange_names(const std::filesystem::path& a, const std::filesystem::path& b) {
  return ::renameat2(AT_FDCWD, a.c_str(), AT_FDCWD, b.c_str(), RENAME_EXCHANGE) == 0;
}

/// Gives `whole` the name `target`, which another directory has: that one is renamed away, and back if its
/// name cannot be taken. Killed in between, remove_stale_partials renames it back. Throws io_error.
inline void replace_in_two_steps(const std::filesystem::path& whole, const std::filesystem::path& target) {
  const std::filesystem::path before = hidden_name(target, ".replaced");
  int failure = 0;
  if (::rename(target.c_str(), before.c_str()) != 0) {
    failure = errno;
  } else if (::rename(whole.c_str(), target.c_str()) != 0) {
    failure = errno;
    if (::rename(before.c_str(), target.c_str()) != 0) {
      throw io_error(target.string() + " cannot be replaced (" + std::strerror(failure) +
                     "); the one before lies in " + before.string());
    }
  }
  if (failure != 0) {
    throw io_error(target.string() + " cannot be replaced (" + std::strerror(failure) +
                   "); earlier checkpoints are untouched");
  }
  std::error_code ignored;
  std::filesystem::remove_all(before, ignored);
}

/// Gives `whole` the name `target`. What has that name goes when the new one is in place. Throws io_error.
inline void put_in_place(const std::filesystem::path& whole, const std::filesystem::path& target) {
  std::error_code ignored;
  if (std::filesystem::exists(std::filesystem::symlink_status(target, ignored))) {
    if (!exchange_names(whole, target)) return replace_in_two_steps(whole, target);
    // Removed under a name that nobody takes for a checkpoint, so a kill here leaves a stale partial.
    std::filesystem::remove_all(whole, ignored);
    return;
  }
  if (::rename(whole.c_str(), target.c_str()) != 0) {
    throw io_error(target.string() + " cannot be put in place (" + std::strerror(errno) +
                   "); earlier checkpoints are untouched");
  }
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
/// goes wrong before the rename leaves nothing of it, and a checkpoint that had this name stays until the new
/// one has it. Throws io_error.
inline void save_checkpoint(const std::filesystem::path& output, index_t step,
                            const std::function<void(atomic_save&)>& fill) {
  namespace fs = std::filesystem;
  const fs::path target = output / (std::string(detail::checkpoint_prefix) + std::to_string(step));
  const fs::path hidden = detail::hidden_name(target, ".partial");
  std::error_code ignored;
  fs::remove_all(hidden, ignored);
  try {
    {
      atomic_save save(hidden);
      fill(save);
      save.commit();
    }
    detail::put_in_place(hidden, target);
  } catch (...) {
    fs::remove_all(hidden, ignored);
    throw;
  }
  sync_directory(output);
}

}  // namespace t5zero
