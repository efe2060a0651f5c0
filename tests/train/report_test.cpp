// What a run prints.
#include <t5zero/train/report.hpp>

#include "catch.hpp"

TEST_CASE("durations are those of Hugging Face's metrics", "[train]") {
  using t5zero::duration_text;
  CHECK(duration_text(0.0) == "0:00:00.00");
  CHECK(duration_text(62.345) == "0:01:02.34");
  CHECK(duration_text(0.29) == "0:00:00.28");  // int(0.29 * 100): 0.29 is a little less
  CHECK(duration_text(1.29) == "0:00:01.29");  // 1.29 - 1 is a little more
  CHECK(duration_text(86399.999) == "23:59:59.99");
  CHECK(duration_text(86400.5) == "1 day, 0:00:00.50");
  CHECK(duration_text(2 * 86400 + 3 * 3600 + 4 * 60 + 5.25) == "2 days, 3:04:05.25");
}

TEST_CASE("a table of metrics", "[train]") {
  t5zero::metrics metrics;
  metrics.set("train_runtime", 90061.5);
  metrics.set("train_loss", 1.23456);
  metrics.set_count("train_samples", 500);
  CHECK(metrics.table("train") ==
        "***** train metrics *****\n"
        "  train_loss    =            1.2346\n"
        "  train_runtime = 1 day, 1:01:01.50\n"
        "  train_samples =               500\n");
}
