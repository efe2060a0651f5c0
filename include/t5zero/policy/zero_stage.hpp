// ZeRO policies: which of the model states a rank holds only its part of.
// Source: Rajbhandari et al. 2020, "ZeRO: Memory Optimizations Toward Training Trillion Parameter Models".
#pragma once

#include <concepts>
#include <string_view>

#include <t5zero/core/type_list.hpp>

namespace t5zero {

/// Plain data parallelism: every rank holds everything.
struct zero_0 {
  static constexpr std::string_view name = "ZeRO-0";
  static constexpr int stage = 0;  ///< for messages and files only; code asks the properties below
  static constexpr bool shards_optimizer = false;
  static constexpr bool shards_gradients = false;
  static constexpr bool shards_parameters = false;
};

/// Optimizer state is sharded.
struct zero_1 {
  static constexpr std::string_view name = "ZeRO-1";
  static constexpr int stage = 1;
  static constexpr bool shards_optimizer = true;
  static constexpr bool shards_gradients = false;
  static constexpr bool shards_parameters = false;
};

/// Optimizer state and gradients are sharded.
struct zero_2 {
  static constexpr std::string_view name = "ZeRO-2";
  static constexpr int stage = 2;
  static constexpr bool shards_optimizer = true;
  static constexpr bool shards_gradients = true;
  static constexpr bool shards_parameters = false;
};

/// Optimizer state, gradients and parameters are sharded.
struct zero_3 {
  static constexpr std::string_view name = "ZeRO-3";
  static constexpr int stage = 3;
  static constexpr bool shards_optimizer = true;
  static constexpr bool shards_gradients = true;
  static constexpr bool shards_parameters = true;
};

using all_zero_stages = type_list<zero_0, zero_1, zero_2, zero_3>;

template <class Z>
concept names_zero_shards = requires {
  { Z::shards_optimizer } -> std::convertible_to<bool>;
  { Z::shards_gradients } -> std::convertible_to<bool>;
  { Z::shards_parameters } -> std::convertible_to<bool>;
  { Z::stage } -> std::convertible_to<int>;
  { Z::name } -> std::convertible_to<std::string_view>;
};
/// Who shards parameters shards gradients; who shards gradients shards the optimizer.
template <class Z>
concept zero_shards_nested = (!Z::shards_parameters || Z::shards_gradients) &&
                             (!Z::shards_gradients || Z::shards_optimizer);

/// A type that may stand second in run<Model, Zero, Precision, Backend>.
template <class Z>
concept zero_policy = names_zero_shards<Z> && zero_shards_nested<Z>;

static_assert(zero_policy<zero_0> && zero_policy<zero_1> && zero_policy<zero_2> && zero_policy<zero_3>);

}  // namespace t5zero
