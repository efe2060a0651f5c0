#include <t5zero/train/progress_bar.hpp>

#include <algorithm>
#include <sstream>
#include <string>

#include "catch.hpp"

TEST_CASE("a line shows percentage, count, times and rate") {
  CHECK(t5zero::progress_line("", 5, 10, 10.0, 50) == " 50%|#######       | 5/10 [00:10<00:10,  2.00s/it]");
  const std::string line = t5zero::progress_line("Training", 5, 10, 1.25, 79);
  CHECK(line.size() == 79);
  CHECK(line.starts_with("Training:  50%|#"));
  CHECK(line.ends_with("| 5/10 [00:01<00:01,  4.00it/s]"));
  CHECK(t5zero::progress_line("", 0, 10, 0.0, 30) == "  0%|  | 0/10 [00:00<?, ?it/s]");
  CHECK(t5zero::progress_line("x", 7, 0, 2.0, 30) == "x: 7it [00:02,  3.50it/s]");
  CHECK(t5zero::clock_text(3661.9) == "1:01:01");
}

TEST_CASE("without a terminal there is a line for each tenth") {
  std::ostringstream out;
  double time = 0;
  {
    t5zero::progress_bar bar("Evaluating", 1000, t5zero::progress_mode::lines, out, [&] { return time; });
    for (int i = 0; i < 1000; ++i) {
      time += 0.5;
      bar.advance();
    }
    CHECK(bar.done() == 1000);
  }
  const std::string text = out.str();
  CHECK(std::count(text.begin(), text.end(), '\n') == 10);
  CHECK(text.find("100%|") != std::string::npos);
  CHECK(text.find('\r') == std::string::npos);
}

TEST_CASE("a bar is redrawn at most ten times a second, and lines go above it") {
  std::ostringstream out;
  std::ostringstream log;
  double time = 0;
  {
    t5zero::progress_bar bar("", 1000, t5zero::progress_mode::bar, out, [&] { return time; });
    for (int i = 0; i < 100; ++i) {
      time += 0.01;
      bar.advance();
    }
    bar.print_above("{'loss': 1.0}", log);
    bar.close();
    bar.close();
  }
  const std::string text = out.str();
  CHECK(log.str() == "{'loss': 1.0}\n");
  const auto draws = std::count(text.begin(), text.end(), '\r');
  CHECK(draws > 5);
  CHECK(draws < 20);
  CHECK(std::count(text.begin(), text.end(), '\n') == 1);
}

TEST_CASE("off draws nothing") {
  std::ostringstream out;
  { t5zero::progress_bar("", 3, t5zero::progress_mode::off, out).advance(3); }
  CHECK(out.str().empty());
}
