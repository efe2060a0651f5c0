// safetensors files: read through a mapping, checked before any value is trusted; written in Hugging Face's
// order. Format: 8 bytes header length (little endian), a JSON header, then the data.
#pragma once

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>

#include <t5zero/core/dtype.hpp>
#include <t5zero/core/error.hpp>
#include <t5zero/core/integers.hpp>
#include <t5zero/io/atomic_save.hpp>
#include <t5zero/io/shard_name.hpp>
#include <t5zero/io/strict_json.hpp>

namespace t5zero {

/// A tensor in a mapped file; `data` lives as long as its archive.
struct stored_tensor {
  dtype type = dtype::f32;
  std::vector<index_t> shape;
  const std::byte* data = nullptr;  ///< not necessarily aligned
  std::string file;

  [[nodiscard]] index_t count() const {
    index_t result = 1;
    for (const index_t extent : shape) result *= extent;
    return result;
  }
  /// Element i as a float.
  void read(float* to) const {
    visit(type, [&](auto zero) {
      using stored = decltype(zero);
      const index_t n = count();
      for (index_t i = 0; i < n; ++i) {
        stored value;
        std::memcpy(static_cast<void*>(&value), data + i * static_cast<index_t>(sizeof(stored)),
                    sizeof(stored));
        to[i] = static_cast<float>(value);
      }
    });
  }
};

namespace detail {

/// A read-only mapping of a whole file.
class file_mapping {
 public:
  explicit file_mapping(const std::filesystem::path& path) {
    const int descriptor = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
    if (descriptor < 0)
      throw input_error(path.string() + ": cannot be opened (" + std::strerror(errno) + ")");
    struct ::stat status {};
    std::string reason;
    if (::fstat(descriptor, &status) != 0) {
      reason = std::string("cannot be read (") + std::strerror(errno) + ")";
    } else if (!S_ISREG(status.st_mode)) {
      reason = "not a regular file";
    } else if (status.st_size == 0) {
      reason = "empty";
    } else {
      bytes_ = status.st_size;
      void* data = ::mmap(nullptr, static_cast<std::size_t>(bytes_), PROT_READ, MAP_PRIVATE, descriptor, 0);
      if (data == MAP_FAILED) {
        reason = std::string("cannot be mapped (") + std::strerror(errno) + ")";
      } else {
        data_ = static_cast<const std::byte*>(data);
      }
    }
    ::close(descriptor);
    if (data_ == nullptr) throw input_error(path.string() + ": " + reason);
  }
  file_mapping(const file_mapping&) = delete;
  file_mapping& operator=(const file_mapping&) = delete;
  ~file_mapping() { ::munmap(const_cast<std::byte*>(data_), static_cast<std::size_t>(bytes_)); }
  [[nodiscard]] const std::byte* data() const { return data_; }
  [[nodiscard]] index_t bytes() const { return bytes_; }

 private:
  const std::byte* data_ = nullptr;
  index_t bytes_ = 0;
};

[[noreturn]] inline void bad_safetensors(const std::string& file, const std::string& what) {
  throw input_error(file + ": " + what +
                    "; the file is damaged or no safetensors file: fetch or save it again");
}

[[noreturn]] inline void overlapping_tensors(const std::string& file, const std::string& one,
                                             const std::string& other) {
  bad_safetensors(file, "the tensors " + one + " and " + other + " overlap");
}

}  // namespace detail

/// The tensors of one or several files by name.
class tensor_archive {
 public:
  /// model.safetensors, or the shards of model.safetensors.index.json. Throws input_error.
  [[nodiscard]] static tensor_archive open_model(const std::filesystem::path& directory) {
    tensor_archive archive;
    const auto single = directory / "model.safetensors";
    const auto index = directory / "model.safetensors.index.json";
    if (std::filesystem::exists(single)) {
      archive.add(single);
    } else if (std::filesystem::exists(index)) {
      const nlohmann::json json = read_strict_json(index);
      if (!json.is_object() || !json.contains("weight_map") || !json["weight_map"].is_object()) {
        throw input_error(index.string() + ": no \"weight_map\"; fetch the file again");
      }
      std::map<std::string, bool> files;
      for (const auto& [name, file] : json["weight_map"].items()) {
        const std::string shard = file.is_string() ? file.get<std::string>() : "";
        if (shard.empty() || shard.find('/') != std::string::npos) {
          throw input_error(index.string() + ": \"weight_map\" gives \"" + name + "\" as " + shown(file) +
                            ", not a file beside it; fetch the file again");
        }
        files[shard] = true;
      }
      for (const auto& [file, unused] : files) archive.add(directory / file);
    } else {
      throw input_error(
          directory.string() +
          ": no model.safetensors and no model.safetensors.index.json; convert other weight files with "
          "save_pretrained(safe_serialization=True)");
    }
    return archive;
  }

