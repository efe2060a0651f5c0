// The launcher `t5zero [flags] PROGRAM ARGUMENTS`: DeepSpeed's launcher flags, the program to start, its
// environment.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include <unistd.h>

#include <t5zero/core/error.hpp>

namespace t5zero {

/// What the launcher is to start.
struct launch_plan {
  std::string program;                 ///< as found: a path for execv
  std::vector<std::string> arguments;  ///< verbatim, without the program
  std::vector<std::pair<std::string, std::string>> environment;
  std::vector<std::string> notices;  ///< lines for stderr
  std::string help_text;             ///< not empty: print and exit with 0
};

namespace detail {

struct launcher_flag {
  std::string_view name;
  bool takes_value = false;
  std::string_view refusal;  ///< empty: accepted
};

// DeepSpeed, launcher/runner.py. Refused is what needs several processes or hosts, or Python.
inline constexpr std::string_view one_process = "one process on this host is supported for now";
inline constexpr std::array<launcher_flag, 28> launcher_flags = {{
    {"--num_gpus", true, ""},
    {"--num_nodes", true, ""},
    {"--master_addr", true, ""},
    {"--master_port", true, ""},
    {"--node_rank", true, ""},
    {"--no_local_rank", false, ""},
    {"--no_python", false, ""},
    {"--no_ssh_check", false, ""},
    {"--no_ssh", false, ""},
    {"--log_level", true, ""},
    {"--quiet", false, ""},
    {"-q", false, ""},
    {"--help", false, ""},
    {"-h", false, ""},
    {"--hostfile", true, one_process},
    {"-H", true, one_process},
    {"--include", true, "choose the GPU with CUDA_VISIBLE_DEVICES"},
    {"-i", true, "choose the GPU with CUDA_VISIBLE_DEVICES"},
    {"--exclude", true, "choose the GPU with CUDA_VISIBLE_DEVICES"},
    {"-e", true, "choose the GPU with CUDA_VISIBLE_DEVICES"},
    {"--launcher", true, one_process},
    {"--launcher_args", true, one_process},
    {"--module", false, "programs are executables, not Python modules"},
    {"--save_pid", false, "the program keeps the launcher's process id"},
    {"--enable_each_rank_log", true, "redirect the output with the shell"},
    {"--bind_cores_to_rank", false, "use taskset or numactl"},
    {"--bind_core_list", true, "use taskset or numactl"},
    {"--ssh_port", true, one_process},
}};

inline long launcher_number(const std::string& flag, const std::string& value, long low, long high) {
  const bool digits = !value.empty() && value.size() < 7 &&
                      std::all_of(value.begin(), value.end(), [](char c) { return c >= '0' && c <= '9'; });
  const long number = digits ? std::stol(value) : -1;
  if (number < low || number > high) {
    throw input_error(flag + " " + value + ": a number from " + std::to_string(low) + " to " +
                      std::to_string(high) + " is needed");
  }
  return number;
}

}  // namespace detail

/// Finds a program: a name with a slash as it is, else beside the launcher, else on PATH. Throws input_error
/// with the places tried.
[[nodiscard]] inline std::string find_program(const std::string& name,
                                              const std::filesystem::path& own_directory,
                                              std::string_view search_path) {
  const auto runnable = [](const std::filesystem::path& path) {
    std::error_code status;
    return std::filesystem::is_regular_file(path, status) && access(path.c_str(), X_OK) == 0;
  };
  if (name.find('/') != std::string::npos) {
    if (runnable(name)) return name;
    throw input_error(name + ": no such executable");
  }
  if (const auto beside = own_directory / name; runnable(beside)) return beside.string();
  while (!search_path.empty()) {
    const std::size_t colon = std::min(search_path.find(':'), search_path.size());
    const std::filesystem::path directory(search_path.substr(0, colon));
    if (!directory.empty() && runnable(directory / name)) return (directory / name).string();
    search_path.remove_prefix(std::min(colon + 1, search_path.size()));
  }
  throw input_error(name + ": no such executable beside the launcher (" + own_directory.string() +
                    ") or on PATH");
}

/// Reads the launcher's own flags up to the program's name; everything behind it is the program's.
/// `own_directory` is the launcher's, `search_path` the PATH. Throws input_error for refused flags, missing
/// programs and bad numbers.
[[nodiscard]] inline launch_plan plan_launch(std::span<const std::string> tokens,
                                             const std::filesystem::path& own_directory,
                                             std::string_view search_path) {
  launch_plan plan;
  std::string address = "127.0.0.1";
  std::string port = "29500";
  std::size_t i = 0;
  for (; i < tokens.size() && tokens[i].starts_with("-"); ++i) {
    const std::size_t equals = tokens[i].find('=');
    const std::string name = tokens[i].substr(0, equals);
    const auto flag = std::find_if(detail::launcher_flags.begin(), detail::launcher_flags.end(),
                                   [&](const detail::launcher_flag& known) { return known.name == name; });
    if (flag == detail::launcher_flags.end()) {
      throw input_error("the launcher has no flag " + name +
                        "; flags of the program belong behind its name (t5zero --help lists the launcher's)");
    }
    if (!flag->refusal.empty()) throw input_error(name + " is refused: " + std::string(flag->refusal));
    std::string value;
    if (flag->takes_value) {
      if (equals != std::string::npos) {
        value = tokens[i].substr(equals + 1);
      } else if (i + 1 < tokens.size()) {
        value = tokens[++i];
      } else {
        throw input_error(name + ": a value is needed after it");
      }
    } else if (equals != std::string::npos) {
      throw input_error(tokens[i] + ": " + name + " takes no value; remove what follows '='");
    }
    if (name == "--help" || name == "-h") {
      plan.help_text =
          "usage: t5zero [flags] PROGRAM [arguments of the program]\n\n"
          "Starts PROGRAM (e.g. run_translation) as rank 0 of 1; a path that ends in run_translation.py "
          "means run_translation.\n\nflags:\n";
      for (const detail::launcher_flag& known : detail::launcher_flags) {
        plan.help_text.append("  ").append(known.name).append(known.takes_value ? " VALUE" : "");
        if (!known.refusal.empty()) plan.help_text.append("  (refused: ").append(known.refusal).append(")");
        plan.help_text.append("\n");
      }
      return plan;
    }
    if (name == "--num_gpus" || name == "--num_nodes") {
      if (value == "-1") continue;  // DeepSpeed's default: all there are
      if (detail::launcher_number(name, value, 1, 99999) > 1) {
        throw input_error(name + " " + value + ": " + std::string(detail::one_process) + "; give " + name +
                          "=1");
      }
    } else if (name == "--master_port") {
      port = std::to_string(detail::launcher_number(name, value, 1, 65535));
    } else if (name == "--node_rank") {
      if (value != "-1" && value != "0")
        throw input_error(name + " " + value + ": there is one node; give 0");
    } else if (name == "--master_addr") {
      if (!value.empty()) address = value;
    }
  }
  if (i == tokens.size()) {
    throw input_error("no program to start; e.g. t5zero --num_gpus=1 run_translation --help");
  }
  std::string name = tokens[i];
  if (name == "run_translation.py" || name.ends_with("/run_translation.py")) {
    plan.notices.push_back("t5zero: " + name +
                           " means the executable run_translation here; no Python is run");
    name = "run_translation";
  }
  plan.program = find_program(name, own_directory, search_path);
  plan.arguments.assign(tokens.begin() + static_cast<std::ptrdiff_t>(i) + 1, tokens.end());
  plan.environment = {{"RANK", "0"},
                      {"WORLD_SIZE", "1"},
                      {"LOCAL_RANK", "0"},
                      {"MASTER_ADDR", address},
                      {"MASTER_PORT", port}};
  return plan;
}

}  // namespace t5zero
