// What is planned before any file is read.
#include <t5zero/cpu.hpp>

#include <t5zero/cli/trainer_settings.hpp>

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
