// Trainings of a tiny model for the tests of what interrupts them.
#pragma once

#include <algorithm>
#include <filesystem>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "program/child.hpp"

namespace t5zero_test {

using words = std::vector<std::string>;

/// Trains a tiny model with dropout for three epochs of 51 updates; the last batch of an epoch is short.
class training_sandbox : public sandbox {
 public:
  training_sandbox() {
    const std::string data = std::string(T5ZERO_SOURCE_DIR) + "/examples/data/en-ro/";
    write("train.jsonl", content_of(data + "train.jsonl"));
    write("validation.jsonl", content_of(data + "validation.jsonl"));
  }
  static words command(const words& more) {
    words all = {std::string(T5ZERO_BIN_DIR) + "/t5_tiny_plain",
                 "--from_scratch",
                 "--config_name",
                 "t5-tiny",
                 "--source_lang",
                 "en",
                 "--target_lang",
                 "ro",
                 "--train_file",
                 "train.jsonl",
                 "--do_train",
                 "--num_train_epochs",
                 "3",
                 "--per_device_train_batch_size",
                 "4",
                 "--learning_rate",
                 "3e-3",
                 "--logging_steps",
                 "5",
                 "--save_steps",
                 "9",
                 "--threads",
                 "2"};
    all.insert(all.end(), more.begin(), more.end());
    return all;
  }
  /// One update from the model in a directory; where it is saved, and more, is for the caller to say.
  static words one_update_from(const std::string& model) {
    return {std::string(T5ZERO_BIN_DIR) + "/t5_tiny_plain",
            "--model_name_or_path",
            model,
            "--source_lang",
            "en",
            "--target_lang",
            "ro",
            "--train_file",
            "train.jsonl",
            "--do_train",
            "--max_steps",
            "1"};
  }
  [[nodiscard]] outcome trains(const words& more) const { return run(command(more)); }
  [[nodiscard]] std::string file(const std::string& name) const { return content_of(work() / name); }

  /// step, loss, grad_norm, learning_rate of each log line.
  [[nodiscard]] nlohmann::json losses(const std::string& directory) const {
    nlohmann::json rows = nlohmann::json::array();
    const nlohmann::json state = nlohmann::json::parse(file(directory + "/trainer_state.json"));
    for (const auto& entry : state["log_history"]) {
      if (entry.contains("loss"))
        rows.push_back({entry["step"], entry["loss"], entry["grad_norm"], entry["learning_rate"]});
    }
    return rows;
  }
  [[nodiscard]] std::vector<std::string> checkpoints(const std::string& directory) const {
    std::vector<std::string> names;
    for (const auto& entry : std::filesystem::directory_iterator(work() / directory)) {
      const std::string name = entry.path().filename().string();
      if (name.find("checkpoint") != std::string::npos) names.push_back(name);
    }
    std::sort(names.begin(), names.end());
    return names;
  }

  /// Starts the command in work(); its output is added to `log`.
  [[nodiscard]] running_program starts(const words& arguments, int out = -1) const {
    return {arguments, work(), log_file(), out};
  }
  [[nodiscard]] std::filesystem::path log_file() const { return work().parent_path() / "log"; }
  [[nodiscard]] std::string log() const { return content_of(log_file()); }
};

}  // namespace t5zero_test
