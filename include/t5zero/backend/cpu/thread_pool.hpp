// The threads of one CPU rank: a fixed set that runs numbered tasks and returns when all are done.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <mutex>
#include <string>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include <t5zero/core/error.hpp>
#include <t5zero/core/integers.hpp>

namespace t5zero::cpu {

/// Runs `task(index)` for every index of a range on the calling thread and `size() - 1` others. Nothing is
/// allocated by `run`. Which thread runs which task varies; tasks that write disjoint results give the same
/// bits with any number of threads. Not reentrant: a task must not call `run`.
class thread_pool {
 public:
  /// `threads` >= 1; 1 means that everything runs on the caller.
  /// Throws io_error if the system refuses a thread.
  explicit thread_pool(int threads) {
    workers_.reserve(static_cast<std::size_t>(std::max(threads, 1)) - 1);
    try {
      for (int i = 1; i < threads; ++i) workers_.emplace_back([this, i] { work(i); });
    } catch (const std::system_error& failure) {
      const std::size_t started = workers_.size() + 1;
      stop();
      throw io_error("--threads " + std::to_string(threads) + ": the system refuses thread " +
                     std::to_string(started + 1) + " (" + failure.what() + "); lower it or raise ulimit -u");
    }
  }
  thread_pool(const thread_pool&) = delete;
  thread_pool& operator=(const thread_pool&) = delete;
  ~thread_pool() { stop(); }

  /// Inside a task: which of the pool's threads runs it, 0 (the caller) to size() - 1. For picking a private
  /// buffer.
  [[nodiscard]] static int current_thread() { return thread_index; }

  [[nodiscard]] int size() const { return static_cast<int>(workers_.size()) + 1; }

  /// Calls task(i) for i in [0, count), each exactly once; rethrows the first exception of a task.
  template <class Task>
  void run(index_t count, const Task& task) {
    if (count <= 0) return;
    if (workers_.empty() || count == 1) {
      for (index_t i = 0; i < count; ++i) task(i);
      return;
    }
    invoke_ = [](const void* context, index_t i) { (*static_cast<const Task*>(context))(i); };
    context_ = &task;
    count_ = count;
    next_.store(0, std::memory_order_relaxed);
    busy_.store(static_cast<int>(workers_.size()), std::memory_order_relaxed);
    generation_.fetch_add(1, std::memory_order_release);
    generation_.notify_all();
    drain();
    for (int spins = 0; busy_.load(std::memory_order_acquire) != 0; ++spins) {
      if (spins > spin_limit) std::this_thread::yield();
    }
    if (failure_) std::rethrow_exception(std::exchange(failure_, nullptr));
  }

 private:
  static constexpr int spin_limit =
      20'000;  ///< polls before a waiting thread gives its core away, about 50 us

  void stop() {
    stop_ = true;
    generation_.fetch_add(1, std::memory_order_release);
    generation_.notify_all();
    for (std::thread& worker : workers_) worker.join();
  }

  void drain() {
    for (;;) {
      const index_t i = next_.fetch_add(1, std::memory_order_relaxed);
      if (i >= count_) return;
      try {
        invoke_(context_, i);
      } catch (...) {
        const std::lock_guard lock(failure_mutex_);
        if (!failure_) failure_ = std::current_exception();
      }
    }
  }

  void work(int index) {
    thread_index = index;
    std::uint32_t seen = 0;
    for (;;) {
      for (int spins = 0; generation_.load(std::memory_order_acquire) == seen; ++spins) {
        if (spins > spin_limit) generation_.wait(seen, std::memory_order_acquire);
      }
      ++seen;
      if (stop_) return;
      drain();
      busy_.fetch_sub(1, std::memory_order_release);
    }
  }

  static inline thread_local int thread_index = 0;

  std::vector<std::thread> workers_;
  std::atomic<std::uint32_t> generation_{0};
  std::atomic<int> busy_{0};
  std::atomic<index_t> next_{0};
  std::atomic<bool> stop_{false};
  void (*invoke_)(const void*, index_t) = nullptr;
  const void* context_ = nullptr;
  index_t count_ = 0;
  std::mutex failure_mutex_;
  std::exception_ptr failure_;
};

}  // namespace t5zero::cpu
