// Event files, read back record by record.
#include <t5zero/io/tensorboard.hpp>

#include <sys/resource.h>
#include <unistd.h>

#include <csignal>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <iterator>
#include <sstream>
#include <string>
#include <vector>

#include "catch.hpp"

namespace {

template <class T>
T raw_at(const std::string& bytes, std::size_t at) {
  T value;
  std::memcpy(&value, bytes.data() + at, sizeof(T));
  return value;
}

std::uint32_t masked(const std::string& bytes) {
  const std::uint32_t crc = t5zero::crc32c(bytes);
  return ((crc >> 15) | (crc << 17)) + 0xa282ead8U;
}

}  // namespace

TEST_CASE("events are framed records with their checksums", "[io]") {
  const auto directory =
      std::filesystem::temp_directory_path() / ("t5zero_events." + std::to_string(::getpid()));
  std::filesystem::path path;
  {
    t5zero::tensorboard_writer writer(directory / "runs");
    writer.add_scalar("train/loss", 1.5, 300);
    path = writer.path();
  }
  CHECK(path.filename().string().starts_with("events.out.tfevents."));
  std::ifstream file(path, std::ios::binary);
  const std::string bytes{std::istreambuf_iterator<char>(file), {}};
  std::vector<std::string> events;
  for (std::size_t at = 0; at < bytes.size();) {
    REQUIRE(at + 12 <= bytes.size());
    const auto length = raw_at<std::uint64_t>(bytes, at);
    CHECK(raw_at<std::uint32_t>(bytes, at + 8) == masked(bytes.substr(at, 8)));
    REQUIRE(at + 16 + length <= bytes.size());
    events.push_back(bytes.substr(at + 12, length));
    CHECK(raw_at<std::uint32_t>(bytes, at + 12 + length) == masked(events.back()));
    at += 16 + length;
  }
  REQUIRE(events.size() == 2);
  // Field 1 (wall time), then field 3 "brain.Event:2".
  CHECK(events[0].substr(9) == std::string("\x1a\x0d") + "brain.Event:2");
  // Field 2: step 300 as a varint; field 5: summary { value { tag, simple_value } }.
  const float value = 1.5F;
  std::string simple(4, '\0');
  std::memcpy(simple.data(), &value, 4);
  const std::string of_value = std::string("\x0a\x0a") + "train/loss" + "\x15" + simple;
  const std::string summary = std::string("\x0a") + static_cast<char>(of_value.size()) + of_value;
  CHECK(events[1].substr(9) == std::string("\x10\xac\x02\x2a") + static_cast<char>(summary.size()) + summary);
  std::filesystem::remove_all(directory);
}

TEST_CASE("when the disk is full, one warning is all", "[io]") {
  const auto directory =
      std::filesystem::temp_directory_path() / ("t5zero_full." + std::to_string(::getpid()));
  std::ostringstream said;
  std::streambuf* const before = std::cerr.rdbuf(said.rdbuf());
  {
    t5zero::tensorboard_writer writer(directory);
    struct rlimit limit {};
    REQUIRE(::getrlimit(RLIMIT_FSIZE, &limit) == 0);
    const rlim_t largest = limit.rlim_cur;
    limit.rlim_cur = std::filesystem::file_size(writer.path()) + 10;
    auto* const signalled = std::signal(SIGXFSZ, SIG_IGN);
    ::setrlimit(RLIMIT_FSIZE, &limit);
    for (int step = 0; step < 3; ++step) writer.add_scalar("train/loss", 1.5, step);
    limit.rlim_cur = largest;
    ::setrlimit(RLIMIT_FSIZE, &limit);
    std::signal(SIGXFSZ, signalled);
    writer.add_scalar("train/loss", 1.5, 3);
    CHECK(said.str() == "warning: " + writer.path().string() +
                            ": cannot be written; no more events are, training goes on\n");
  }
  std::cerr.rdbuf(before);
  std::filesystem::remove_all(directory);
}

TEST_CASE("a directory that cannot be written is an error", "[io]") {
  CHECK_THROWS_AS(t5zero::tensorboard_writer("/proc/none"), t5zero::io_error);
  try {
    const t5zero::tensorboard_writer writer("/proc/none");
  } catch (const t5zero::io_error& e) {
    CHECK_THAT(e.what(), t5zero_test::contains_text("No such file or directory"));
  }
}
