// A list of types, for walking over policies at compile time.
#pragma once

#include <cstddef>

namespace t5zero {

template <class... Ts>
struct type_list {
  static constexpr std::size_t size = sizeof...(Ts);
};

/// Calls f.template operator()<T>() for each T in order.
template <class... Ts, class F>
constexpr void for_each_type(type_list<Ts...> /*types*/, F&& f) {
  (f.template operator()<Ts>(), ...);
}

}  // namespace t5zero
