// expect: odd_t5.*shape_is_aligned
#include <string_view>

#include <t5zero/policy/model_size.hpp>

struct odd_t5 {
  static constexpr std::string_view name = "odd-t5";
  static constexpr t5zero::model_shape shape = t5zero::detail::t5_v1_0(/*d_model=*/500, 64, 2048, 6, 8);
};
template <t5zero::model_policy Model>
struct user {};
user<odd_t5> it;
