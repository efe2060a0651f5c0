// Where a training run begins: anew, or at a checkpoint of an interrupted one.
#pragma once

#include <concepts>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <optional>
#include <string>
#include <string_view>
#include <system_error>
#include <vector>

#include <t5zero/cli/options.hpp>
#include <t5zero/core/error.hpp>
#include <t5zero/core/integers.hpp>
#include <t5zero/io/atomic_save.hpp>
#include <t5zero/io/checkpoint_directory.hpp>
#include <t5zero/io/directory_lock.hpp>
#include <t5zero/io/stale_partials.hpp>
#include <t5zero/train/interval.hpp>
#include <t5zero/train/last_checkpoint.hpp>
#include <t5zero/train/python_repr.hpp>

namespace t5zero::cli {

/// In output_dir while a run trains: what it was asked to do.
inline constexpr const char* run_marker_file = ".t5zero_run";

namespace detail {

/// Lines "name value" of what a command asks for.
class asked_values {
 public:
  void add(const char* name, const std::string& value) {
    text_.append(name).append(" ").append(value) += '\n';
  }
  void add(const char* name, const char* value) { add(name, std::string(value)); }
  void add(const char* name, bool value) { add(name, value ? "True" : "False"); }
  void add(const char* name, double value) { add(name, python_repr(value)); }
  void add(const char* name, step_count value) { add(name, value.value); }
  template <std::integral Integer>
  void add(const char* name, Integer value) {
    add(name, std::to_string(value));
  }
  template <class T>
  void add(const char* name, const std::optional<T>& value) {
    if (value) {
      add(name, *value);
    } else {
      add(name, "-");
    }
  }
  [[nodiscard]] const std::string& text() const { return text_; }