  void add(const std::filesystem::path& path) {
    const std::string file = path.string();
    mappings_.push_back(std::make_unique<detail::file_mapping>(path));
    const detail::file_mapping& mapping = *mappings_.back();
    if (mapping.bytes() < 8)
      detail::bad_safetensors(file, "only " + std::to_string(mapping.bytes()) + " bytes long");
    std::uint64_t header_bytes = 0;
    std::memcpy(&header_bytes, mapping.data(), 8);
    if (header_bytes > static_cast<std::uint64_t>(mapping.bytes() - 8)) {
      detail::bad_safetensors(file, "its header says to be " + std::to_string(header_bytes) +
                                        " bytes long, the file has " + std::to_string(mapping.bytes()));
    }
    const std::string_view text(reinterpret_cast<const char*>(mapping.data() + 8), header_bytes);
    const nlohmann::json header = parse_strict_json(text, file + " (header)");
    if (!header.is_object()) detail::bad_safetensors(file, "its header is no object");
    const std::byte* data = mapping.data() + 8 + header_bytes;
    const index_t data_bytes = mapping.bytes() - 8 - static_cast<index_t>(header_bytes);
    std::map<std::uint64_t, std::pair<std::uint64_t, std::string>> ranges;  // begin: end, name
    for (const auto& [name, entry] : header.items()) {
      if (name == "__metadata__") continue;
      add_tensor(file, name, entry, data, data_bytes);
      const auto end = entry["data_offsets"][1].get<std::uint64_t>();
      const auto begin = entry["data_offsets"][0].get<std::uint64_t>();
      if (begin == end) continue;
      const auto [there, is_new] = ranges.try_emplace(begin, end, name);
      if (!is_new) detail::overlapping_tensors(file, there->second.second, name);
    }
    // The format allows neither overlaps nor holes.
    std::uint64_t covered = 0;
    std::string before = "the header";
    for (const auto& [begin, end_and_name] : ranges) {
      const auto& [end, name] = end_and_name;
      if (begin < covered) detail::overlapping_tensors(file, before, name);
      if (begin > covered) {
        detail::bad_safetensors(file, "no tensor has the " + std::to_string(begin - covered) +
                                          " bytes between " + before + " and " + name);
      }
      covered = end;
      before = name;
    }
    if (covered != static_cast<std::uint64_t>(data_bytes)) {
      detail::bad_safetensors(file, std::to_string(static_cast<std::uint64_t>(data_bytes) - covered) +
                                        " bytes follow the last tensor");
    }
  }

  [[nodiscard]] const std::map<std::string, stored_tensor>& tensors() const { return tensors_; }
  /// Null if there is none of this name.
  [[nodiscard]] const stored_tensor* find(const std::string& name) const {
    const auto found = tensors_.find(name);
    return found == tensors_.end() ? nullptr : &found->second;
  }

