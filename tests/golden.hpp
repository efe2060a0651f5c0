// Reference values made with PyTorch: a small safetensors reader of the tests' own, so that the library's
// reader is not tested against itself.
#pragma once

#include <t5zero/tensor/batch_view.hpp>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <limits>
#include <map>
#include <stdexcept>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

namespace golden {

struct tensor {
  std::vector<std::int64_t> shape;
  std::vector<float> values;       ///< F32
  std::vector<std::int32_t> ints;  ///< I32
};

using tensors = std::map<std::string, tensor>;

inline std::filesystem::path directory(const std::string& model) {
  return std::filesystem::path(T5ZERO_GOLDEN_DIR) / model;
}

inline bool available() {
  return std::filesystem::exists(directory("tiny_relu") / "golden.safetensors");
}

inline tensors read(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  std::uint64_t header_bytes = 0;
  file.read(reinterpret_cast<char*>(&header_bytes), 8);
  std::string header(header_bytes, ' ');
  file.read(header.data(), static_cast<std::streamsize>(header_bytes));
  tensors result;
  const nlohmann::json entries = nlohmann::json::parse(header);
  for (const auto& [name, entry] : entries.items()) {
    if (name == "__metadata__") continue;
    tensor& t = result[name];
    t.shape = entry["shape"].get<std::vector<std::int64_t>>();
    const auto begin = entry["data_offsets"][0].get<std::uint64_t>();
    const auto end = entry["data_offsets"][1].get<std::uint64_t>();
    file.seekg(static_cast<std::streamoff>(8 + header_bytes + begin));
    if (entry["dtype"] == "F32") {
      t.values.resize((end - begin) / 4);
      file.read(reinterpret_cast<char*>(t.values.data()), static_cast<std::streamsize>(end - begin));
    } else {
      t.ints.resize((end - begin) / 4);
      file.read(reinterpret_cast<char*>(t.ints.data()), static_cast<std::streamsize>(end - begin));
    }
  }
  if (!file) throw std::runtime_error(path.string() + ": cannot be read whole");
  return result;
}

inline nlohmann::json read_json(const std::filesystem::path& path) {
  std::ifstream file(path);
  return nlohmann::json::parse(file);
}

/// |a - b| / |b| in the L2 norm.
inline double relative_error(const std::vector<float>& a, const std::vector<float>& b) {
  if (a.size() != b.size()) return std::numeric_limits<double>::infinity();
  double difference = 0.0;
  double norm = 0.0;
  for (std::size_t i = 0; i < b.size(); ++i) {
    const double d = static_cast<double>(a[i]) - b[i];
    difference += d * d;
    norm += static_cast<double>(b[i]) * b[i];
  }
  return std::sqrt(difference / std::max(norm, 1e-30));
}

/// A padded batch of the reference, without its padding.
struct ragged_batch {
  std::vector<t5zero::index_t> source_offsets{0};
  std::vector<t5zero::index_t> target_offsets{0};
  std::vector<std::uint32_t> source_rows, source_positions, target_rows, target_positions;
  std::vector<std::int32_t> source_ids, decoder_ids, labels;
  t5zero::index_t max_source = 0;
  t5zero::index_t max_target = 0;
  std::int64_t padded_source = 0;
  std::int64_t padded_target = 0;

  [[nodiscard]] t5zero::batch_view view() const {
    t5zero::batch_view result;
    const auto batch = static_cast<t5zero::index_t>(source_offsets.size()) - 1;
    result.source = {source_offsets.data(), source_rows.data(), source_positions.data(), batch,
                     source_offsets.back(), max_source};
    result.target = {target_offsets.data(), target_rows.data(), target_positions.data(), batch,
                     target_offsets.back(), max_target};
    result.source_ids = source_ids.data();
    result.decoder_ids = decoder_ids.data();
    result.labels = labels.data();
    return result;
  }
};

/// All fp32 weights of a trainer, tensor after tensor.
template <class Trainer>
std::vector<float> weights_of(const Trainer& trainer) {
  std::vector<float> all;
  for (const auto& row : trainer.parameters()) {
    std::vector<float> values(static_cast<std::size_t>(row.count()));
    trainer.read(row, values.data());
    all.insert(all.end(), values.begin(), values.end());
  }
  return all;
}

inline void add_row(ragged_batch& batch, const std::vector<std::int32_t>& source,
                    const std::vector<std::int32_t>& target) {
  const auto row = static_cast<std::uint32_t>(batch.source_offsets.size()) - 1;
  for (std::size_t i = 0; i < source.size(); ++i) {
    batch.source_ids.push_back(source[i]);
    batch.source_rows.push_back(row);
    batch.source_positions.push_back(static_cast<std::uint32_t>(i));
  }
  for (std::size_t i = 0; i < target.size(); ++i) {
    batch.labels.push_back(target[i]);
    batch.decoder_ids.push_back(i == 0 ? 0 : std::max(target[i - 1], 0));
    batch.target_rows.push_back(row);
    batch.target_positions.push_back(static_cast<std::uint32_t>(i));
  }
  batch.source_offsets.push_back(static_cast<t5zero::index_t>(batch.source_ids.size()));
  batch.target_offsets.push_back(static_cast<t5zero::index_t>(batch.labels.size()));
  batch.max_source = std::max(batch.max_source, static_cast<t5zero::index_t>(source.size()));
  batch.max_target = std::max(batch.max_target, static_cast<t5zero::index_t>(target.size()));
}

/// batch0 to batch3 of a golden.safetensors.
inline ragged_batch read_batch(const tensors& all, int index) {
  const std::string prefix = "batch" + std::to_string(index) + ".";
  const tensor& ids = all.at(prefix + "input_ids");
  const tensor& mask = all.at(prefix + "attention_mask");
  const tensor& labels = all.at(prefix + "labels");
  ragged_batch batch;
  batch.padded_source = ids.shape[1];
  batch.padded_target = labels.shape[1];
  for (std::int64_t row = 0; row < ids.shape[0]; ++row) {
    std::vector<std::int32_t> source;
    for (std::int64_t i = 0; i < ids.shape[1]; ++i) {
      const auto at = static_cast<std::size_t>(row * ids.shape[1] + i);
      if (mask.ints[at] != 0) source.push_back(ids.ints[at]);
    }
    const auto first = labels.ints.begin() + row * labels.shape[1];
    std::vector<std::int32_t> target(first, first + labels.shape[1]);
    while (!target.empty() && target.back() == -100) target.pop_back();
    add_row(batch, source, target);
  }
  return batch;
}

/// Rows of a [batch, padded, width] tensor that are tokens of the ragged batch, in its order.
inline std::vector<float> without_padding(const tensor& padded, const std::vector<t5zero::index_t>& offsets) {
  std::vector<float> result;
  const std::int64_t length = padded.shape[1];
  const std::int64_t width = padded.shape[2];
  for (std::size_t row = 0; row + 1 < offsets.size(); ++row) {
    const auto first = padded.values.begin() + static_cast<std::int64_t>(row) * length * width;
    result.insert(result.end(), first, first + (offsets[row + 1] - offsets[row]) * width);
  }
  return result;
}

}  // namespace golden
