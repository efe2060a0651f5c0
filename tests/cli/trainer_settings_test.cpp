// The options of a run as those of its plan and its loop.
#include <t5zero/cli/trainer_settings.hpp>
#include <t5zero/cpu.hpp>

#include "catch.hpp"

TEST_CASE("a run that only evaluates or predicts is not planned as a training", "[cli]") {
  const auto trains = [](bool train, bool eval, bool predict) {
    t5zero::options chosen;
    chosen.do_train = train;
    chosen.do_eval = eval;
    chosen.do_predict = predict;
    return t5zero::cli::plan_options_of<t5zero::cpu::backend>(chosen, 32128).trains;
  };
  CHECK(trains(true, false, false));
  CHECK(trains(true, true, true));
  CHECK(trains(false, false, false));
  CHECK(!trains(false, true, false));
  CHECK(!trains(false, false, true));
}

TEST_CASE("checkpoints of the best model lie on evaluations, once shares are updates", "[cli]") {
  using t5zero::interval_strategy;
  t5zero::options chosen;
  chosen.load_best_model_at_end = true;
  chosen.eval_strategy = chosen.save_strategy = interval_strategy::steps;
  chosen.eval_steps = t5zero::step_count{0.1};
  chosen.save_steps.value = 0.2;
  const auto check = [&](t5zero::index_t updates) {
    const t5zero::step_arithmetic steps(
        100, {.batch_size = 1, .gradient_accumulation_steps = 1, .max_steps = updates, .epochs = 1.0});
    t5zero::cli::check_best_model_intervals(chosen, t5zero::cli::loop_options_of(chosen, steps, 0));
  };
  CHECK_NOTHROW(check(50));                         // 5 and 10
  CHECK_NOTHROW(check(49));                         // 4.9 and 9.8, rounded up
  CHECK_THROWS_AS(check(54), t5zero::input_error);  // 5.4 and 10.8 become 6 and 11
  chosen.load_best_model_at_end = false;
  CHECK_NOTHROW(check(54));
}
