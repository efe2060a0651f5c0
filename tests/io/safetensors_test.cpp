#include <t5zero/io/atomic_save.hpp>
#include <t5zero/io/hub.hpp>
#include <t5zero/io/model_config.hpp>
#include <t5zero/io/model_directory.hpp>
#include <t5zero/io/safetensors.hpp>
#include <t5zero/io/weights.hpp>

#include <sys/resource.h>
#include <unistd.h>

#include <csignal>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "catch.hpp"

using t5zero_test::contains_text;

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
  std::ofstream(scratch.path / "nothing.safetensors").flush();
  CHECK_THAT(failure_of(scratch.path / "nothing.safetensors"), contains_text("nothing.safetensors: empty"));
  CHECK_THAT(failure_of(scratch.path), contains_text("not a regular file"));
  CHECK_THAT(failure_of(scratch.path / "none"), contains_text("No such file"));
  const auto file = scratch.path / "x.safetensors";
  std::ofstream(file) << "abc";
  CHECK_THAT(failure_of(file), contains_text("x.safetensors") && contains_text("3 bytes long"));
  CHECK_THAT(failure_of(write_file(file, 1'000'000'000'000'000'000ULL, "{}")),
             contains_text("1000000000000000000"));
  CHECK_THAT(failure_of(write_file(file, 100, "{}")), contains_text("100 bytes long"));
  CHECK_FALSE(failure_of(write_file(file, 2, "{x")).empty());
  const std::string lying = R"({"t":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})";
  CHECK_THAT(failure_of(write_file(file, lying.size(), lying + "1234")), contains_text("the file holds 4"));
  const std::string wrong = R"({"t":{"dtype":"F32","shape":[3],"data_offsets":[0,8]}})";
  CHECK_THAT(failure_of(write_file(file, wrong.size(), wrong + "12345678")), contains_text("need 12"));
  const std::string huge =
      R"({"t":{"dtype":"F32","shape":[99999999,99999999,99999999],"data_offsets":[0,8]}})";
  CHECK_THAT(failure_of(write_file(file, huge.size(), huge + "12345678")), contains_text("impossible shape"));
  const auto two = [](const char* first, const char* second) {
    return R"({"a":{"dtype":"F16","shape":[2],"data_offsets":)" + std::string(first) +
           R"(},"b":{"dtype":"F16","shape":[2],"data_offsets":)" + second + "}}";
  };
  const auto failure_of_two = [&](const char* first, const char* second) {
    const std::string header = two(first, second);
    return failure_of(write_file(file, header.size(), header + "1234567890"));
  };
  CHECK_THAT(failure_of_two("[0,4]", "[0,4]"), contains_text("the tensors a and b overlap"));
  CHECK_THAT(failure_of_two("[2,6]", "[0,4]"), contains_text("the tensors b and a overlap"));
  CHECK_THAT(failure_of_two("[0,4]", "[6,10]"), contains_text("the 2 bytes between a and b"));
  CHECK_THAT(failure_of_two("[0,4]", "[4,8]"), contains_text("2 bytes follow the last tensor"));
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

TEST_CASE("a save leaves no weights of another number of files, and nothing of anybody else's") {
  const scratch_directory scratch;
  const auto save_with = [&](t5zero::index_t largest_shard) {
    t5zero::atomic_save save(scratch.path);
    t5zero::save_model_tensors(save, {tensor("a", {1, 2}), tensor("b", {3, 4}), tensor("c", {5})},
                               largest_shard);
    save.commit();
  };
  const auto names = [&] {
    std::set<std::string> all;
    for (const auto& entry : std::filesystem::directory_iterator(scratch.path))
      all.insert(entry.path().filename());
    return all;
  };
  std::ofstream(scratch.path / "model-backup.safetensors") << "mine";
  save_with(1000);
  CHECK(names() == std::set<std::string>{"model-backup.safetensors", "model.safetensors"});
  save_with(8);
  CHECK(names() == std::set<std::string>{"model-00001-of-00003.safetensors",
                                         "model-00002-of-00003.safetensors",
                                         "model-00003-of-00003.safetensors", "model-backup.safetensors",
                                         "model.safetensors.index.json"});
  save_with(16);
  CHECK(names() == std::set<std::string>{"model-00001-of-00002.safetensors",
                                         "model-00002-of-00002.safetensors", "model-backup.safetensors",
                                         "model.safetensors.index.json"});
  std::ofstream(scratch.path / "model.safetensors.index.json") << R"({"weight_map": {"a": 7}})";
  CHECK_THROWS_AS(t5zero::tensor_archive::open_model(scratch.path), t5zero::input_error);
  std::ofstream(scratch.path / "model.safetensors.index.json") << R"({"weight_map": {"a": "../x"}})";
  CHECK_THROWS_AS(t5zero::tensor_archive::open_model(scratch.path), t5zero::input_error);
}

