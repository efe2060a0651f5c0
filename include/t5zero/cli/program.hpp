// What every program around a run does: find its ds_config, turn exceptions into messages and exit codes.
#pragma once

#include <array>
#include <cstddef>
#include <cstdlib>
#include <exception>
#include <filesystem>
#include <iostream>
#include <optional>
#include <string>
#include <system_error>

#include <t5zero/cli/options.hpp>
#include <t5zero/core/error.hpp>
#include <t5zero/io/strict_json.hpp>
#include <t5zero/zero/ds_config.hpp>
#include <t5zero/zero/read_ds_config.hpp>

namespace t5zero::cli {

/// Where installed ds_config files lie: ../share/t5zero/config beside the program, and config/ of a build
/// tree's source.
inline std::array<std::filesystem::path, 2> installed_config_directories() {
  std::error_code ignored;
  const std::filesystem::path program = std::filesystem::read_symlink("/proc/self/exe", ignored);
  const std::filesystem::path bin = program.parent_path();
  const std::filesystem::path build = bin.parent_path();
  const std::filesystem::path installed = build / "share" / "t5zero" / "config";
  if (!std::filesystem::exists(build / "CMakeCache.txt", ignored)) return {installed, installed};
  return {build.parent_path().parent_path() / "examples" / "config", installed};
}

/// Whether --deepspeed is given the configuration itself, as transformers takes it, in place of a file.
[[nodiscard]] inline bool is_ds_config_text(const std::string& given) {
  const std::size_t first = given.find_first_not_of(" \t\n");
  return first != std::string::npos && given[first] == '{';
}

[[nodiscard]] inline std::optional<ds_config> read_deepspeed(const options& chosen) {
  if (!chosen.deepspeed) return std::nullopt;
  if (chosen.deepspeed->empty()) {
    throw input_error(
        "--deepspeed '': the name of a configuration file is needed (an unset variable?); or leave the flag "
        "out");
  }
  if (is_ds_config_text(*chosen.deepspeed)) {
    return parse_ds_config(parse_strict_json(*chosen.deepspeed, "--deepspeed"), "--deepspeed {...}");
  }
  return read_ds_config(*chosen.deepspeed, installed_config_directories());
}

/// Says where a ds_config was found that is not where --deepspeed says.
inline void tell_place_of(const ds_config& config, const options& chosen) {
  if (config.source == *chosen.deepspeed || is_ds_config_text(*chosen.deepspeed)) return;
  std::cerr << "--deepspeed " << *chosen.deepspeed << ": no such file here; using " << config.source << "\n";
}

/// Refuses to be one of several processes: each would train alone and all would write one directory. Throws
/// input_error naming the variable by which a launcher says so: torchrun, Open MPI's mpirun, MPICH's, srun.
inline void check_one_rank() {
  for (const char* name : {"WORLD_SIZE", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS"}) {
    const char* value = std::getenv(name);
    if (value == nullptr || std::atoll(value) <= 1) continue;
    throw input_error("the environment has " + std::string(name) + "=" + value +
                      ": one rank is supported for now; start one process, or unset the variable");
  }
}

/// Runs `body` and turns exceptions into a message on stderr and an exit code.
template <class Body>
int report_errors(const char* program, const Body& body) {
  try {
    return body();
  } catch (const error& e) {
    std::cerr << program << ": error: " << e.what() << "\n";
    return e.exit_code();
  } catch (const std::exception& e) {
    std::cerr << program << ": error: " << e.what() << "\n";
    return 1;
  }
}

}  // namespace t5zero::cli
