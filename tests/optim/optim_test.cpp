// Schedules, loss scales, clipping and AdamW's scalars against hand-made values.
#include <t5zero/optim/adafactor.hpp>
#include <t5zero/optim/adamw.hpp>
#include <t5zero/optim/gradient_clip.hpp>
#include <t5zero/optim/loss_scaler.hpp>
#include <t5zero/optim/lr_schedule.hpp>

#include <cmath>
#include <limits>
#include <vector>

#include "catch.hpp"

namespace {

using t5zero::index_t;

bool near(double a, double b) {
  return std::abs(a - b) <= 1e-12 * std::max(1.0, std::abs(b));
}
std::vector<double> rates(const t5zero::lr_schedule& schedule, index_t count) {
  std::vector<double> all;
  for (index_t step = 0; step < count; ++step) all.push_back(schedule(step));
  return all;
}
void check_near(const std::vector<double>& values, const std::vector<double>& expected) {
  REQUIRE(values.size() == expected.size());
  for (std::size_t i = 0; i < values.size(); ++i) {
    INFO(i);
    CHECK(near(values[i], expected[i]));
  }
}

}  // namespace

TEST_CASE("schedules of transformers over five updates") {
  using t5zero::lr_schedule_kind;
  check_near(rates({lr_schedule_kind::linear, 1.0, 0, 5}, 6), {1.0, 0.8, 0.6, 0.4, 0.2, 0.0});
  check_near(rates({lr_schedule_kind::linear, 1.0, 2, 5}, 6), {0.0, 0.5, 1.0, 2.0 / 3.0, 1.0 / 3.0, 0.0});
  check_near(rates({lr_schedule_kind::constant, 0.5, 2, 5}, 3), {0.5, 0.5, 0.5});
  check_near(rates({lr_schedule_kind::constant_with_warmup, 1.0, 2, 5}, 4), {0.0, 0.5, 1.0, 1.0});
  check_near(rates({lr_schedule_kind::cosine, 1.0, 0, 4}, 5),
             {1.0, 0.5 + std::sqrt(0.125), 0.5, 0.5 - std::sqrt(0.125), 0.0});
  // A warmup as long as the run, and updates beyond the end.
  check_near(rates({lr_schedule_kind::linear, 1.0, 3, 3}, 5), {0.0, 1.0 / 3.0, 2.0 / 3.0, 0.0, 0.0});
}

// Expected values: transformers 5.23, get_scheduler(...).get_last_lr(), peak 1.
TEST_CASE("schedules of transformers with values of their own") {
  using t5zero::lr_curve;
  using t5zero::lr_schedule_kind;
  const auto check = [](lr_schedule_kind kind, index_t warmup, index_t total,
                        const t5zero::lr_schedule_shape& shape, const std::vector<double>& expected) {
    const std::vector<double> found =
        rates({kind, 1.0, warmup, total, shape}, static_cast<index_t>(expected.size()));
    for (std::size_t i = 0; i < expected.size(); ++i) {
      INFO(to_string(kind) << " " << i);
      CHECK(std::abs(found[i] - expected[i]) < 1e-12);
    }
  };
  check(lr_schedule_kind::cosine_with_restarts, 2, 8, {.num_cycles = 2.0},
        {0.0, 0.5, 1.0, 0.75, 0.25, 1.0, 0.75, 0.25, 0.0, 0.0});
  check(lr_schedule_kind::cosine, 0, 4, {.num_cycles = 1.0}, {1.0, 0.5, 0.0, 0.5, 1.0, 0.5});
  check(lr_schedule_kind::polynomial, 2, 6, {.power = 2.0, .minimum = 0.1},
        {0.0, 0.5, 1.0, 0.60625, 0.325, 0.15625, 0.1, 0.1});
  check(lr_schedule_kind::inverse_sqrt, 2, 6, {},
        {0.0, 0.5, 1.0, 0.8164965809277, 0.7071067811865, 0.6324555320337, 0.5773502691896, 0.5345224838248});
  check(lr_schedule_kind::inverse_sqrt, 0, 4, {},
        {1.0, 0.9999500037497, 0.9999000149975, 0.9998500337416, 0.99980005998, 0.999750093711});
  check(lr_schedule_kind::inverse_sqrt, 2, 4, {.timescale = 4.0},
        {0.0, 0.5, 1.0, 0.8944271909999, 0.8164965809277, 0.7559289460185});
  check(lr_schedule_kind::cosine_with_min_lr, 1, 5, {.minimum = 0.2},
        {0.0, 1.0, 0.8828427124746, 0.6, 0.3171572875254, 0.2, 0.3171572875254});
  check(lr_schedule_kind::cosine_warmup_with_min_lr, 2, 6, {.minimum = 0.2},
        {0.5, 1.0, 0.8828427124746, 0.6, 0.3171572875254, 0.2, 0.3171572875254, 0.6});
  check(lr_schedule_kind::cosine_warmup_with_min_lr, 3, 6, {.minimum = 0.2, .warmup_minimum = 0.4},
        {0.4, 0.7, 1.0, 0.8, 0.4, 0.2, 0.4, 0.8});
  check(lr_schedule_kind::warmup_stable_decay, 2, 9, {.stable_steps = 3, .decay_steps = 4},
        {0.0, 0.5, 1.0, 1.0, 1.0, 1.0, 0.8535533905933, 0.5, 0.1464466094067, 0.0, 0.0});
  check(lr_schedule_kind::warmup_stable_decay, 3, 9,
        {.minimum = 0.1,
         .stable_steps = 3,
         .decay_steps = 3,
         .warmup_curve = lr_curve::cosine,
         .decay_curve = lr_curve::one_minus_sqrt},
        {0.1, 0.325, 0.775, 1.0, 1.0, 1.0, 1.0, 0.4803847577293, 0.265153077165, 0.1, 0.1});
  check(lr_schedule_kind::warmup_stable_decay, 3, 9,
        {.stable_steps = 1,
         .decay_steps = 3,
         .warmup_curve = lr_curve::one_minus_sqrt,
         .decay_curve = lr_curve::linear},
        {0.0, 0.1835034190723, 0.4226497308104, 1.0, 1.0, 0.6666666666667, 0.3333333333333, 0.0, 0.0, 0.0});
}

