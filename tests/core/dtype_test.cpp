#include <t5zero/core/dtype.hpp>

#include <cmath>
#include <limits>

#include "catch.hpp"

using t5zero::bfloat16;
using t5zero::float16;

TEST_CASE("every binary16 value survives the way to float and back") {
  int wrong = 0;
  for (std::uint32_t bits = 0; bits < 0x10000U; ++bits) {
    float16 value;
    value.bits = static_cast<std::uint16_t>(bits);
    const auto wide = static_cast<float>(value);
    const float16 back(wide);
    if (std::isnan(wide)) {
      wrong += std::isnan(static_cast<float>(back)) ? 0 : 1;
    } else {
      wrong += back.bits == value.bits ? 0 : 1;
    }
  }
  CHECK(wrong == 0);
}

TEST_CASE("rounding to 16 bits goes to the nearest, ties to even") {
  // 2048 + 1 lies between two halves, 2048 and 2050: the even mantissa wins.
  CHECK(float16(2049.0F) == float16(2048.0F));
  CHECK(float16(2051.0F) == float16(2052.0F));
  CHECK(float16(65519.0F) == float16(65504.0F));
  CHECK(std::isinf(static_cast<float>(float16(65520.0F))));
  CHECK(float16(2.9802322e-8F).bits == 0);  // 2^-25: half of the smallest subnormal, ties to zero
  CHECK(float16(2.9802326e-8F).bits == 1);
  CHECK(float16(-0.0F).bits == 0x8000);
  CHECK(std::isnan(static_cast<float>(float16(std::numeric_limits<float>::quiet_NaN()))));
  CHECK(bfloat16(1.00390625F).bits == 0x3f80);  // 1 + 2^-8: tie, even stays
  CHECK(bfloat16(1.01171875F).bits == 0x3f82);  // 1 + 3 * 2^-8: tie, up to even
  CHECK(std::isnan(static_cast<float>(bfloat16(std::numeric_limits<float>::quiet_NaN()))));
}
