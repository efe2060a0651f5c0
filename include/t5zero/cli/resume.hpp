// Where a training run begins: anew, or at a checkpoint of an interrupted one.
#pragma once

#include <filesystem>
#include <fstream>
#include <iostream>
#include <iterator>
#include <optional>
#include <string>
#include <system_error>
#include <vector>

#include <t5zero/cli/options.hpp>
#include <t5zero/core/error.hpp>
#include <t5zero/io/atomic_save.hpp>
#include <t5zero/io/checkpoint_directory.hpp>

namespace t5zero::cli {

/// In output_dir while a run trains: what it was asked to do.
inline constexpr const char* run_marker_file = ".t5zero_run";

/// What makes two commands the same run: all that decides its numbers.
[[nodiscard]] inline std::string run_fingerprint(const options& chosen, const std::string& run_name) {
  const auto text = [](const std::optional<std::string>& value) { return value.value_or("-"); };
  std::string all = run_name + "\n" + chosen.model_name_or_path + "\n" + text(chosen.config_name) + "\n" +
                    text(chosen.tokenizer_name) + "\n" + text(chosen.dataset_name) + "\n" +
                    text(chosen.dataset_config_name) + "\n" + text(chosen.train_file) + "\n" +
                    text(chosen.deepspeed) + "\n" + text(chosen.source_prefix) + "\n" + chosen.source_lang +
                    "\n" + chosen.target_lang + "\n";
  for (const double value :
       {static_cast<double>(chosen.per_device_train_batch_size),
        static_cast<double>(chosen.gradient_accumulation_steps), chosen.num_train_epochs,
        static_cast<double>(chosen.max_steps), chosen.learning_rate, static_cast<double>(chosen.seed),
        static_cast<double>(chosen.max_train_samples.value_or(-1))}) {
    all += std::to_string(value) + "\n";
  }
  return all;
}

/// Says on disk that a run is under way. Only a kill leaves it behind.
class run_marker {
 public:
  run_marker(const options& chosen, const std::string& fingerprint)
      : path_(std::filesystem::path(chosen.output_dir) / run_marker_file) {
    atomic_save save(chosen.output_dir);
    save.add(run_marker_file, fingerprint);
    save.commit();
  }
  run_marker(const run_marker&) = delete;
  run_marker& operator=(const run_marker&) = delete;
  ~run_marker() {
    std::error_code ignored;
    std::filesystem::remove(path_, ignored);
  }

 private:
  std::filesystem::path path_;
};

/// The checkpoint to go on from, if there is one. As run_translation.py: --resume_from_checkpoint, else,
/// without
/// --overwrite_output_dir, the last one in output_dir. A directory that is not empty and has none is refused,
/// unless it holds an interrupted run of the same command: that one begins again.
[[nodiscard]] inline std::optional<std::filesystem::path> find_start(const options& chosen,
                                                                     const std::string& fingerprint) {
  namespace fs = std::filesystem;
  if (!chosen.do_train) return std::nullopt;
  const fs::path output = chosen.output_dir;
  std::error_code ignored;
  if (fs::is_directory(output, ignored)) remove_stale_partials(output);
  if (chosen.resume_from_checkpoint) return fs::path(*chosen.resume_from_checkpoint);
  if (chosen.overwrite_output_dir || !fs::is_directory(output, ignored) || fs::is_empty(output, ignored))
    return std::nullopt;
  const std::vector<checkpoint_directory> checkpoints = find_checkpoints(output);
  if (!checkpoints.empty()) {
    std::cerr
        << "Checkpoint detected, resuming training at " << checkpoints.back().path.string()
        << ". To avoid this behavior, change the `--output_dir` or add `--overwrite_output_dir` to train "
           "from scratch.\n";
    return checkpoints.back().path;
  }
  std::ifstream marker(output / run_marker_file, std::ios::binary);
  const std::string before{std::istreambuf_iterator<char>(marker), std::istreambuf_iterator<char>()};
  if (marker && before == fingerprint) {
    std::cerr << "Output directory (" << chosen.output_dir
              << ") holds an interrupted run of this command, without a checkpoint: it begins again\n";
    return std::nullopt;
  }
  throw input_error("--output_dir " + chosen.output_dir + ": Output directory (" + chosen.output_dir +
                    ") already exists and is not empty. Use --overwrite_output_dir to overcome.");
}

/// What to say when a checkpoint cannot be loaded: the one before it, if there is one.
[[nodiscard]] inline std::string other_checkpoint_hint(const std::filesystem::path& bad) {
  std::string hint;
  for (const checkpoint_directory& other : find_checkpoints(std::filesystem::absolute(bad).parent_path())) {
    if (other.path.filename() == bad.filename()) break;
    hint =
        ". The one before: --resume_from_checkpoint " + (bad.parent_path() / other.path.filename()).string();
  }
  return hint;
}

}  // namespace t5zero::cli
