// A trainer's weights as tensors of a Hugging Face model directory.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include <t5zero/core/dtype.hpp>
#include <t5zero/core/integers.hpp>
#include <t5zero/io/safetensors.hpp>
#include <t5zero/plan/parameter_table.hpp>
#include <t5zero/train/trainer.hpp>

namespace t5zero {

/// The shape that a row's tensor has in a file.
[[nodiscard]] inline std::vector<index_t> stored_shape(const parameter_row& row) {
  return row.is_vector() ? std::vector<index_t>{row.cols} : std::vector<index_t>{row.rows, row.cols};
}

/// narrow: the stored 16-bit values, else the fp32 ones. The trainer outlives the result.
template <class Run>
[[nodiscard]] std::vector<tensor_to_save> model_tensors(const trainer<Run>& trained, bool narrow) {
  using stored = typename Run::param_type;
  std::vector<tensor_to_save> tensors;
  for (const parameter_row& row : trained.parameters()) {
    tensor_to_save tensor;
    tensor.name = checkpoint_name(row);
    tensor.shape = stored_shape(row);
    tensor.type = narrow ? dtype_of<stored> : dtype::f32;
    tensor.write = [&trained, row, narrow](atomic_save& save) {
      if (narrow) {
        trained.read_stored(row, [&](const stored* values) {
          save.write(values, row.count() * static_cast<index_t>(sizeof(stored)));
        });
        return;
      }
      std::vector<float> values(static_cast<std::size_t>(row.count()));
      trained.read(row, values.data());
      save.write(values.data(), row.count() * 4);
    };
    tensors.push_back(std::move(tensor));
  }
  return tensors;
}

/// The name of the saved element type in config.json.
template <class Run>
[[nodiscard]] const char* saved_type_name(bool narrow) {
  if (!narrow) return "float32";
  return dtype_of<typename Run::param_type> == dtype::f16 ? "float16" : "bfloat16";
}

}  // namespace t5zero
