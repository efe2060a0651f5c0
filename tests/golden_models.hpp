// The models of the reference values, as policies.
#pragma once

#include <string_view>

#include <t5zero/policy/model_size.hpp>

namespace golden {

struct tiny_relu {
  static constexpr std::string_view name = "tiny_relu";
  static constexpr t5zero::model_shape shape{.d_model = 64,
                                             .d_kv = 16,
                                             .d_ff = 128,
                                             .n_heads = 4,
                                             .n_encoder_layers = 2,
                                             .n_decoder_layers = 2,
                                             .vocab_size = 384};
};
struct tiny_gated {
  static constexpr std::string_view name = "tiny_gated";
  static constexpr t5zero::model_shape shape{.d_model = 64,
                                             .d_kv = 16,
                                             .d_ff = 96,
                                             .n_heads = 4,
                                             .n_encoder_layers = 2,
                                             .n_decoder_layers = 2,
                                             .feed_forward = t5zero::feed_forward_kind::gated_gelu,
                                             .ties_embeddings = false,
                                             .scales_output = false,
                                             .vocab_size = 384};
};
struct tiny_gated_tied {
  static constexpr std::string_view name = "tiny_gated_tied";
  static constexpr t5zero::model_shape shape = [] {
    t5zero::model_shape result = tiny_gated::shape;
    result.ties_embeddings = true;
    return result;
  }();
};

}  // namespace golden
