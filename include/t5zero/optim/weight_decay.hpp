// Which parameters decay.
#pragma once

#include <cstdint>

#include <t5zero/plan/parameter_table.hpp>

namespace t5zero {

enum class weight_decay_scope : std::uint8_t {
  hugging_face,   ///< all but RMS norms and relative bias tables (whose names hold "bias")
  all_but_norms,  ///< the groups of hand-written PyTorch loops
  everything      ///< one group, as under a DeepSpeed "optimizer" section
};

/// Does the tensor decay?
[[nodiscard]] constexpr bool decays(const parameter_row& row, weight_decay_scope scope) {
  switch (scope) {
    case weight_decay_scope::hugging_face:
      return !is_norm(row.role) && row.role != parameter_role::relative_bias;
    case weight_decay_scope::all_but_norms:
      return !is_norm(row.role);
    case weight_decay_scope::everything:
      break;
  }
  return true;
}

}  // namespace t5zero