TEST_CASE("Adafactor's scalars of an update") {
  t5zero::adafactor_options options;
  options.weight_decay = 0.25;
  const t5zero::adafactor_params first = t5zero::adafactor_update(options, 1e-3, 1, 0.5);
  CHECK(first.beta2 == 0.0F);  // the first update forgets the zeros it starts from
  CHECK(first.one_minus_beta2 == 1.0F);
  CHECK(first.weight_decay == 0.25F);
  CHECK(first.grad_multiplier == 0.5F);
  const t5zero::adafactor_params second = t5zero::adafactor_update(options, 1e-3, 2, 1.0);
  CHECK(second.one_minus_beta2 == static_cast<float>(std::pow(2.0, -0.8)));
}

TEST_CASE("PyTorch's rule for the loss scale") {
  t5zero::loss_scaler_options options = t5zero::loss_scaler_options::grad_scaler();
  CHECK(options.window == 2000);
  options.window = 3;
  t5zero::loss_scaler_state scaler = t5zero::initial_state(options);
  CHECK(t5zero::advance(options, scaler, true));
  CHECK(scaler.scale == 32768.0);
  for (int i = 0; i < 2; ++i) CHECK(t5zero::advance(options, scaler, false));
  CHECK(t5zero::advance(options, scaler, true));  // the count starts over
  CHECK(scaler.scale == 16384.0);
  for (int i = 0; i < 3; ++i) CHECK(t5zero::advance(options, scaler, false));
  CHECK(scaler.scale == 32768.0);
  int overflows = 0;
  while (overflows < 2000 && t5zero::advance(options, scaler, true)) ++overflows;
  CHECK(overflows < 2000);
  CHECK(scaler.scale > 0.0);
}

TEST_CASE("DeepSpeed's rule ends at the minimum") {
  t5zero::loss_scaler_options options;
  options.initial_scale = 4.0;
  options.hysteresis = 1;
  t5zero::loss_scaler_state scaler = t5zero::initial_state(options);
  CHECK(t5zero::advance(options, scaler, true));
  CHECK(t5zero::advance(options, scaler, true));
  CHECK(scaler.scale == 1.0);
  CHECK_FALSE(t5zero::advance(options, scaler, true));
  options.dynamic = false;
  t5zero::loss_scaler_state fixed = t5zero::initial_state(options);
  for (int i = 0; i < 10; ++i) CHECK(t5zero::advance(options, fixed, true));
  CHECK(fixed.scale == 4.0);
}

TEST_CASE("the clip factor") {
  CHECK(t5zero::clip_factor(0.5, 1.0) == 1.0);
  CHECK(near(t5zero::clip_factor(4.0, 1.0), 1.0 / (4.0 + 1e-6)));
  CHECK(t5zero::clip_factor(4.0, 0.0) == 1.0);
  CHECK(t5zero::clip_factor(std::numeric_limits<double>::infinity(), 1.0) == 0.0);
  CHECK(std::isnan(t5zero::clip_factor(std::numeric_limits<double>::quiet_NaN(), 1.0)));
}

TEST_CASE("which parameters decay") {
  using t5zero::weight_decay_scope;
  int norms = 0;
  int tables = 0;
  for (const t5zero::parameter_row& row : t5zero::parameter_table(t5zero::t5_small::shape)) {
    const bool norm = t5zero::is_norm(row.role);
    const bool table = row.role == t5zero::parameter_role::relative_bias;
    norms += norm ? 1 : 0;
    tables += table ? 1 : 0;
    CHECK(t5zero::decays(row, weight_decay_scope::hugging_face) == !(norm || table));
    CHECK(t5zero::decays(row, weight_decay_scope::all_but_norms) == !norm);
    CHECK(t5zero::decays(row, weight_decay_scope::everything));
  }
  CHECK(norms == 6 * 2 + 6 * 3 + 2);
  CHECK(tables == 2);
}

TEST_CASE("AdamW's scalars of an update") {
  t5zero::adamw_options options;
  options.weight_decay = 0.25;
  const t5zero::adamw_params params = t5zero::adamw_update(options, 1e-3, 2, 0.5);
  CHECK(params.bias_correction1 == static_cast<float>(1.0 - 0.81));
  CHECK(params.bias_correction2_sqrt == static_cast<float>(std::sqrt(1.0 - 0.999 * 0.999)));
  CHECK(params.weight_decay == 0.25F);
  CHECK(params.grad_multiplier == 0.5F);
}
