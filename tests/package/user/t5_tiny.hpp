// A model size of the user's own.
#pragma once

#include <string_view>

#include <t5zero/policy/model_size.hpp>

namespace mine {

struct t5_tiny {
  static constexpr std::string_view name = "t5-tiny";
  static constexpr t5zero::model_shape shape = {
      .d_model = 64, .d_kv = 16, .d_ff = 128, .n_heads = 4, .n_encoder_layers = 2, .n_decoder_layers = 2};
};
static_assert(t5zero::model_policy<t5_tiny>);

}  // namespace mine
