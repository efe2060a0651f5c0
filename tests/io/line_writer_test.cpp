// Lines to files that appear whole.
#include <t5zero/io/line_writer.hpp>

#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>

#include "catch.hpp"

namespace {

namespace fs = std::filesystem;
using t5zero::line_writer;

class scratch_directory {
 public:
  scratch_directory() : path(fs::temp_directory_path() / ("t5zero_lines." + std::to_string(::getpid()))) {
    fs::create_directories(path);
  }
  scratch_directory(const scratch_directory&) = delete;
  scratch_directory& operator=(const scratch_directory&) = delete;
  ~scratch_directory() { fs::remove_all(path); }

  const fs::path path;
};

std::string text_of(const fs::path& path) {
  std::ifstream file(path);
  return {std::istreambuf_iterator<char>(file), {}};
}

}  // namespace

TEST_CASE("a file stays as it was until all lines are there", "[io]") {
  const scratch_directory scratch;
  const fs::path file = scratch.path / "a.txt";
  std::ofstream(file) << "before";
  {
    line_writer lines(file.string(), "--output");
    lines.add("one");
    lines.flush();
    CHECK(text_of(file) == "before");
  }
  CHECK(text_of(file) == "before");
  fs::create_symlink("a.txt", scratch.path / "link");
  line_writer lines((scratch.path / "link").string(), "--output");
  lines.add("one");
  lines.flush();
  lines.add("");
  lines.finish();
  CHECK(text_of(file) == "one\n\n");
  CHECK(fs::is_symlink(scratch.path / "link"));
  CHECK(std::distance(fs::directory_iterator(scratch.path), {}) == 2);
}

TEST_CASE("what is no file is written to as it is", "[io]") {
  line_writer lines("/dev/null", "--output");
  lines.add("one");
  lines.finish();
  CHECK(fs::is_character_file("/dev/null"));
  line_writer full("/dev/full", "--output");
  full.add("one");
  CHECK_THROWS_AS(full.flush(), t5zero::io_error);
}

TEST_CASE("names that cannot be written are refused at once", "[io]") {
  const scratch_directory scratch;
  CHECK_THROWS_AS(line_writer("", "--output"), t5zero::io_error);
  CHECK_THROWS_AS(line_writer(scratch.path.string(), "--output"), t5zero::io_error);
  CHECK_THROWS_AS(line_writer((scratch.path / "none" / "a.txt").string(), "--output"), t5zero::io_error);
  CHECK(fs::is_empty(scratch.path));
}

TEST_CASE("a refusal gives the system's reason", "[io]") {
  const scratch_directory scratch;
  const auto refusal = [](const std::string& path) {
    try {
      line_writer(path, "--output");
    } catch (const t5zero::io_error& refused) {
      return std::string(refused.what());
    }
    return std::string("nothing thrown");
  };
  std::ofstream(scratch.path / "file") << "before";
  CHECK(refusal(scratch.path.string()) ==
        "--output " + scratch.path.string() + ": cannot be written (Is a directory); name another file");
  CHECK(refusal((scratch.path / "none/a.txt").string()).find("(No such file or directory)") !=
        std::string::npos);
  CHECK(refusal((scratch.path / "file/a.txt").string()).find("(Not a directory)") != std::string::npos);
  CHECK(refusal("").find("its name is empty") != std::string::npos);
}

TEST_CASE("a bare name is a file of the working directory", "[io]") {
  const scratch_directory scratch;
  const fs::path before = fs::current_path();
  fs::current_path(scratch.path);
  {
    line_writer lines("a.txt", "--output");
    lines.add("one");
    lines.finish();
  }
  fs::current_path(before);
  CHECK(text_of(scratch.path / "a.txt") == "one\n");
}

TEST_CASE("what a shell opened is written to behind what is in it", "[io]") {
  const scratch_directory scratch;
  const fs::path file = scratch.path / "a.txt";
  std::ofstream(file) << "before\n";
  const int opened = ::open(file.c_str(), O_WRONLY | O_APPEND | O_CLOEXEC);
  std::array<int, 2> ends{};
  REQUIRE(::pipe(ends.data()) == 0);
  for (const int descriptor : {opened, ends[1]}) {
    line_writer lines("/dev/fd/" + std::to_string(descriptor), "--output");
    lines.add("one");
    lines.finish();
  }
  CHECK(text_of(file) == "before\none\n");
  std::array<char, 8> got{};
  CHECK(::read(ends[0], got.data(), got.size()) == 4);
  CHECK(std::string(got.data(), 4) == "one\n");
  for (const int descriptor : {opened, ends[0], ends[1]}) ::close(descriptor);
}

TEST_CASE("what a killed program left of the same file goes, and nothing else", "[io]") {
  const scratch_directory scratch;
  const pid_t child = ::fork();
  if (child == 0) ::_exit(0);
  int status = 0;
  REQUIRE(::waitpid(child, &status, 0) == child);
  const std::string gone = std::to_string(child) + ".partial";
  const std::string lives = std::to_string(::getppid()) + ".partial";
  for (const std::string& name :
       {".a.txt." + gone, ".b.txt." + gone, ".a.txt." + lives, std::string(".a.txt.partial")})
    std::ofstream(scratch.path / name) << "half a line";
  line_writer lines((scratch.path / "a.txt").string(), "--output");
  lines.finish();
  CHECK(!fs::exists(scratch.path / (".a.txt." + gone)));
  CHECK(fs::exists(scratch.path / (".b.txt." + gone)));
  CHECK(fs::exists(scratch.path / (".a.txt." + lives)));
  CHECK(fs::exists(scratch.path / ".a.txt.partial"));
}
