// SIGTERM, SIGINT and SIGHUP ask a run to stop after the update at hand; a second one, a second or more after
// the first, ends the program at once.
#pragma once

#include <unistd.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstddef>
#include <cstdint>
#include <ctime>

namespace t5zero {

/// While it lives, the signals are noted instead of ending the program. One at a time.
class stop_signal {
 public:
  stop_signal() {
    received.store(0);
    first_at.store(0);
    struct sigaction noted {};
    noted.sa_handler = [](int number) {
      // Only async-signal-safe calls: lock-free atomics, clock_gettime, write and _exit.
      const int kept_errno = errno;
      struct timespec now {};
      ::clock_gettime(CLOCK_MONOTONIC, &now);
      const std::int64_t milliseconds = std::int64_t{now.tv_sec} * 1000 + now.tv_nsec / 1'000'000;
      std::int64_t first = 0;
      if (first_at.compare_exchange_strong(first, milliseconds)) {
        received.store(number);
        static constexpr char notice[] =
            "\nstopping after the update or the batch at hand; again, a second or more from now: at once, "
            "without saving\n";
        const ssize_t unread = ::write(STDERR_FILENO, notice, sizeof(notice) - 1);
        static_cast<void>(unread);
      } else if (milliseconds - first >= repeated_wish) {
        ::_exit(128 + number);
      }
      errno = kept_errno;
    };
    sigemptyset(&noted.sa_mask);
    for (const int number : numbers) sigaddset(&noted.sa_mask, number);
    noted.sa_flags = SA_RESTART;
    for (std::size_t i = 0; i < numbers.size(); ++i) {
      ::sigaction(numbers[i], nullptr, &before_[i]);
      // Under nohup the terminal may go.
      if (numbers[i] == SIGHUP && before_[i].sa_handler == SIG_IGN) continue;
      ::sigaction(numbers[i], &noted, nullptr);
    }
  }
  stop_signal(const stop_signal&) = delete;
  stop_signal& operator=(const stop_signal&) = delete;
  ~stop_signal() {
    for (std::size_t i = 0; i < numbers.size(); ++i) ::sigaction(numbers[i], &before_[i], nullptr);
  }

  /// The signal that came first, or 0.
  [[nodiscard]] static int number() { return received.load(); }

 private:
  static constexpr std::array<int, 3> numbers = {SIGTERM, SIGINT, SIGHUP};
  /// Milliseconds: `timeout` sends its signal to the program and again to the program's group.
  static constexpr std::int64_t repeated_wish = 1000;

  static_assert(std::atomic<int>::is_always_lock_free && std::atomic<std::int64_t>::is_always_lock_free,
                "a signal handler may use lock-free atomics only");
  static inline std::atomic<int> received{0};
  static inline std::atomic<std::int64_t> first_at{
      0};  ///< milliseconds, by the monotonic clock; 0: none came

  std::array<struct sigaction, 3> before_{};
};

/// While it lives, writing to a pipe that nobody reads any more fails instead of ending the program: what a
/// run prints matters less than what it saves.
class broken_pipes_ignored {
 public:
  broken_pipes_ignored() {
    struct sigaction ignored {};
    ignored.sa_handler = SIG_IGN;
    sigemptyset(&ignored.sa_mask);
    ::sigaction(SIGPIPE, &ignored, &before_);
  }
  broken_pipes_ignored(const broken_pipes_ignored&) = delete;
  broken_pipes_ignored& operator=(const broken_pipes_ignored&) = delete;
  ~broken_pipes_ignored() { ::sigaction(SIGPIPE, &before_, nullptr); }

 private:
  struct sigaction before_ {};
};

}  // namespace t5zero
