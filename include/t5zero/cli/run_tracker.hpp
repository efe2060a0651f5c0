// The figures of a run as TensorBoard's event files.
#pragma once

#include <unistd.h>

#include <ctime>
#include <filesystem>
#include <optional>
#include <string>

#include <t5zero/cli/options.hpp>
#include <t5zero/io/tensorboard.hpp>
#include <t5zero/train/log_history.hpp>

namespace t5zero::cli {

/// Where Hugging Face puts its event files: runs/<month day_hour-minute-second>_<host>.
[[nodiscard]] inline std::filesystem::path tensorboard_directory(const options& chosen) {
  if (chosen.logging_dir) return *chosen.logging_dir;
  const std::time_t now = std::time(nullptr);
  char date[64];
  struct tm local {};
  std::strftime(date, sizeof(date), "%b%d_%H-%M-%S", ::localtime_r(&now, &local));
  char host[256] = {};
  ::gethostname(host, sizeof(host) - 1);
  return std::filesystem::path(chosen.output_dir) / "runs" / (std::string(date) + "_" + host);
}

/// Writes log lines for TensorBoard once it was started; before that they are dropped.
class run_tracker {
 public:
  /// Makes the event file if --report_to asks for one.
  void start(const options& chosen) {
    if (chosen.reports_to_tensorboard()) tensorboard_.emplace(tensorboard_directory(chosen));
  }
  /// Hugging Face's tags: eval_x is eval/x, everything else train/x. has_epoch: false if nothing is trained.
  void track(const log_entry& entry, bool has_epoch = true) {
    if (!tensorboard_) return;
    for (const auto& [key, value] : entry.values) {
      const bool evaluates = key.starts_with("eval_");
      tensorboard_->add_scalar(evaluates ? "eval/" + key.substr(5) : "train/" + key, value, entry.step);
    }
    if (has_epoch) tensorboard_->add_scalar("train/epoch", entry.epoch, entry.step);
  }

 private:
  std::optional<tensorboard_writer> tensorboard_;
};

}  // namespace t5zero::cli
