// The checkpoint that an output directory's last run wrote last. That of the highest number is not it where a
// run began anew in the directory of a longer one.
#pragma once

#include <algorithm>
#include <filesystem>
#include <optional>
#include <vector>

#include <nlohmann/json.hpp>

#include <t5zero/core/error.hpp>
#include <t5zero/core/integers.hpp>
#include <t5zero/io/checkpoint_directory.hpp>
#include <t5zero/io/strict_json.hpp>
#include <t5zero/train/manifest_reader.hpp>
#include <t5zero/train/training_checkpoint.hpp>

namespace t5zero {

/// The number of the run that wrote a checkpoint; 0 if it was written before runs were counted, nothing if
/// its manifest is missing or damaged.
[[nodiscard]] inline std::optional<index_t> run_number_of(const std::filesystem::path& checkpoint) {
  const std::filesystem::path file = checkpoint / detail::manifest_file;
  try {
    const detail::manifest_reader loop =
        detail::manifest_reader(read_strict_json(file), file.string()).at("loop");
    return loop.has("run_number") ? loop.integer("run_number") : 0;
  } catch (const error&) {
    return std::nullopt;
  }
}

/// The highest number of a run that has a checkpoint in `output`; 0: none.
[[nodiscard]] inline index_t last_run_number(const std::filesystem::path& output) {
  index_t last = 0;
  for (const checkpoint_directory& one : find_checkpoints(output))
    last = std::max(last, run_number_of(one.path).value_or(0));
  return last;
}

/// Nothing if there is none. Where that of the highest number cannot be read it is the one: whoever goes on
/// from it hears what is wrong with it.
[[nodiscard]] inline std::optional<checkpoint_directory> last_checkpoint(
    const std::filesystem::path& output) {
  std::optional<checkpoint_directory> last;
  index_t newest = 0;
  const std::vector<checkpoint_directory> all = find_checkpoints(output);
  // Ascending, so that the last one of the newest run stays.
  for (const checkpoint_directory& one : all) {
    const std::optional<index_t> number = run_number_of(one.path);
    if (!number && &one == &all.back()) return one;
    if (number.value_or(0) < newest) continue;
    newest = number.value_or(0);
    last = one;
  }
  return last;
}

}  // namespace t5zero
