// What a backend must offer. The model is written against sublayers (self-attention, feed-forward, ...); a
// backend brings either primitive operations, from which nn/ composes each sublayer, or its own fused
// sublayers, one by one.
#pragma once

#include <concepts>
#include <cstdint>
#include <string>
#include <string_view>

#include <t5zero/backend/dropout.hpp>
#include <t5zero/core/config.hpp>
#include <t5zero/core/dtype.hpp>
#include <t5zero/core/integers.hpp>
#include <t5zero/optim/update_step.hpp>
#include <t5zero/plan/batch_shape.hpp>
#include <t5zero/policy/model_size.hpp>
#include <t5zero/policy/precision.hpp>
#include <t5zero/tensor/ragged_view.hpp>
#include <t5zero/tensor/tensor_view.hpp>

namespace t5zero {

/// How a matmul reads an operand.
enum class transpose : std::uint8_t { no, yes };

/// Which keys a query sees, beside those of its own sequence.
enum class attention_mask : std::uint8_t { full, causal };

/// One multi-head attention over ragged batches, without T5's missing 1/sqrt(d_kv).
template <element T>
struct attention_inputs {
  matrix_view<const T> query;        ///< [query tokens, n_heads * d_kv]
  matrix_view<const T> key;          ///< [key tokens, n_heads * d_kv]
  matrix_view<const T> value;        ///< [key tokens, n_heads * d_kv]
  const T* relative_bias = nullptr;  ///< [n_buckets, n_heads]; null: none (cross-attention)
  index_t n_heads = 0;
  index_t d_kv = 0;
  index_t n_buckets = 32;
  index_t max_distance = 128;
  attention_mask mask = attention_mask::full;  ///< causal bias buckets go with the causal mask
  ragged_view queries;
  ragged_view keys;
  dropout_site dropout;  ///< of the attention weights
};

/// Which keys each row of a generation step sees: rows of a matrix, named one by one (a beam's ancestors) or
/// as a range (a sentence's encoder output).
struct decode_keys {
  const index_t* table = nullptr;  ///< [rows, stride]: key j of row r is table[r * stride + j]; null: ranges
  index_t stride = 0;
  const index_t* first = nullptr;   ///< [rows]: key j of row r is first[r] + j
  const index_t* counts = nullptr;  ///< [rows]; null: max_count for each row
  index_t max_count = 0;

  [[nodiscard]] T5ZERO_HOST_DEVICE constexpr index_t count(index_t row) const {
    return counts == nullptr ? max_count : counts[row];
  }
  [[nodiscard]] T5ZERO_HOST_DEVICE constexpr index_t at(index_t row, index_t j) const {
    return table == nullptr ? first[row] + j : table[row * stride + j];
  }
};

/// Which keys of a row, with their values and the names of all keys, a GPU may read while the work submitted
/// last still runs. all: they were there before the step began. all_but_last: that work writes the last one,
/// and lets the next begin only when it has itself waited for all before it.
enum class early_keys : std::uint8_t { none, all_but_last, all };

/// Attention of one query for each row; the query's position is that of its last key.
template <element T>
struct decode_attention_inputs {
  matrix_view<const T> query;        ///< [rows, n_heads * d_kv]
  matrix_view<const T> key;          ///< [any, n_heads * d_kv]
  matrix_view<const T> value;        ///< [any, n_heads * d_kv]
  const T* relative_bias = nullptr;  ///< [n_buckets, n_heads], causal; null: none (cross-attention)
  index_t n_heads = 0;
  index_t d_kv = 0;
  index_t n_buckets = 32;
  index_t max_distance = 128;
  decode_keys keys;
  early_keys early = early_keys::none;
};

/// What a rank's device is made with.
struct device_options {
  int threads = 1;                ///< of the CPU
  int ordinal = 0;                ///< of the GPU, as CUDA counts the visible ones
  bool allows_tf32 = false;       ///< may matmuls round fp32 operands to TF32?
  bool overlaps_launches = true;  ///< may a GPU's kernel start before the one in front of it has ended?
  index_t graph_bytes = 0;        ///< that graphs of a GPU's steps may take; 0: each step is launched
  /// Of the workspace, what a GPU's matmuls may use. It decides how they are computed, so it does not depend
  /// on a batch.
  index_t matmul_workspace_bytes = index_t{32} << 20;
};

/// Side streams of an execution, by the work that runs on them: gradients of weights, which nothing waits for
/// before the end of backward, and the optimizer, a part of the model ahead of the forward.
enum class branch_of : std::uint8_t { feed_forward, self_attention, cross_attention, head, optimizer };
inline constexpr int branch_count = 5;

/// What is computed on a batch: submitted work is replayed by kind and shape (a GPU's graphs).
enum class step_kind : std::uint8_t {
  train,
  train_accumulating,
  evaluate,
  encode,
  decode,
  decode_beams,
  search
};

// One idea each, so that a compiler names the missing piece.
template <class B>
concept has_execution = requires(typename B::execution& e) {
  { e.fork(branch_of::head) } -> std::same_as<typename B::execution&>;
  { e.fork_behind_branches(branch_of::head) } -> std::same_as<typename B::execution&>;
  { e.resume(branch_of::head) } -> std::same_as<typename B::execution&>;
  e.join(branch_of::head);
  e.join_branches();
};
template <class B, class P>
concept has_sublayers = requires {
  typename B::template sublayers<P>;
};
/// How many sets of scratch buffers sublayers take in turn: as many as may be in use at a time.
template <class B>
concept says_its_scratch_sets = requires {
  { B::scratch_sets } -> std::convertible_to<index_t>;
};
/// How the optimizer and the gradients' norm are cut into pieces, and whether they run beside the steps.
template <class B>
concept paces_its_optimizer = requires(index_t count) {
  { B::overlaps_optimizer } -> std::convertible_to<bool>;
  { B::least_optimizer_piece } -> std::convertible_to<index_t>;
  { B::least_squares_bytes } -> std::convertible_to<index_t>;
  { B::square_parts(count) } -> std::same_as<index_t>;
};
template <class B, class P>
concept plans_its_workspace = requires(model_shape shape, batch_shape batch) {
  { B::template workspace_bytes<P>(shape, batch, 1) } -> std::same_as<index_t>;
  { B::matmul_workspace_bytes(shape) } -> std::same_as<index_t>;
};
/// Is there a device, and if not why: text for a user, empty where there is one.
template <class B>
concept says_its_availability = requires {
  { B::is_available() } -> std::same_as<bool>;
  { B::why_unavailable() } -> std::same_as<std::string>;
};
/// Throws input_error where the operations do not take a model of these sizes.
template <class B>
concept checks_shapes = requires(model_shape shape) {
  B::check_shape(shape);
};
/// Memory that a model's steps take to be replayed, beside the arena.
template <class B>
concept plans_its_graphs = requires(model_shape shape, bool trains) {
  { B::graph_bytes(shape, trains) } -> std::same_as<index_t>;
};
template <class B, class P>
concept supports_precision = B::template supports<P>;

/// Backend B can run precision policy P.
template <class B, class P>
concept backend_for = precision_policy<P> && supports_precision<B, P> && has_execution<B> &&
    has_sublayers<B, P> && plans_its_workspace<B, P> && checks_shapes<B> && plans_its_graphs<B> &&
    says_its_scratch_sets<B> && paces_its_optimizer<B> && says_its_availability<B>;

}  // namespace t5zero
