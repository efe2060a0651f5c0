#include <t5zero/cli/launcher.hpp>

#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <string>
#include <utility>
#include <vector>

#include "catch.hpp"

namespace {

/// A directory with an executable run_translation, gone at the end.
struct program_directory {
  std::filesystem::path path =
      std::filesystem::temp_directory_path() / ("t5zero_launcher_" + std::to_string(getpid()));
  program_directory() {
    std::filesystem::create_directories(path);
    std::ofstream(path / "run_translation") << "#!/bin/sh\n";
    std::filesystem::permissions(path / "run_translation", std::filesystem::perms::owner_all);
  }
  ~program_directory() { std::filesystem::remove_all(path); }
};
std::string refusal(const std::vector<std::string>& tokens, const std::filesystem::path& directory) {
  try {
    (void)t5zero::plan_launch(tokens, directory, "");
  } catch (const t5zero::input_error& failure) {
    return failure.what();
  }
  return "nothing thrown";
}
bool has(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

}  // namespace

TEST_CASE("the launcher starts the program beside it with one process's environment") {
  const program_directory directory;
  const std::vector<std::string> tokens = {
      "--num_gpus=1", "--master_port", "1234",  "translation/run_translation.py",
      "--deepspeed",  "a.json",        "--fp16"};
  const auto plan = t5zero::plan_launch(tokens, directory.path, "");
  CHECK(plan.program == (directory.path / "run_translation").string());
  CHECK(plan.arguments == std::vector<std::string>{"--deepspeed", "a.json", "--fp16"});
  CHECK(plan.notices.size() == 1);
  CHECK(plan.environment[1] == std::pair<std::string, std::string>{"WORLD_SIZE", "1"});
  CHECK(plan.environment[4] == std::pair<std::string, std::string>{"MASTER_PORT", "1234"});
}

TEST_CASE("a program is also found on PATH") {
  const program_directory directory;
  const std::vector<std::string> tokens = {"run_translation"};
  const auto plan =
      t5zero::plan_launch(tokens, "/nonexistent", "/nonexistent:" + directory.path.string() + ":");
  CHECK(plan.program == (directory.path / "run_translation").string());
  CHECK(plan.notices.empty());
  CHECK(has(refusal({"run_translation"}, "/nonexistent"), "run_translation: no such executable"));
}

TEST_CASE("launcher flags are accepted or refused with a reason") {
  const program_directory directory;
  CHECK(has(refusal({"--num_gpus", "2", "run_translation"}, directory.path), "--num_gpus 2: one process"));
  CHECK(has(refusal({"--num_gpus", "0", "run_translation"}, directory.path), "--num_gpus 0"));
  CHECK(has(refusal({"--include=localhost:1", "run_translation"}, directory.path), "CUDA_VISIBLE_DEVICES"));
  CHECK(has(refusal({"--hostfile", "h", "run_translation"}, directory.path), "--hostfile is refused"));
  CHECK(has(refusal({"--fp16", "run_translation"}, directory.path), "the launcher has no flag --fp16"));
  CHECK(has(refusal({"--num_gpus"}, directory.path), "a value is needed"));
  CHECK(has(refusal({"--num_gpus=1"}, directory.path), "no program to start"));
  CHECK(refusal({"--num_gpus=-1", "--no_local_rank", "run_translation"}, directory.path) == "nothing thrown");
  const std::vector<std::string> help = {"--help"};
  CHECK(has(t5zero::plan_launch(help, directory.path, "").help_text, "--num_gpus"));
}
