// The one list of a T5's parameters. Counting, loading, initialising, partitioning, checkpoints and tests
// read it; there is no second list and no hand-written index.
//
// All parameters of a rank stand in one flat buffer, in the order of this table. Two groups are placed so
// that one matmul can use them together: q, k, v of a self-attention, and the cross-attention k, v of all
// decoder layers. Names and shapes are those of Hugging Face's T5 checkpoints; initialisation is that of the
// original Mesh TensorFlow code as kept in transformers' T5PreTrainedModel._init_weights.
#pragma once

#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

#include <t5zero/core/error.hpp>
#include <t5zero/core/integers.hpp>
#include <t5zero/policy/model_size.hpp>

namespace t5zero {

enum class parameter_stack : std::uint8_t { shared, encoder, decoder };

enum class parameter_role : std::uint8_t {
  embedding,
  relative_bias,
  self_norm,
  self_q,
  self_k,
  self_v,
  self_o,
  cross_norm,
  cross_q,
  cross_k,
  cross_v,
  cross_o,
  feed_forward_norm,
  wi,    ///< relu
  wi_0,  ///< gated: through gelu_new
  wi_1,  ///< gated: linear
  wo,
  final_norm,
  lm_head
};

[[nodiscard]] constexpr bool is_norm(parameter_role role) {
  return role == parameter_role::self_norm || role == parameter_role::cross_norm ||
         role == parameter_role::feed_forward_norm || role == parameter_role::final_norm;
}

/// Consecutive elements of the flat buffer.
struct parameter_range {
  index_t first = 0;  ///< element
  index_t count = 0;  ///< elements
  friend constexpr bool operator==(parameter_range, parameter_range) = default;
};

/// One tensor.
struct parameter_row {
  parameter_stack stack = parameter_stack::shared;
  index_t layer = 0;  ///< block of its stack; 0 where there is none
  parameter_role role = parameter_role::embedding;
  index_t rows = 0;  ///< 1 for a vector (norms)
  index_t cols = 0;
  index_t offset = 0;     ///< first element in the flat buffer
  index_t use_sites = 1;  ///< places of the model that read it, so contributions to its gradient
  double init_std = 0.0;  ///< of N(0, std); 0 means the constant 1. Both times initializer_factor

