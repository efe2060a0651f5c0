// checkpoint-N directories: which ones go, and that none is lost while another takes its place.
#include <t5zero/io/checkpoint_directory.hpp>

#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <set>
#include <string>

#include "catch.hpp"

namespace {

namespace fs = std::filesystem;
using t5zero::index_t;

class scratch_directory {
 public:
  scratch_directory()
      : path(fs::temp_directory_path() / ("t5zero_checkpoints." + std::to_string(::getpid()))) {
    fs::create_directories(path);
  }
  scratch_directory(const scratch_directory&) = delete;
  scratch_directory& operator=(const scratch_directory&) = delete;
  ~scratch_directory() { fs::remove_all(path); }

  const fs::path path;
};

void save(const fs::path& output, index_t step, const std::string& text) {
  t5zero::save_checkpoint(output, step, [&](t5zero::atomic_save& to) { to.add("a.txt", text); });
}
std::string text_in(const fs::path& directory) {
  std::ifstream file(directory / "a.txt");
  return {std::istreambuf_iterator<char>(file), {}};
}
std::set<std::string> names(const fs::path& directory) {
  std::set<std::string> found;
  for (const auto& entry : fs::directory_iterator(directory)) found.insert(entry.path().filename().string());
  return found;
}
std::set<index_t> steps(const fs::path& output) {
  std::set<index_t> found;
  for (const auto& checkpoint : t5zero::find_checkpoints(output)) found.insert(checkpoint.step);
  return found;
}

}  // namespace

TEST_CASE("the oldest checkpoints go, other runs' first, and never one that is kept", "[io]") {
  const scratch_directory scratch;
  for (const index_t step : {10, 20, 30, 500}) save(scratch.path, step, "x");
  SECTION("by number") {
    t5zero::prune_checkpoints(scratch.path, 2, {500});
    CHECK(steps(scratch.path) == std::set<index_t>{30, 500});
  }
  SECTION("what was just written stays beside higher numbers of another run") {
    t5zero::prune_checkpoints(scratch.path, 1, {30}, {20, 500});
    CHECK(steps(scratch.path) == std::set<index_t>{30});
  }
  SECTION("other runs' count as older") {
    t5zero::prune_checkpoints(scratch.path, 2, {30}, {20, 500});
    CHECK(steps(scratch.path) == std::set<index_t>{10, 30});
  }
  SECTION("the best one and the last one, although the limit is 1") {
    t5zero::prune_checkpoints(scratch.path, 1, {10, 500});
    CHECK(steps(scratch.path) == std::set<index_t>{10, 500});
  }
}

TEST_CASE("a checkpoint that is written again replaces the one before", "[io]") {
  const scratch_directory scratch;
  save(scratch.path, 5, "first");
  save(scratch.path, 5, "second");
  CHECK(text_in(scratch.path / "checkpoint-5") == "second");
  CHECK(names(scratch.path) == std::set<std::string>{"checkpoint-5"});
}

TEST_CASE("where names cannot be exchanged, the old checkpoint comes back if the new one fails", "[io]") {
  const scratch_directory scratch;
  save(scratch.path, 5, "first");
  const fs::path target = scratch.path / "checkpoint-5";
  CHECK_THROWS_AS(t5zero::detail::replace_in_two_steps(scratch.path / "none", target), t5zero::io_error);
  CHECK(text_in(target) == "first");
  save(scratch.path, 6, "second");
  t5zero::detail::replace_in_two_steps(scratch.path / "checkpoint-6", target);
  CHECK(text_in(target) == "second");
  CHECK(names(scratch.path) == std::set<std::string>{"checkpoint-5"});
}

TEST_CASE("what a killed process was replacing gets its name back", "[io]") {
  const scratch_directory scratch;
  const pid_t ended = ::fork();
  if (ended == 0) ::_exit(0);
  ::waitpid(ended, nullptr, 0);
  const auto left = [&](const std::string& name, const std::string& why) {
    save(scratch.path, 1, name);
    fs::rename(scratch.path / "checkpoint-1",
               scratch.path / std::string(".").append(name + "." + std::to_string(ended) + why));
  };
  left("checkpoint-5", ".replaced");
  left("checkpoint-5", ".partial");
  left("checkpoint-7", ".replaced");
  left("checkpoint-8", ".removed");
  save(scratch.path, 7, "successor");
  t5zero::remove_stale_partials(scratch.path);
  CHECK(names(scratch.path) == std::set<std::string>{"checkpoint-5", "checkpoint-7"});
  CHECK(text_in(scratch.path / "checkpoint-5") == "checkpoint-5");
  CHECK(text_in(scratch.path / "checkpoint-7") == "successor");
}
