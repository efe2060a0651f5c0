// expect: Model is no model policy. It needs a `name` and a `shape` whose dimensions are positive
#include <string_view>

#include <t5zero/train/run.hpp>

struct flat_t5 {
  static constexpr std::string_view name = "flat-t5";
  static constexpr t5zero::model_shape shape = t5zero::detail::t5_v1_0(512, /*d_kv=*/0, 2048, 6, 8);
};
template struct t5zero::run<flat_t5, t5zero::zero_0, t5zero::fp32, int>;
