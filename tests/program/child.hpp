// Programs run as a user runs them: what they say, how they end, what they leave behind.
#pragma once

#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <string>
#include <thread>
#include <vector>

#include <fcntl.h>

namespace t5zero_test {

/// A user and group without rights of their own.
inline constexpr uid_t nobody = 65534;

struct outcome {
  int code = -1;  ///< -1: it did not end by itself
  std::string out;
  std::string err;
};

inline std::string content_of(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

/// A program that runs beside the test; killed with it.
class running_program {
 public:
  /// out: where its standard output goes; -1: to `log`, as what it says on standard error.
  running_program(const std::vector<std::string>& arguments, const std::filesystem::path& directory,
                  const std::filesystem::path& log, int out = -1)
      : child_(::fork()) {
    if (child_ != 0) return;
    std::vector<char*> argv;
    for (const std::string& argument : arguments) argv.push_back(const_cast<char*>(argument.c_str()));
    argv.push_back(nullptr);
    const int to = ::open(log.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    if (::chdir(directory.c_str()) == 0 && ::dup2(out < 0 ? to : out, 1) == 1 && ::dup2(to, 2) == 2)
      ::execv(argv[0], argv.data());
    ::_exit(127);
  }
  running_program(const running_program&) = delete;
  running_program& operator=(const running_program&) = delete;
  ~running_program() {
    if (ended_) return;
    send(SIGKILL);
    (void)status();
  }

  [[nodiscard]] pid_t id() const { return child_; }
  void send(int number) const { ::kill(child_, number); }
  [[nodiscard]] bool ended() {
    if (!ended_) ended_ = ::waitpid(child_, &status_, WNOHANG) == child_;
    return ended_;
  }
  /// Waits for the end; the exit status as waitpid has it.
  [[nodiscard]] int status() {
    if (!ended_) ended_ = ::waitpid(child_, &status_, 0) == child_;
    return status_;
  }
  /// Waits until `holds`, the program's end, or a minute has passed; returns whether it holds.
  template <class Condition>
  [[nodiscard]] bool wait_until(const Condition& holds) {
    for (int i = 0; i < 60'000 / 5 && !holds(); ++i) {
      if (ended()) break;
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }
    return holds();
  }

 private:
  pid_t child_;
  int status_ = 0;
  bool ended_ = false;
};

/// A directory of its own for each test, gone at the end. Inputs and outputs lie under `work`; what programs
/// print does not.
class sandbox {
 public:
  sandbox() {
    std::string name = (std::filesystem::temp_directory_path() / "t5zero_program_XXXXXX").string();
    if (::mkdtemp(name.data()) == nullptr) throw std::filesystem::filesystem_error("mkdtemp", {});
    root_ = name;
    std::filesystem::create_directories(work());
  }
  sandbox(const sandbox&) = delete;
  sandbox& operator=(const sandbox&) = delete;
  ~sandbox() { std::filesystem::remove_all(root_); }

  [[nodiscard]] std::filesystem::path work() const { return root_ / "work"; }

  /// Writes work/name; gives its path as text.
  std::string write(const std::string& name, const std::string& text) const {
    const std::filesystem::path path = work() / name;
    std::filesystem::create_directories(path.parent_path());
    std::ofstream(path, std::ios::binary) << text;
    return path.string();
  }

  /// Every path below work() with its content.
  [[nodiscard]] std::map<std::string, std::string> contents() const {
    std::map<std::string, std::string> all;
    for (const auto& entry : std::filesystem::recursive_directory_iterator(work())) {
      all[entry.path().string()] = entry.is_regular_file() ? content_of(entry.path()) : "";
    }
    return all;
  }

  /// Runs `arguments` (the program first) in work() with no Hub cache but work()/hub. `largest_file`: bytes
  /// that a file may have, which stands for the disk's size; 0: no limit.
  /// without_root: gives up root's rights; the files must be open to others.
  [[nodiscard]] outcome run(const std::vector<std::string>& arguments, rlim_t largest_file = 0,
                            bool without_root = false) const {
    const std::filesystem::path out = root_ / "out";
    const std::filesystem::path err = root_ / "err";
    std::vector<char*> argv;
    for (const std::string& argument : arguments) argv.push_back(const_cast<char*>(argument.c_str()));
    argv.push_back(nullptr);
    const pid_t child = ::fork();
    if (child == 0) {
      const auto send = [](const std::filesystem::path& path, int to) {
        return ::dup2(::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600), to) == to;
      };
      ::setenv("HF_HUB_CACHE", (work() / "hub").c_str(), 1);
      bool ready = ::chdir(work().c_str()) == 0 && send(out, 1) && send(err, 2);
      if (largest_file > 0) {
        std::signal(SIGXFSZ, SIG_IGN);
        const struct rlimit limit { largest_file, largest_file };
        ready = ready && ::setrlimit(RLIMIT_FSIZE, &limit) == 0;
      }
      // The rights of root would read everything.
      if (without_root) ready = ready && ::setgid(nobody) == 0 && ::setuid(nobody) == 0;
      if (ready) ::execv(argv[0], argv.data());
      ::_exit(127);
    }
    int status = 0;
    ::waitpid(child, &status, 0);
    return {WIFEXITED(status) ? WEXITSTATUS(status) : -1, content_of(out), content_of(err)};
  }

 private:
  std::filesystem::path root_;
};

}  // namespace t5zero_test