 private:
  void add_tensor(const std::string& file, const std::string& name, const nlohmann::json& entry,
                  const std::byte* data, index_t data_bytes) {
    auto bad = [&](const std::string& what) {
      detail::bad_safetensors(file, "tensor \"" + name + "\" " + what);
    };
    stored_tensor tensor;
    tensor.file = file;
    if (!entry.is_object() || !entry.contains("dtype") || !entry["dtype"].is_string() ||
        !entry.contains("shape") || !entry["shape"].is_array() || !entry.contains("data_offsets") ||
        !entry["data_offsets"].is_array() || entry["data_offsets"].size() != 2) {
      bad("lacks dtype, shape or data_offsets");
    }
    const auto type = entry["dtype"].get<std::string>();
    if (type == "F16")
      tensor.type = dtype::f16;
    else if (type == "BF16")
      tensor.type = dtype::bf16;
    else if (type != "F32")
      bad("has dtype " + type + ", not F32, F16 or BF16");
    index_t count = 1;
    for (const auto& extent : entry["shape"]) {
      const bool sane = extent.is_number_unsigned() && extent.get<std::uint64_t>() < (std::uint64_t{1} << 40);
      if (!sane || (count > 0 && extent.get<index_t>() > (index_t{1} << 50) / count)) {
        bad("has the impossible shape " + shown(entry["shape"]));
      }
      tensor.shape.push_back(extent.get<index_t>());
      count *= tensor.shape.back();
    }
    const nlohmann::json& offsets = entry["data_offsets"];
    if (!offsets[0].is_number_unsigned() || !offsets[1].is_number_unsigned())
      bad("has offsets that are no numbers");
    const auto begin = offsets[0].get<std::uint64_t>();
    const auto end = offsets[1].get<std::uint64_t>();
    if (begin > end || end > static_cast<std::uint64_t>(data_bytes)) {
      bad("claims bytes " + std::to_string(begin) + " to " + std::to_string(end) + ", the file holds " +
          std::to_string(data_bytes));
    }
    if (static_cast<index_t>(end - begin) != count * byte_size(tensor.type)) {
      bad("has " + std::to_string(end - begin) + " bytes, its shape and dtype need " +
          std::to_string(count * byte_size(tensor.type)));
    }
    tensor.data = data + begin;
    if (!tensors_.emplace(name, std::move(tensor)).second) bad("occurs twice");
  }

  std::vector<std::unique_ptr<detail::file_mapping>> mappings_;
  std::map<std::string, stored_tensor> tensors_;
};

/// A tensor to be written; `write` appends its bytes to the save.
struct tensor_to_save {
  std::string name;
  std::vector<index_t> shape;
  dtype type = dtype::f32;
  std::function<void(atomic_save&)> write;

