// Strict loading: every problem of a checkpoint in one message, ties resolved by rule.
#pragma once

#include <map>
#include <set>
#include <string>
#include <vector>

#include <t5zero/core/error.hpp>
#include <t5zero/io/safetensors.hpp>
#include <t5zero/plan/parameter_table.hpp>

namespace t5zero {

/// A stored lm_head is used as it is, whatever config.json says. Without one the head is tied, unless
/// config.json denies it: then a weight is missing.
[[nodiscard]] inline bool ties_embeddings(const tensor_archive& archive, bool config_ties) {
  return config_ties && archive.find("lm_head.weight") == nullptr;
}

/// The tensors of a checkpoint that a model's parameters come from.
class stored_weights {
 public:
  /// Throws input_error listing all missing, unexpected and mis-shaped tensors. `archive` must outlive this.
  stored_weights(const tensor_archive& archive, const std::vector<parameter_row>& table,
                 const std::string& source) {
    std::string problems;
    // Original checkpoints carry a bias table that no model reads.
    std::set<std::string> known{"decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"};
    for (const parameter_row& row : table) {
      const stored_tensor* tensor = nullptr;
      for (const std::string& name : accepted_checkpoint_names(row)) {
        known.insert(name);
        if (tensor == nullptr) tensor = archive.find(name);
      }
      const std::vector<index_t> shape =
          row.is_vector() ? std::vector<index_t>{row.cols} : std::vector<index_t>{row.rows, row.cols};
      if (tensor == nullptr) {
        problems += "\n  missing: " + checkpoint_name(row) + " " + text_of(shape);
      } else if (tensor->shape != shape) {
        problems += "\n  " + checkpoint_name(row) + " has the shape " + text_of(tensor->shape) +
                    ", expected " + text_of(shape);
      }
      tensors_[checkpoint_name(row)] = tensor;
    }
    for (const auto& [name, tensor] : archive.tensors()) {
      if (known.count(name) == 0) problems += "\n  unexpected: " + name;
    }
    if (!problems.empty()) {
      throw input_error(source + ": the weights do not fit the model:" + problems +
                        "\nCheck that config.json belongs to these weights.");
    }
  }

  /// The tensor of a row of the table.
  [[nodiscard]] const stored_tensor& of(const parameter_row& row) const {
    return *tensors_.at(checkpoint_name(row));
  }

 private:
  static std::string text_of(const std::vector<index_t>& extents) {
    std::string result;
    for (const index_t extent : extents) result += (result.empty() ? "" : ", ") + std::to_string(extent);
    return "[" + result + "]";
  }

  std::map<std::string, const stored_tensor*> tensors_;
};

}  // namespace t5zero