 private:
  std::string text_;
};

}  // namespace detail

/// What makes two commands the same run: every argument that decides the numbers of training. Files count by
/// their names.
[[nodiscard]] inline std::string run_fingerprint(const options& chosen, const std::string& run_name) {
  detail::asked_values asked;
  asked.add("run", run_name);
  asked.add("model_name_or_path", chosen.model_name_or_path);
  asked.add("model_revision", chosen.model_revision);
  asked.add("config_name", chosen.config_name);
  asked.add("tokenizer_name", chosen.tokenizer_name);
  asked.add("cache_dir", chosen.cache_dir);
  asked.add("from_scratch", chosen.from_scratch);
  asked.add("dataset_name", chosen.dataset_name);
  asked.add("dataset_config_name", chosen.dataset_config_name);
  asked.add("train_file", chosen.train_file);
  asked.add("source_lang", chosen.source_lang);
  asked.add("target_lang", chosen.target_lang);
  asked.add("source_prefix", chosen.source_prefix);
  asked.add("max_source_length", chosen.max_source_length);
  asked.add("max_target_length", chosen.max_target_length);
  asked.add("pad_to_max_length", chosen.pad_to_max_length);
  asked.add("ignore_pad_token_for_loss", chosen.ignore_pad_token_for_loss);
  asked.add("max_train_samples", chosen.max_train_samples);
  asked.add("per_device_train_batch_size", chosen.per_device_train_batch_size);
  asked.add("gradient_accumulation_steps", chosen.gradient_accumulation_steps);
  asked.add("dataloader_drop_last", chosen.dataloader_drop_last);
  asked.add("group_by_length", chosen.group_by_length);
  asked.add("num_train_epochs", chosen.num_train_epochs);
  asked.add("max_steps", chosen.max_steps);
  asked.add("seed", chosen.seed);
  asked.add("data_seed", chosen.data_seed);
  asked.add("optim", chosen.uses_adafactor() ? "adafactor" : "adamw");
  asked.add("learning_rate", chosen.learning_rate);
  asked.add("weight_decay", chosen.weight_decay);
  asked.add("adam_beta1", chosen.adam_beta1);
  asked.add("adam_beta2", chosen.adam_beta2);
  asked.add("adam_epsilon", chosen.adam_epsilon);
  asked.add("max_grad_norm", chosen.max_grad_norm);
  asked.add("lr_scheduler_type", static_cast<int>(chosen.lr_scheduler_type));
  asked.add("lr_scheduler_kwargs", chosen.lr_scheduler_kwargs);
  asked.add("warmup_ratio", chosen.warmup_ratio);
  asked.add("warmup_steps", chosen.warmup_steps);
  asked.add("label_smoothing_factor", chosen.label_smoothing_factor);
  asked.add("deepspeed", chosen.deepspeed);
  return asked.text();
}

namespace detail {

/// In the marker of a run that began anew, its number follows.
inline constexpr std::string_view begun_anew = "begun_anew_as_run ";

}  // namespace detail

/// Says on disk that a run is under way. Only a kill leaves it behind.
class run_marker {
 public:
  /// run_number: of this run. goes_on: from a checkpoint.
  run_marker(const options& chosen, const std::string& fingerprint, index_t run_number, bool goes_on)
      : path_(std::filesystem::path(chosen.output_dir) / run_marker_file) {
    std::string text = fingerprint;
    if (!goes_on) text.append(detail::begun_anew).append(std::to_string(run_number)) += '\n';
    atomic_save save(chosen.output_dir);
    save.add(run_marker_file, text);
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

/// What the marker of an interrupted run says.
struct interrupted_run {
  std::string fingerprint;
  index_t begun_anew_as = 0;  ///< its number; 0: it went on from a checkpoint

  [[nodiscard]] static std::optional<interrupted_run> of(const std::filesystem::path& output) {
    std::ifstream marker(output / run_marker_file, std::ios::binary);
    if (!marker) return std::nullopt;
    interrupted_run run;
    for (std::string line; std::getline(marker, line);) {
      if (line.starts_with(detail::begun_anew)) {
        run.begun_anew_as = std::atoll(line.c_str() + detail::begun_anew.size());
      } else {
        run.fingerprint.append(line) += '\n';
      }
    }
    return run;
  }
};

/// Keeps other runs out of output_dir while this one lives. Throws input_error.
[[nodiscard]] inline directory_lock lock_output_directory(const options& chosen) {
  try {
    return directory_lock(chosen.output_dir);
  } catch (const input_error& failure) {
    throw input_error("--output_dir " + std::string(failure.what()) +
                      ": wait for its end, or name another directory");
  } catch (const io_error& failure) {
    throw io_error("--output_dir " + std::string(failure.what()) + "; name another directory");
  }
}

/// Whether there is nothing in a directory but this run's lock.
[[nodiscard]] inline bool holds_nothing(const std::filesystem::path& directory) {
  std::error_code ignored;
  for (const auto& entry : std::filesystem::directory_iterator(directory, ignored))
    if (entry.path().filename() != directory_lock::file_name) return false;
  return true;
}

/// The checkpoint to go on from, if there is one. As run_translation.py: --resume_from_checkpoint, else,
/// without --overwrite_output_dir, the last one of the last run in output_dir. A directory that is not empty
/// and has none is refused, unless it holds an interrupted run of the same command: that one begins again.
[[nodiscard]] inline std::optional<std::filesystem::path> find_start(const options& chosen,
                                                                     const std::string& fingerprint) {
  namespace fs = std::filesystem;
  if (!chosen.do_train) return std::nullopt;
  const fs::path output = chosen.output_dir;
  std::error_code ignored;
  if (fs::is_directory(output, ignored)) remove_stale_partials(output);
  if (chosen.resume_from_checkpoint && chosen.resume_from_checkpoint->empty()) {
    throw input_error(
        "--resume_from_checkpoint is empty (an unset variable?); name a checkpoint, or leave the flag out");
  }
  const std::optional<checkpoint_directory> there = last_checkpoint(output);
  if (chosen.resume_from_checkpoint && !fs::exists(*chosen.resume_from_checkpoint, ignored)) {
    // As a Python program, or a file of arguments, may say it.
    if (*chosen.resume_from_checkpoint == "True") {
      if (there) return there->path;
      throw input_error("--resume_from_checkpoint True: No valid checkpoint found in output directory (" +
                        chosen.output_dir + "); name one, or leave the flag out");
    }
    if (*chosen.resume_from_checkpoint == "False" && there) return std::nullopt;
  }
  if (chosen.resume_from_checkpoint && *chosen.resume_from_checkpoint != "False") {
    fs::path named = *chosen.resume_from_checkpoint;
    // Without the slash of "checkpoint-500/": the directory above is then the parent.
    if (!named.has_filename()) named = named.parent_path();
    if (fs::exists(named / t5zero::detail::manifest_file, ignored)) return named;
    // The directory of a run in place of a checkpoint in it.
    if (const auto inside = last_checkpoint(named)) {
      throw input_error("--resume_from_checkpoint: Can't find a valid checkpoint at " + named.string() +
                        ": it holds checkpoints and is none; the last one is --resume_from_checkpoint " +
                        inside->path.string());
    }
    if (fs::is_directory(named, ignored)) return named;
    throw input_error("--resume_from_checkpoint: Can't find a valid checkpoint at " + named.string() +
                      (fs::exists(named, ignored) ? ", which is a file" : ", which does not exist") +
                      "; give a directory" +
                      (there ? ", the last one in --output_dir is " + there->path.string()
                             : std::string(" such as output_dir/checkpoint-500")));
  }
  if (chosen.overwrite_output_dir || !fs::is_directory(output, ignored) || holds_nothing(output))
    return std::nullopt;
  const std::optional<interrupted_run> before = interrupted_run::of(output);
  const bool is_same = before && before->fingerprint == fingerprint;
  if (there) {
    const bool is_of_earlier = before && before->begun_anew_as > last_run_number(output);
    if (is_of_earlier && is_same) {
      std::cerr << "Output directory (" << chosen.output_dir
                << ") holds an interrupted run of this command, without a checkpoint of its own: it begins "
                   "again; the checkpoints are of an earlier run\n";
      return std::nullopt;
    }
    std::cerr
        << "Checkpoint detected, resuming training at " << there->path.string()
        << ". To avoid this behavior, change the `--output_dir` or add `--overwrite_output_dir` to train "
           "from scratch.\n";
    if (is_of_earlier)
      std::cerr << "warning: it is of an earlier run: the last one here began anew and has no checkpoint\n";
    const checkpoint_directory highest = find_checkpoints(output).back();
    if (highest.step != there->step)
      std::cerr << "It is the last one of the last run; " << highest.path.string()
                << " is of an earlier one\n";
    return there->path;
  }
  if (is_same) {
    std::cerr << "Output directory (" << chosen.output_dir
              << ") holds an interrupted run of this command, without a checkpoint: it begins again\n";
    return std::nullopt;
  }
  throw input_error("--output_dir " + chosen.output_dir + ": Output directory (" + chosen.output_dir +
                    ") already exists and is not empty. Use --overwrite_output_dir to overcome.");
}

/// What to say when a checkpoint is damaged: the one before it, if there is one.
[[nodiscard]] inline std::string other_checkpoint_hint(std::filesystem::path damaged) {
  if (!damaged.has_filename()) damaged = damaged.parent_path();  // of "checkpoint-500/"
  std::string hint;
  for (const checkpoint_directory& other :
       find_checkpoints(std::filesystem::absolute(damaged).parent_path())) {
    if (other.path.filename() == damaged.filename()) break;
    hint = ". The one before: --resume_from_checkpoint " +
           (damaged.parent_path() / other.path.filename()).string();
  }
  return hint;
}

}  // namespace t5zero::cli
