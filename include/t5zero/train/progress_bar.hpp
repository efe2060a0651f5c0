// A progress bar on stderr in tqdm's format; sparse lines where stderr is not a terminal.
#pragma once

#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <functional>
#include <iostream>
#include <ostream>
#include <string>
#include <string_view>
#include <utility>

#include <t5zero/core/integers.hpp>

namespace t5zero {

/// Seconds as tqdm shows them: MM:SS, or H:MM:SS from one hour on.
[[nodiscard]] inline std::string clock_text(double seconds) {
  const auto whole = static_cast<index_t>(std::clamp(seconds, 0.0, 1e15));
  std::array<char, 48> text{};
  const auto hours = static_cast<long long>(whole / 3600);
  const auto minutes = static_cast<long long>(whole / 60 % 60);
  const auto rest = static_cast<long long>(whole % 60);
  if (hours > 0) {
    std::snprintf(text.data(), text.size(), "%lld:%02lld:%02lld", hours, minutes, rest);
  } else {
    std::snprintf(text.data(), text.size(), "%02lld:%02lld", minutes, rest);
  }
  return text.data();
}

/// One line: "label:  50%|#####     | 5/10 [00:01<00:01,  4.00it/s]". `elapsed` in seconds, `columns` the
/// width of the terminal; a `total` of 0 or less is unknown and shows the count only.
[[nodiscard]] inline std::string progress_line(std::string_view label, index_t done, index_t total,
                                               double elapsed, index_t columns) {
  const double rate = elapsed > 0 && done > 0 ? static_cast<double>(done) / elapsed : 0;
  std::array<char, 64> number{};
  std::string rate_text = "?it/s";
  if (rate > 0) {
    // Slower than one a second reads better as seconds for each.
    std::snprintf(number.data(), number.size(), rate < 1 ? "%5.2fs/it" : "%5.2fit/s",
                  rate < 1 ? 1 / rate : rate);
    rate_text = number.data();
  }
  std::string head(label);
  if (!head.empty()) head += ": ";
  if (total <= 0) return head + std::to_string(done) + "it [" + clock_text(elapsed) + ", " + rate_text + "]";

  const double share = std::clamp(static_cast<double>(done) / static_cast<double>(total), 0.0, 1.0);
  std::snprintf(number.data(), number.size(), "%3d%%|", static_cast<int>(share * 100));
  head += number.data();
  const std::string remaining =
      rate > 0 ? clock_text(static_cast<double>(std::max<index_t>(total - done, 0)) / rate) : "?";
  const std::string tail = "| " + std::to_string(done) + "/" + std::to_string(total) + " [" +
                           clock_text(elapsed) + "<" + remaining + ", " + rate_text + "]";
  const auto used = static_cast<index_t>(head.size() + tail.size());
  const auto width = std::clamp<index_t>(columns - used, 0, 80);
  const auto filled = static_cast<index_t>(share * static_cast<double>(width));
  return head + std::string(static_cast<std::size_t>(filled), '#') +
         std::string(static_cast<std::size_t>(width - filled), ' ') + tail;
}

/// Where and how a bar is drawn.
enum class progress_mode : std::uint8_t {
  automatic,  ///< a bar if stderr is a terminal, else lines
  bar,        ///< redrawn in place
  lines,      ///< a line at each tenth of the total
  off
};

/// Counts steps and draws them. Drawing never throws and never touches stdout except through `print_above`.
class progress_bar {
 public:
  using clock = std::function<double()>;  ///< seconds since any fixed moment

  progress_bar(std::string label, index_t total, progress_mode mode = progress_mode::automatic,
               std::ostream& out = std::cerr, clock now = steady_seconds)
      : label_(std::move(label)),
        total_(total),
        mode_(resolve(mode)),
        out_(out),
        now_(std::move(now)),
        start_(now_()),
        last_drawn_(start_) {
    if (mode_ == progress_mode::bar) draw();
  }
  progress_bar(const progress_bar&) = delete;
  progress_bar& operator=(const progress_bar&) = delete;
  ~progress_bar() {
    try {
      close();
    } catch (...) {  // a bar must not end a run
    }
  }

  [[nodiscard]] index_t done() const { return done_; }

  /// `count` more steps are done.
  void advance(index_t count = 1) {
    done_ += count;
    if (closed_ || mode_ == progress_mode::off) return;
    if (mode_ == progress_mode::lines) {
      const index_t tenth = total_ > 0 ? std::min<index_t>(10 * done_ / total_, 10) : 0;
      if (tenth <= tenths_shown_) return;
      tenths_shown_ = tenth;
      draw();
    } else if (done_ >= total_ || now_() - last_drawn_ >= redraw_seconds) {
      draw();
    }
  }

  /// Writes a line to `target` with the bar out of the way, e.g. a log line on stdout.
  void print_above(std::string_view line, std::ostream& target = std::cout) {
    const bool shown = mode_ == progress_mode::bar && !closed_;
    if (shown) out_ << "\r\033[K" << std::flush;
    target << line << '\n' << std::flush;
    if (shown) draw();
  }

  /// Draws the last state and ends the line; later calls do nothing.
  void close() {
    if (closed_) return;
    closed_ = true;
    if (mode_ != progress_mode::bar) return;
    draw();
    out_ << '\n' << std::flush;
  }

  [[nodiscard]] static double steady_seconds() {
    return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
  }

 private:
  static constexpr double redraw_seconds = 0.1;  ///< as in tqdm: more often only costs time

  [[nodiscard]] static progress_mode resolve(progress_mode mode) {
    if (mode != progress_mode::automatic) return mode;
    return isatty(STDERR_FILENO) != 0 ? progress_mode::bar : progress_mode::lines;
  }
  [[nodiscard]] static index_t terminal_columns() {
    winsize size{};
    const bool known = ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0;
    return known ? size.ws_col - 1 : 79;  // the last column would wrap on some terminals
  }
  void draw() {
    last_drawn_ = now_();
    const bool in_place = mode_ == progress_mode::bar;
    const std::string line =
        progress_line(label_, done_, total_, last_drawn_ - start_, in_place ? terminal_columns() : 79);
    if (in_place) {
      out_ << '\r' << line << "\033[K" << std::flush;
    } else {
      out_ << line << '\n' << std::flush;
    }
  }

  std::string label_;
  index_t total_;
  progress_mode mode_;
  std::ostream& out_;
  clock now_;
  double start_;
  double last_drawn_;
  index_t done_ = 0;
  index_t tenths_shown_ = 0;
  bool closed_ = false;
};

}  // namespace t5zero