TEST_CASE("shards of a save stay whole until the index names those of the next") {
  const scratch_directory scratch;
  const auto save_value = [&](float value, bool commits = true) {
    t5zero::atomic_save save(scratch.path);
    t5zero::save_model_tensors(save, {tensor("a", {value, 2}), tensor("b", {value})}, 8);
    if (commits) return save.commit();
    // As a kill before the index's rename leaves it: the shards are in place, the index is not.
    save.add("end", "");
    for (const auto& entry : std::filesystem::directory_iterator(scratch.path)) {
      const std::string name = entry.path().filename();
      const auto shard = name.find("-of-00002.safetensors.");
      if (name.starts_with(".model-") && shard != std::string::npos)
        std::filesystem::copy_file(entry.path(), scratch.path / name.substr(1, shard + 20),
                                   std::filesystem::copy_options::overwrite_existing);
    }
  };
  const auto values = [&] {
    const auto archive = t5zero::tensor_archive::open_model(scratch.path);
    std::vector<float> a(2);
    float b = 0.0F;
    archive.find("a")->read(a.data());
    archive.find("b")->read(&b);
    CHECK(archive.tensors().size() == 2);
    return std::vector<float>{a[0], b};
  };
  const auto shards = [&] {
    std::set<std::string> all;
    for (const auto& entry : std::filesystem::directory_iterator(scratch.path)) {
      const std::string name = entry.path().filename();
      if (name.ends_with(".safetensors")) all.insert(name);
    }
    return all;
  };
  const std::set<std::string> first{"model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"};
  const std::set<std::string> second{"model-b-00001-of-00002.safetensors",
                                     "model-b-00002-of-00002.safetensors"};
  save_value(1.0F);
  CHECK(shards() == first);
  save_value(2.0F);
  CHECK(shards() == second);
  CHECK(values() == std::vector<float>{2.0F, 2.0F});
  save_value(3.0F, /*commits=*/false);
  CHECK(shards().size() == 4);
  CHECK(values() == std::vector<float>{2.0F, 2.0F});
  save_value(4.0F);
  CHECK(shards() == first);
  CHECK(values() == std::vector<float>{4.0F, 4.0F});
}

TEST_CASE("a save does not follow links, and knows before the first rename what it cannot replace") {
  const scratch_directory scratch;
  std::ofstream(scratch.path / "victim") << "mine";
  // The name under which the save writes a.txt.
  const auto planted = scratch.path / (".a.txt." + std::to_string(::getpid()) + ".partial");
  std::filesystem::create_symlink("victim", planted);
  {
    t5zero::atomic_save save(scratch.path);
    save.add("a.txt", "new");
    save.commit();
  }
  std::ifstream victim(scratch.path / "victim");
  std::string text;
  victim >> text;
  CHECK(text == "mine");
  CHECK_FALSE(std::filesystem::exists(std::filesystem::symlink_status(planted)));
  std::filesystem::create_directories(scratch.path / "b.txt");
  t5zero::atomic_save save(scratch.path);
  save.add("a.txt", "newer");
  CHECK_THROWS_AS(save.add("b.txt", "new"), t5zero::io_error);
  const auto fresh = scratch.path / "fresh";
  for (const char* below : {"", "a", "a/b/"}) {
    const t5zero::atomic_save unused(fresh / below);
    CHECK(std::filesystem::is_directory(fresh / below));
  }
  CHECK_FALSE(std::filesystem::exists(fresh));
  {
    t5zero::atomic_save kept(fresh / "a");
    kept.add("c.txt", "new");
    kept.commit();
  }
  CHECK(std::filesystem::exists(fresh / "a" / "c.txt"));
}

TEST_CASE("the files of a split") {
  const scratch_directory scratch;
  const auto find = [&](const char* config = "") {
    std::string names;
    try {
      for (const auto& path : t5zero::find_split(scratch.path, config, "train"))
        names += path.filename().string() + " ";
    } catch (const t5zero::input_error& failure) {
      return std::string(failure.what());
    }
    return names;
  };
  const auto touch = [&](const char* name) { std::ofstream(scratch.path / name) << "{}"; };
  CHECK_THAT(find(), contains_text("no train*.jsonl"));
  CHECK_THAT(find("ro-en"), contains_text("--dataset_config_name ro-en"));
  touch("train-00000-of-00001.parquet");
  CHECK_THAT(find(), contains_text("train-00000-of-00001.parquet; Parquet files are not read yet"));
  touch("train-00001-of-00002.jsonl");
  CHECK_THAT(find(), contains_text("nor all parts"));
  touch("train-00000-of-00002.jsonl");
  CHECK(find() == "train-00000-of-00002.jsonl train-00001-of-00002.jsonl ");
  touch("train-backup.jsonl");
  CHECK_THAT(find(), contains_text("train-backup.jsonl"));
  touch("train.jsonl");
  CHECK(find() == "train.jsonl ");
}

