// Lines from files and pipes.
#include <t5zero/io/line_reader.hpp>

#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "catch.hpp"

namespace {

std::string file_with(const std::string& text) {
  const auto path = std::filesystem::temp_directory_path() / ("t5zero_lines." + std::to_string(::getpid()));
  std::ofstream(path, std::ios::binary) << text;
  return path.string();
}

}  // namespace

TEST_CASE("lines end with LF, CRLF or the file", "[io]") {
  const std::string path = file_with("one\n\ntwo\r\nthree");
  t5zero::line_reader reader(path);
  CHECK(reader.next(2) == std::vector<std::string>{"one", ""});
  CHECK(reader.next(5) == std::vector<std::string>{"two", "three"});
  CHECK(reader.next(5).empty());
  CHECK(reader.count() == 4);
  std::filesystem::remove(path);
}

TEST_CASE("lines longer than a read, and many of them", "[io]") {
  std::string text;
  for (int i = 0; i < 50; ++i) text += std::string(static_cast<std::size_t>(i) * 3001, 'a' + i % 26) + "\n";
  const std::string path = file_with(text);
  t5zero::line_reader reader(path);
  std::vector<std::string> all;
  for (auto lines = reader.next(7); !lines.empty(); lines = reader.next(7)) {
    all.insert(all.end(), lines.begin(), lines.end());
  }
  REQUIRE(all.size() == 50);
  for (std::size_t i = 0; i < 50; ++i) CHECK(all[i].size() == i * 3001);
  std::filesystem::remove(path);
}

TEST_CASE("what is no text file is refused", "[io]") {
  CHECK_THROWS_AS(t5zero::line_reader("/nonexistent/file"), t5zero::input_error);
  CHECK_THROWS_AS(t5zero::line_reader("/"), t5zero::input_error);
}