  [[nodiscard]] constexpr index_t count() const { return rows * cols; }
  [[nodiscard]] constexpr parameter_range range() const { return {offset, count()}; }
  [[nodiscard]] constexpr bool is_vector() const { return is_norm(role); }
  /// Its gradient is a sum of contributions: of several use sites, of the layers of a stack, or, for a head
  /// of its own, of chunks of target tokens. Such sums are kept in fp32 and rounded once.
  [[nodiscard]] constexpr bool sums_gradient() const {
    return role == parameter_role::embedding || role == parameter_role::relative_bias ||
           role == parameter_role::lm_head;
  }
};

namespace detail {

/// Newton's method from above, so that tables are constexpr in C++20.
[[nodiscard]] constexpr double inverse_sqrt(index_t value) {
  const auto v = static_cast<double>(value);
  double root = v > 1.0 ? v : 1.0;
  for (int i = 0; i < 64; ++i) root = 0.5 * (root + v / root);
  return 1.0 / root;
}

}  // namespace detail

/// Calls f(row) for every tensor, in the order of the flat buffer.
template <class F>
constexpr void for_each_parameter(const model_shape& shape, F&& f) {
  const index_t d = shape.d_model;
  const index_t inner = shape.inner_dim();
  const double std_d = detail::inverse_sqrt(d);
  const double std_q =
      detail::inverse_sqrt(d * shape.d_kv);  // carries the 1/sqrt(d_kv) that T5's scores leave out
  const double std_o = detail::inverse_sqrt(inner);
  const double std_wo = detail::inverse_sqrt(shape.d_ff);
  index_t offset = 0;
  auto add = [&](parameter_stack stack, index_t layer, parameter_role role, index_t rows, index_t cols,
                 double std, index_t use_sites = 1) {
    f(parameter_row{stack, layer, role, rows, cols, offset, use_sites, std});
    offset += rows * cols;
  };
  using enum parameter_role;
  add(parameter_stack::shared, 0, embedding, shape.vocab_size, d, 1.0, shape.ties_embeddings ? 3 : 2);

  auto add_self_attention = [&](parameter_stack stack, index_t layer) {
    add(stack, layer, self_norm, 1, d, 0.0);
    add(stack, layer, self_q, inner, d, std_q);
    add(stack, layer, self_k, inner, d, std_d);
    add(stack, layer, self_v, inner, d, std_d);
    add(stack, layer, self_o, d, inner, std_o);
  };
  auto add_feed_forward = [&](parameter_stack stack, index_t layer) {
    add(stack, layer, feed_forward_norm, 1, d, 0.0);
    if (shape.gated()) {
      add(stack, layer, wi_0, shape.d_ff, d, std_d);
      add(stack, layer, wi_1, shape.d_ff, d, std_d);
    } else {
      add(stack, layer, wi, shape.d_ff, d, std_d);
    }
    add(stack, layer, wo, d, shape.d_ff, std_wo);
  };

  const auto encoder = parameter_stack::encoder;
  add(encoder, 0, relative_bias, shape.n_buckets, shape.n_heads, std_d, shape.n_encoder_layers);
  for (index_t layer = 0; layer < shape.n_encoder_layers; ++layer) {
    add_self_attention(encoder, layer);
    add_feed_forward(encoder, layer);
  }
  add(encoder, 0, final_norm, 1, d, 0.0);

  const auto decoder = parameter_stack::decoder;
  for (index_t layer = 0; layer < shape.n_decoder_layers; ++layer) {
    add(decoder, layer, cross_k, inner, d, std_d);
    add(decoder, layer, cross_v, inner, d, std_d);
  }
  add(decoder, 0, relative_bias, shape.n_buckets, shape.n_heads, std_d, shape.n_decoder_layers);
  for (index_t layer = 0; layer < shape.n_decoder_layers; ++layer) {
    add_self_attention(decoder, layer);
    add(decoder, layer, cross_norm, 1, d, 0.0);
    add(decoder, layer, cross_q, inner, d, std_q);
    add(decoder, layer, cross_o, d, inner, std_o);
    add_feed_forward(decoder, layer);
  }
  add(decoder, 0, final_norm, 1, d, 0.0);
  if (!shape.ties_embeddings) add(parameter_stack::shared, 0, lm_head, shape.vocab_size, d, 1.0);
}

/// Trainable parameters; a tied embedding counts once.
[[nodiscard]] constexpr index_t parameter_count(const model_shape& shape) {
  index_t count = 0;
  for_each_parameter(shape, [&](const parameter_row& row) { count += row.count(); });
  return count;
}
template <model_policy Model>
[[nodiscard]] constexpr index_t parameter_count() {
  return parameter_count(Model::shape);
}

/// Calls f(row, first) for each tensor whose gradient is a sum, `first` being its place in a float buffer of
/// all of them; returns the elements of that buffer. Each sum starts at a multiple of 64 bytes.
template <class F>
constexpr index_t for_each_gradient_sum(const model_shape& shape, const F& f) {
  index_t first = 0;
  for_each_parameter(shape, [&](const parameter_row& row) {
    if (!row.sums_gradient()) return;
    f(row, first);
    first += round_up(row.count(), index_t{16});
  });
  return first;
}

/// Tensors that a checkpoint of the model holds.
[[nodiscard]] constexpr index_t tensor_count(const model_shape& shape) {
  index_t count = 0;
  for_each_parameter(shape, [&](const parameter_row&) { ++count; });
  return count;
}

/// The row of (stack, layer, role). Throws contract_error if the model has none.
[[nodiscard]] constexpr parameter_row find_parameter(const model_shape& shape, parameter_stack stack,
                                                     index_t layer, parameter_role role) {
  parameter_row found;
  bool seen = false;
  for_each_parameter(shape, [&](const parameter_row& row) {
    if (row.stack != stack || row.layer != layer || row.role != role) return;
    found = row;
    seen = true;
  });
  require(seen, "find_parameter: the model has no such tensor");
  return found;
}

/// Name in a Hugging Face checkpoint, e.g. "encoder.block.0.layer.0.SelfAttention.q.weight".
[[nodiscard]] inline std::string checkpoint_name(const parameter_row& row) {
  using enum parameter_role;
  if (row.role == embedding) return "shared.weight";
  if (row.role == lm_head) return "lm_head.weight";
  const bool in_decoder = row.stack == parameter_stack::decoder;
  const std::string stack = in_decoder ? "decoder." : "encoder.";
  if (row.role == final_norm) return stack + "final_layer_norm.weight";
  auto in_layer = [&](int layer, const char* name) {
    return stack + "block." + std::to_string(row.layer) + ".layer." + std::to_string(layer) + "." + name +
           ".weight";
  };
  const int feed_forward = in_decoder ? 2 : 1;
  switch (row.role) {
    case relative_bias:
      return in_layer(0, "SelfAttention.relative_attention_bias");
    case self_norm:
      return in_layer(0, "layer_norm");
    case self_q:
      return in_layer(0, "SelfAttention.q");
    case self_k:
      return in_layer(0, "SelfAttention.k");
    case self_v:
      return in_layer(0, "SelfAttention.v");
    case self_o:
      return in_layer(0, "SelfAttention.o");
    case cross_norm:
      return in_layer(1, "layer_norm");
    case cross_q:
      return in_layer(1, "EncDecAttention.q");
    case cross_k:
      return in_layer(1, "EncDecAttention.k");
    case cross_v:
      return in_layer(1, "EncDecAttention.v");
    case cross_o:
      return in_layer(1, "EncDecAttention.o");
    case feed_forward_norm:
      return in_layer(feed_forward, "layer_norm");
    case wi:
      return in_layer(feed_forward, "DenseReluDense.wi");
    case wi_0:
      return in_layer(feed_forward, "DenseReluDense.wi_0");
    case wi_1:
      return in_layer(feed_forward, "DenseReluDense.wi_1");
    default:
      return in_layer(feed_forward, "DenseReluDense.wo");
  }
}

/// Every name that a checkpoint may give the tensor, the preferred one first.
[[nodiscard]] inline std::vector<std::string> accepted_checkpoint_names(const parameter_row& row) {
  std::vector<std::string> names{checkpoint_name(row)};
  if (row.role == parameter_role::embedding) {
    names.emplace_back("encoder.embed_tokens.weight");
    names.emplace_back("decoder.embed_tokens.weight");
  }
  return names;
}

/// All rows, for code that runs once.
[[nodiscard]] inline std::vector<parameter_row> parameter_table(const model_shape& shape) {
  std::vector<parameter_row> rows;
  for_each_parameter(shape, [&](const parameter_row& row) { rows.push_back(row); });
  return rows;
}

// The published counts.
static_assert(parameter_count<t5_small>() == 60'506'624 && tensor_count(t5_small::shape) == 131);
static_assert(parameter_count<t5_base>() == 222'903'552 && tensor_count(t5_base::shape) == 257);
static_assert(parameter_count<t5_large>() == 737'668'096 && tensor_count(t5_large::shape) == 509);
static_assert(parameter_count<t5_3b>() == 2'851'598'336 && tensor_count(t5_3b::shape) == 509);
static_assert(parameter_count<t5_11b>() == 11'307'321'344 && tensor_count(t5_11b::shape) == 509);
static_assert(parameter_count<t5_v1_1_small>() == 76'961'152 && tensor_count(t5_v1_1_small::shape) == 190);
static_assert(parameter_count<t5_v1_1_base>() == 247'577'856 && tensor_count(t5_v1_1_base::shape) == 282);
static_assert(parameter_count<t5_v1_1_large>() == 783'150'080 && tensor_count(t5_v1_1_large::shape) == 558);
static_assert(parameter_count<t5_v1_1_xl>() == 2'849'757'184 && tensor_count(t5_v1_1_xl::shape) == 558);
static_assert(parameter_count<t5_v1_1_xxl>() == 11'135'332'352 && tensor_count(t5_v1_1_xxl::shape) == 558);

}  // namespace t5zero
