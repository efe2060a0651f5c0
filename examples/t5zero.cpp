// The launcher: t5zero --num_gpus=1 run_translation ...

#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <filesystem>
#include <iostream>
#include <string>
#include <system_error>
#include <vector>

#include <t5zero/cli/launcher.hpp>
#include <t5zero/core/error.hpp>

int main(int argc, char** argv) {
  try {
    const std::vector<std::string> tokens(argv + (argc > 0 ? 1 : 0), argv + argc);
    std::error_code status;
    std::filesystem::path self = std::filesystem::read_symlink("/proc/self/exe", status);
    if (status) self = argc > 0 ? argv[0] : "t5zero";
    const char* search_path = std::getenv("PATH");
    t5zero::launch_plan plan =
        t5zero::plan_launch(tokens, self.parent_path(), search_path == nullptr ? "" : search_path);
    if (!plan.help_text.empty()) {
      std::cout << plan.help_text;
      return 0;
    }
    for (const std::string& notice : plan.notices) std::cerr << notice << '\n';
    for (const auto& [name, value] : plan.environment) setenv(name.c_str(), value.c_str(), /*overwrite=*/1);
    std::vector<char*> arguments = {plan.program.data()};
    for (std::string& argument : plan.arguments) arguments.push_back(argument.data());
    arguments.push_back(nullptr);
    execv(plan.program.c_str(), arguments.data());
    throw t5zero::io_error(plan.program + ": cannot be started: " + std::strerror(errno));
  } catch (const t5zero::error& failure) {
    std::cerr << "t5zero: " << failure.what() << '\n';
    return failure.exit_code();
  } catch (const std::exception& failure) {
    std::cerr << "t5zero: " << failure.what() << '\n';
    return 1;
  }
}
