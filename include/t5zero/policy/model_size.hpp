// Model policies: the dimensions of each published T5. Names of dimensions as in Raffel et al. 2020 (T5) and
// Shazeer 2020 (v1.1, gated GELU).
#pragma once

#include <algorithm>
#include <concepts>
#include <cstdint>
#include <string_view>

#include <t5zero/core/integers.hpp>
#include <t5zero/core/type_list.hpp>

namespace t5zero {

/// What stands between the two (three) matrices of a feed-forward sublayer.
enum class feed_forward_kind : std::uint8_t {
  relu,       ///< wo(relu(wi x))
  gated_gelu  ///< wo(gelu_new(wi_0 x) * (wi_1 x)); gelu_new is the tanh form
};

/// All dimensions of a T5. A policy holds the published ones; the vocabulary, tying and output scaling of a
/// run come from config.json, an own tokenizer, or the checkpoint, and change no code.
struct model_shape {
  index_t d_model = 0;
  index_t d_kv = 0;  ///< per head; n_heads * d_kv is not d_model in general
  index_t d_ff = 0;
  index_t n_heads = 0;
  index_t n_encoder_layers = 0;
  index_t n_decoder_layers = 0;
  feed_forward_kind feed_forward = feed_forward_kind::relu;
  bool ties_embeddings = true;  ///< the head's matrix is `shared`
  bool scales_output = true;    ///< logits = (h * d_model^-0.5) head^T
  index_t vocab_size = 32128;
  index_t n_buckets = 32;      ///< relative position buckets
  index_t max_distance = 128;  ///< distances from here on share a bucket
  float epsilon = 1e-6F;       ///< of the RMS norms

  /// Width of q, k and v over all heads.
  [[nodiscard]] T5ZERO_HOST_DEVICE constexpr index_t inner_dim() const { return n_heads * d_kv; }
  /// The most features that a layer's activations have.
  [[nodiscard]] constexpr index_t widest() const { return std::max({d_model, d_ff, inner_dim()}); }
  [[nodiscard]] T5ZERO_HOST_DEVICE constexpr bool gated() const {
    return feed_forward == feed_forward_kind::gated_gelu;
  }
  friend constexpr bool operator==(const model_shape&, const model_shape&) = default;

  /// Equal but for what a checkpoint or a tokenizer decides at run time: vocabulary, head, epsilon.
  [[nodiscard]] constexpr bool same_dimensions(model_shape other) const {
    other.ties_embeddings = ties_embeddings;
    other.scales_output = scales_output;
    other.vocab_size = vocab_size;
    other.epsilon = epsilon;
    return other == *this;
  }
};

namespace detail {

constexpr model_shape t5_v1_0(index_t d_model, index_t d_kv, index_t d_ff, index_t n_layers,
                              index_t n_heads) {
  return {.d_model = d_model,
          .d_kv = d_kv,
          .d_ff = d_ff,
          .n_heads = n_heads,
          .n_encoder_layers = n_layers,
          .n_decoder_layers = n_layers};
}

constexpr model_shape t5_v1_1(index_t d_model, index_t d_kv, index_t d_ff, index_t n_layers,
                              index_t n_heads) {
  return {.d_model = d_model,
          .d_kv = d_kv,
          .d_ff = d_ff,
          .n_heads = n_heads,
          .n_encoder_layers = n_layers,
          .n_decoder_layers = n_layers,
          .feed_forward = feed_forward_kind::gated_gelu,
          .ties_embeddings = false,
          .scales_output = false};
}

}  // namespace detail

struct t5_small {
  static constexpr std::string_view name = "t5-small";
  static constexpr model_shape shape = detail::t5_v1_0(512, 64, 2048, 6, 8);
};
struct t5_base {
  static constexpr std::string_view name = "t5-base";
  static constexpr model_shape shape = detail::t5_v1_0(768, 64, 3072, 12, 12);
};
struct t5_large {
  static constexpr std::string_view name = "t5-large";
  static constexpr model_shape shape = detail::t5_v1_0(1024, 64, 4096, 24, 16);
};
struct t5_3b {
  static constexpr std::string_view name = "t5-3b";
  static constexpr model_shape shape = detail::t5_v1_0(1024, 128, 16384, 24, 32);
};
struct t5_11b {
  static constexpr std::string_view name = "t5-11b";
  static constexpr model_shape shape = detail::t5_v1_0(1024, 128, 65536, 24, 128);
};

// v1.1 and flan-t5 share their shapes; the weights differ.
struct t5_v1_1_small {
  static constexpr std::string_view name = "t5-v1_1-small";
  static constexpr model_shape shape = detail::t5_v1_1(512, 64, 1024, 8, 6);
};
struct t5_v1_1_base {
  static constexpr std::string_view name = "t5-v1_1-base";
  static constexpr model_shape shape = detail::t5_v1_1(768, 64, 2048, 12, 12);
};
struct t5_v1_1_large {
  static constexpr std::string_view name = "t5-v1_1-large";
  static constexpr model_shape shape = detail::t5_v1_1(1024, 64, 2816, 24, 16);
};
struct t5_v1_1_xl {
  static constexpr std::string_view name = "t5-v1_1-xl";
  static constexpr model_shape shape = detail::t5_v1_1(2048, 64, 5120, 24, 32);
};
struct t5_v1_1_xxl {
  static constexpr std::string_view name = "t5-v1_1-xxl";
  static constexpr model_shape shape = detail::t5_v1_1(4096, 64, 10240, 24, 64);
};

using all_model_sizes = type_list<t5_small, t5_base, t5_large, t5_3b, t5_11b, t5_v1_1_small, t5_v1_1_base,
                                  t5_v1_1_large, t5_v1_1_xl, t5_v1_1_xxl>;

template <class M>
concept has_a_shape = requires {
  { M::shape } -> std::convertible_to<model_shape>;
  { M::name } -> std::convertible_to<std::string_view>;
};
template <class M>
concept shape_is_positive =
    M::shape.d_model > 0 && M::shape.d_kv > 0 && M::shape.d_ff > 0 && M::shape.n_heads > 0 &&
    M::shape.n_encoder_layers > 0 && M::shape.n_decoder_layers > 0 && M::shape.vocab_size > 0;
/// Each direction of the encoder has half of the buckets, of which half are exact distances.
template <class M>
concept has_position_buckets = M::shape.n_buckets >= 4 && M::shape.n_buckets % 4 == 0 &&
                               M::shape.max_distance > M::shape.n_buckets / 2 && M::shape.epsilon > 0.0F;
/// Kernels move 16 bytes at a time: eight 16-bit elements.
template <class M>
concept shape_is_aligned = M::shape.d_model % 8 == 0 && M::shape.d_kv % 8 == 0 && M::shape.d_ff % 8 == 0;

/// A type that may stand first in run<Model, Zero, Precision, Backend>.
template <class M>
concept model_policy =
    has_a_shape<M> && shape_is_positive<M> && has_position_buckets<M> && shape_is_aligned<M>;

}  // namespace t5zero