TEST_CASE("a name of the Hub is a snapshot of the revision asked for") {
  const scratch_directory scratch;
  const auto folder = scratch.path / "models--google-t5--t5-small";
  std::filesystem::create_directories(folder / "snapshots" / "abc");
  const t5zero::hub_cache cache{scratch.path};
  const auto resolved = [&](const char* revision) {
    return t5zero::resolve(t5zero::hub_kind::model, "t5-small", revision, cache, "--model_name_or_path");
  };
  CHECK(resolved("main") == folder / "snapshots" / "abc");
  CHECK(resolved("abc") == folder / "snapshots" / "abc");
  CHECK_THROWS_AS(resolved("v2"), t5zero::input_error);
  std::filesystem::create_directories(folder / "refs");
  std::ofstream(folder / "refs" / "v2") << "abc";
  CHECK(resolved("v2") == folder / "snapshots" / "abc");
}

TEST_CASE("a config.json is checked where it is read") {
  const nlohmann::json good = t5zero::to_json(t5zero::published_config(t5zero::t5_small::shape), "float32");
  const auto refusal = [&](const char* key, const nlohmann::json& value) {
    nlohmann::json changed = good;
    changed[key] = value;
    try {
      const auto config = t5zero::parse_model_config(changed, "config.json");
      return t5zero::differences(config.shape, t5zero::t5_small::shape);
    } catch (const t5zero::input_error& failure) {
      return std::string(failure.what());
    }
  };
  CHECK(refusal("vocab_size", 32128).empty());
  for (const auto& [key, value] : std::map<std::string, nlohmann::json>{{"dropout_rate", 1.5},
                                                                        {"decoder_start_token_id", 99999},
                                                                        {"layer_norm_epsilon", -1},
                                                                        {"eos_token_id", 7},
                                                                        {"num_layers", 0},
                                                                        {"d_ff", std::string(1000, 'x')},
                                                                        {"initializer_factor", 0}}) {
    const std::string text = refusal(key.c_str(), value);
    CHECK_THAT(text, contains_text("config.json: \"" + key + "\" is "));
    CHECK(text.size() < 300);
  }
  CHECK_THAT(refusal("relative_attention_num_buckets", 16), contains_text("num_buckets 16, not 32"));
  CHECK_THROWS_AS(t5zero::parse_strict_json(std::string(100, '[') + std::string(100, ']'), "x"),
                  t5zero::input_error);
}

TEST_CASE("all problems of a checkpoint are listed at once") {
  const scratch_directory scratch;
  t5zero::atomic_save save(scratch.path);
  t5zero::save_model_tensors(save, {tensor("shared.weight", {1, 2, 3}), tensor("nonsense", {4})});
  save.commit();
  const auto archive = t5zero::tensor_archive::open_model(scratch.path);
  std::string text;
  try {
    const t5zero::stored_weights weights(archive, t5zero::parameter_table(t5zero::t5_small::shape), "dir");
  } catch (const t5zero::input_error& e) {
    text = e.what();
  }
  CHECK_THAT(text, contains_text("shared.weight has the shape [3], expected [32128, 512]"));
  CHECK_THAT(text, contains_text("unexpected: nonsense"));
  CHECK_THAT(text, contains_text("missing: decoder.final_layer_norm.weight"));
}

TEST_CASE("other architectures are refused by name") {
  for (const char* type : {"mt5", "umt5", "bart"}) {
    std::string text;
    try {
      static_cast<void>(t5zero::parse_model_config({{"model_type", type}}, "config.json"));
    } catch (const t5zero::input_error& e) {
      text = e.what();
    }
    CHECK_THAT(text, contains_text(type));
  }
}

TEST_CASE("a tokenizer_config.json is checked where it is read") {
  const auto refusal = [](const nlohmann::json& config) {
    try {
      t5zero::check_tokenizer_config(config, "t.json");
    } catch (const t5zero::input_error& e) {
      return std::string(e.what());
    }
    return std::string("nothing thrown");
  };
  CHECK(refusal({{"clean_up_tokenization_spaces", true}}) == "nothing thrown");
  CHECK_THAT(refusal({{"clean_up_tokenization_spaces", "yes"}}),
             contains_text("t.json: \"clean_up_tokenization_spaces\" is \"yes\"; true or false"));
  CHECK_THAT(refusal({{"clean_up_tokenization_spaces", nullptr}}), contains_text("true or false"));
  CHECK_THAT(refusal({{"extra_ids", 7}}), contains_text("extra_ids"));
  CHECK_THAT(refusal({{"legacy", false}}), contains_text("legacy=True"));
}