  [[nodiscard]] index_t bytes() const {
    index_t count = 1;
    for (const index_t extent : shape) count *= extent;
    return count * byte_size(type);
  }
};

namespace detail {

/// Names of shards begin so. The second is for a save beside shards of as many parts, which stay whole until
/// the index names the others.
inline constexpr std::array<std::string_view, 2> shard_prefixes = {"model-", "model-b-"};

inline std::string weights_name(std::string_view prefix, std::size_t number, std::size_t shards) {
  return shard_name(prefix, number, shards, ".safetensors");
}

/// model-00001-of-00002.safetensors
inline bool is_shard_name(std::string_view name) {
  static constexpr std::string_view form = "00000-of-00000.safetensors";
  return std::any_of(shard_prefixes.begin(), shard_prefixes.end(), [&](std::string_view prefix) {
    if (!name.starts_with(prefix) || name.size() != prefix.size() + form.size()) return false;
    return std::equal(form.begin(), form.end(), name.begin() + static_cast<std::ptrdiff_t>(prefix.size()),
                      [](char shape, char c) { return shape == '0' ? c >= '0' && c <= '9' : c == shape; });
  });
}

/// The prefix whose shards the index in the directory does not name.
inline std::string_view free_shard_prefix(const std::filesystem::path& directory, std::size_t shards) {
  std::ifstream index(directory / "model.safetensors.index.json", std::ios::binary);
  const std::string first = weights_name(shard_prefixes[0], 1, shards);
  for (std::string line; std::getline(index, line);) {
    if (line.find(first) != std::string::npos) return shard_prefixes[1];
  }
  return shard_prefixes[0];
}

inline void write_safetensors(atomic_save& save, const std::string& file,
                              const std::vector<tensor_to_save>& tensors) {
  nlohmann::ordered_json header;
  header["__metadata__"] = {{"format", "pt"}};
  index_t offset = 0;
  for (const tensor_to_save& tensor : tensors) {
    const char* type = tensor.type == dtype::f32 ? "F32" : tensor.type == dtype::f16 ? "F16" : "BF16";
    header[tensor.name] = {
        {"dtype", type}, {"shape", tensor.shape}, {"data_offsets", {offset, offset + tensor.bytes()}}};
    offset += tensor.bytes();
  }
  std::string text = header.dump();
  text.resize(static_cast<std::size_t>(round_up(static_cast<index_t>(text.size()), 8)), ' ');
  const std::uint64_t length = text.size();
  save.begin(file);
  save.write(&length, 8);
  save.write(text.data(), static_cast<index_t>(text.size()));
  for (const tensor_to_save& tensor : tensors) tensor.write(save);
}

}  // namespace detail

/// Writes model.safetensors, or shards of at most max_shard_bytes with their index, in byte order of the
/// names. No kill mixes the weights of two saves: until one rename, that of model.safetensors or of the
/// index, or the removal of an earlier model.safetensors, those of the earlier save are read, whole.
inline void save_model_tensors(atomic_save& save, std::vector<tensor_to_save> tensors,
                               index_t max_shard_bytes = 5'000'000'000) {
  std::sort(tensors.begin(), tensors.end(),
            [](const tensor_to_save& a, const tensor_to_save& b) { return a.name < b.name; });
  std::vector<std::vector<tensor_to_save>> shards(1);
  index_t total = 0;
  index_t in_shard = 0;
  for (tensor_to_save& tensor : tensors) {
    if (in_shard > 0 && in_shard + tensor.bytes() > max_shard_bytes) {
      shards.emplace_back();
      in_shard = 0;
    }
    in_shard += tensor.bytes();
    total += tensor.bytes();
    shards.back().push_back(std::move(tensor));
  }
  const std::string_view prefix = detail::free_shard_prefix(save.directory(), shards.size());
  const std::string first = detail::weights_name(prefix, 1, shards.size());
  const std::string suffix = first.substr(first.find("-of-"));
  // Weights of an earlier save in other files would be read instead of, or beside, these.
  for (const auto& entry : std::filesystem::directory_iterator(save.directory())) {
    const std::string name = entry.path().filename().string();
    const bool is_shard = detail::is_shard_name(name);
    const bool is_other = name == (shards.size() == 1 ? "model.safetensors.index.json" : "model.safetensors");
    const bool stays = shards.size() > 1 && name.size() == first.size() && name.starts_with(prefix) &&
                       name.ends_with(suffix);
    if (is_other || (is_shard && !stays)) save.retire(name);
  }
  if (shards.size() == 1) {
    detail::write_safetensors(save, "model.safetensors", shards[0]);
    return;
  }
  nlohmann::ordered_json index;
  index["metadata"] = {{"total_size", total}};
  for (std::size_t i = 0; i < shards.size(); ++i) {
    const std::string name = detail::weights_name(prefix, i + 1, shards.size());
    for (const tensor_to_save& tensor : shards[i]) index["weight_map"][tensor.name] = name;
    detail::write_safetensors(save, name, shards[i]);
  }
  save.add("model.safetensors.index.json", index.dump(2) + "\n");
}

}  // namespace t5zero
