// Strict loading: every problem of a checkpoint in one message, ties resolved by rule.
#pragma once

#include <algorithm>
#include <filesystem>
#include <set>
#include <string>
#include <vector>

#include <t5zero/core/error.hpp>
#include <t5zero/io/safetensors.hpp>
#include <t5zero/plan/parameter_table.hpp>

namespace t5zero {

/// A head of its own is tied only where the file has none; a stored lm_head is used as it is.
[[nodiscard]] inline bool ties_embeddings(const tensor_archive& archive) {
  return archive.find("lm_head.weight") == nullptr;
}

/// Calls take(row, tensor) for every row of the table. Throws input_error listing all missing, unexpected and
/// mis-shaped tensors.
template <class Take>
void load_weights(const tensor_archive& archive, const std::vector<parameter_row>& table,
                  const std::string& source, const Take& take) {
  std::string problems;
  // Original checkpoints carry a bias table that no model reads.
  std::set<std::string> known{"decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"};
  std::vector<const stored_tensor*> found;
  for (const parameter_row& row : table) {
    const stored_tensor* tensor = nullptr;
    for (const std::string& name : accepted_checkpoint_names(row)) {
      known.insert(name);
      if (tensor == nullptr) tensor = archive.find(name);
    }
    found.push_back(tensor);
    const std::vector<index_t> shape =
        row.is_vector() ? std::vector<index_t>{row.cols} : std::vector<index_t>{row.rows, row.cols};
    auto text = [](const std::vector<index_t>& extents) {
      std::string result;
      for (const index_t extent : extents) result += (result.empty() ? "" : ", ") + std::to_string(extent);
      return "[" + result + "]";
    };
    if (tensor == nullptr) {
      problems += "\n  missing: " + checkpoint_name(row) + " " + text(shape);
    } else if (tensor->shape != shape) {
      problems += "\n  " + checkpoint_name(row) + " has the shape " + text(tensor->shape) + ", expected " +
                  text(shape);
    }
  }
  for (const auto& [name, tensor] : archive.tensors()) {
    if (known.count(name) == 0) problems += "\n  unexpected: " + name;
  }
  if (!problems.empty()) {
    throw input_error(source + ": the weights do not fit the model:" + problems +
                      "\nCheck that config.json belongs to these weights.");
  }
  for (std::size_t i = 0; i < table.size(); ++i) take(table[i], *found[i]);
}

}  // namespace t5zero
