// compiles: the control of the cases beside it
#include <string_view>

#include <t5zero/train/run.hpp>

struct tiny_t5 {
  static constexpr std::string_view name = "tiny-t5";
  static constexpr t5zero::model_shape shape = t5zero::detail::t5_v1_0(64, 16, 128, 2, 4);
};
template <t5zero::model_policy Model, t5zero::zero_policy Zero, t5zero::precision_policy Precision>
struct user {};
user<tiny_t5, t5zero::zero_3, t5zero::bf16> it;
