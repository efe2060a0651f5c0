#include <t5zero/io/atomic_save.hpp>
#include <t5zero/io/model_config.hpp>
#include <t5zero/io/safetensors.hpp>
#include <t5zero/io/weights.hpp>

#include <sys/resource.h>

#include <csignal>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>

#include "catch.hpp"

namespace {

/// A directory of its own that goes with the test.
struct scratch_directory {
  scratch_directory() {
    std::string pattern = (std::filesystem::temp_directory_path() / "t5zero_io_XXXXXX").string();
    path = ::mkdtemp(pattern.data());
  }
  scratch_directory(const scratch_directory&) = delete;
  scratch_directory& operator=(const scratch_directory&) = delete;
  ~scratch_directory() { std::filesystem::remove_all(path); }
  std::filesystem::path path;
};

std::filesystem::path write_file(const std::filesystem::path& path, std::uint64_t length,
                                 const std::string& rest) {
  std::ofstream file(path, std::ios::binary);
  file.write(reinterpret_cast<const char*>(&length), 8);
  file << rest;
  return path;
}

std::string failure_of(const std::filesystem::path& path) {
  t5zero::tensor_archive archive;
  try {
    archive.add(path);
  } catch (const t5zero::input_error& e) {
    return e.what();
  }
  return "";
}

t5zero::tensor_to_save tensor(const std::string& name, const std::vector<float>& values) {
  return {name,
          {static_cast<t5zero::index_t>(values.size())},
          t5zero::dtype::f32,
          [values](t5zero::atomic_save& save) {
            save.write(values.data(), static_cast<t5zero::index_t>(values.size()) * 4);
          }};
}

}  // namespace

TEST_CASE("safetensors round trip, single and sharded") {
  const scratch_directory scratch;
  for (const t5zero::index_t shard_bytes : {t5zero::index_t{1} << 30, t5zero::index_t{16}}) {
    const auto directory = scratch.path / std::to_string(shard_bytes);
    t5zero::atomic_save save(directory);
    t5zero::save_model_tensors(save, {tensor("b", {1, 2, 3}), tensor("a", {4}), tensor("c", {5, 6})},
                               shard_bytes);
    CHECK(std::filesystem::is_empty(directory) == false);
    CHECK_FALSE(std::filesystem::exists(directory / "model.safetensors"));  // nothing before commit
    save.commit();
    const auto archive = t5zero::tensor_archive::open_model(directory);
    REQUIRE(archive.tensors().size() == 3);
    float values[3] = {};
    archive.find("b")->read(values);
    CHECK((values[0] == 1 && values[1] == 2 && values[2] == 3));
    CHECK(archive.find("none") == nullptr);
  }
}

TEST_CASE("damaged safetensors files are named with what is wrong") {
  const scratch_directory scratch;
  const auto file = scratch.path / "x.safetensors";
  using Catch::Matchers::Contains;
  std::ofstream(file) << "abc";
  CHECK_THAT(failure_of(file), Contains("x.safetensors") && Contains("3 bytes long"));
  CHECK_THAT(failure_of(write_file(file, 1'000'000'000'000'000'000ULL, "{}")),
             Contains("1000000000000000000"));
  CHECK_THAT(failure_of(write_file(file, 100, "{}")), Contains("100 bytes long"));
  CHECK_FALSE(failure_of(write_file(file, 2, "{x")).empty());
  const std::string lying = R"({"t":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})";
  CHECK_THAT(failure_of(write_file(file, lying.size(), lying + "1234")), Contains("the file holds 4"));
  const std::string wrong = R"({"t":{"dtype":"F32","shape":[3],"data_offsets":[0,8]}})";
  CHECK_THAT(failure_of(write_file(file, wrong.size(), wrong + "12345678")), Contains("need 12"));
  const std::string huge =
      R"({"t":{"dtype":"F32","shape":[99999999,99999999,99999999],"data_offsets":[0,8]}})";
  CHECK_THAT(failure_of(write_file(file, huge.size(), huge + "12345678")), Contains("impossible shape"));
  const auto two = [](const char* first, const char* second) {
    return R"({"a":{"dtype":"F16","shape":[2],"data_offsets":)" + std::string(first) +
           R"(},"b":{"dtype":"F16","shape":[2],"data_offsets":)" + second + "}}";
  };
  const auto failure_of_two = [&](const char* first, const char* second) {
    const std::string header = two(first, second);
    return failure_of(write_file(file, header.size(), header + "1234567890"));
  };
  CHECK_THAT(failure_of_two("[0,4]", "[0,4]"), Contains("the tensors a and b overlap"));
  CHECK_THAT(failure_of_two("[2,6]", "[0,4]"), Contains("the tensors b and a overlap"));
  CHECK_THAT(failure_of_two("[0,4]", "[6,10]"), Contains("the 2 bytes between a and b"));
  CHECK_THAT(failure_of_two("[0,4]", "[4,8]"), Contains("2 bytes follow the last tensor"));
}

TEST_CASE("a full disk leaves the earlier save as it was") {
  const scratch_directory scratch;
  {
    t5zero::atomic_save save(scratch.path);
    save.add("a.txt", "first");
    save.commit();
  }
  // A limit on the size of files stands for the full disk: write() fails in the same place.
  struct rlimit before {};
  REQUIRE(::getrlimit(RLIMIT_FSIZE, &before) == 0);
  const auto handler = std::signal(SIGXFSZ, SIG_IGN);
  const struct rlimit small { 4096, before.rlim_max };
  REQUIRE(::setrlimit(RLIMIT_FSIZE, &small) == 0);
  bool failed = false;
  {
    t5zero::atomic_save save(scratch.path);
    try {
      save.add("a.txt", std::string(100'000, 'x'));
      save.commit();
    } catch (const t5zero::io_error& e) {
      failed = e.exit_code() == 1;
    }
  }
  REQUIRE(::setrlimit(RLIMIT_FSIZE, &before) == 0);
  std::signal(SIGXFSZ, handler);
  CHECK(failed);
  std::ifstream file(scratch.path / "a.txt");
  std::string text;
  file >> text;
  CHECK(text == "first");
  CHECK(std::distance(std::filesystem::directory_iterator(scratch.path), {}) == 1);
}

TEST_CASE("all problems of a checkpoint are listed at once") {
  const scratch_directory scratch;
  t5zero::atomic_save save(scratch.path);
  t5zero::save_model_tensors(save, {tensor("shared.weight", {1, 2, 3}), tensor("nonsense", {4})});
  save.commit();
  const auto archive = t5zero::tensor_archive::open_model(scratch.path);
  std::string text;
  try {
    t5zero::load_weights(archive, t5zero::parameter_table(t5zero::t5_small::shape), "dir",
                         [](const auto&, const auto&) {});
  } catch (const t5zero::input_error& e) {
    text = e.what();
  }
  using Catch::Matchers::Contains;
  CHECK_THAT(text, Contains("shared.weight has the shape [3], expected [32128, 512]"));
  CHECK_THAT(text, Contains("unexpected: nonsense"));
  CHECK_THAT(text, Contains("missing: decoder.final_layer_norm.weight"));
}

TEST_CASE("other architectures are refused by name") {
  for (const char* type : {"mt5", "umt5", "bart"}) {
    std::string text;
    try {
      static_cast<void>(t5zero::parse_model_config({{"model_type", type}}, "config.json"));
    } catch (const t5zero::input_error& e) {
      text = e.what();
    }
    CHECK_THAT(text, Catch::Matchers::Contains(type));
  }
}
