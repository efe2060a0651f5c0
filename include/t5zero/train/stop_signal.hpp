// SIGTERM and SIGINT ask a run to stop after the update at hand; a second one ends the program at once.
#pragma once

#include <unistd.h>

#include <atomic>
#include <csignal>

namespace t5zero {

/// While it lives, the two signals are noted instead of ending the program. One at a time.
class stop_signal {
 public:
  stop_signal() {
    received.store(0);
    struct sigaction noted {};
    noted.sa_handler = [](int number) {
      // Only async-signal-safe calls: a lock-free atomic and _exit.
      if (received.exchange(number) != 0) ::_exit(128 + number);
    };
    sigemptyset(&noted.sa_mask);
    noted.sa_flags = SA_RESTART;
    ::sigaction(SIGTERM, &noted, &terminate_before_);
    ::sigaction(SIGINT, &noted, &interrupt_before_);
  }
  stop_signal(const stop_signal&) = delete;
  stop_signal& operator=(const stop_signal&) = delete;
  ~stop_signal() {
    ::sigaction(SIGTERM, &terminate_before_, nullptr);
    ::sigaction(SIGINT, &interrupt_before_, nullptr);
  }

  /// The signal that came, or 0.
  [[nodiscard]] static int number() { return received.load(); }

 private:
  static_assert(std::atomic<int>::is_always_lock_free, "a signal handler may use lock-free atomics only");
  static inline std::atomic<int> received{0};

  struct sigaction terminate_before_ {};
  struct sigaction interrupt_before_ {};
};

}  // namespace t5zero
