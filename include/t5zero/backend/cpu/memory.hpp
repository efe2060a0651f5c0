// Host memory: one mapping per arena, huge pages where the system gives them.
#pragma once

#include <sys/mman.h>

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <fstream>
#include <string>

#include <t5zero/core/error.hpp>
#include <t5zero/core/integers.hpp>

namespace t5zero::cpu {

/// The memory space of an arena on the CPU. Pages are zero, and count as used when they are first written.
struct memory {
  static constexpr bool is_host = true;  ///< the program may read and write it directly
  static void to_host(const void* from, void* to, index_t bytes) {
    std::memcpy(to, from, static_cast<std::size_t>(bytes));
  }
  static void from_host(const void* from, void* to, index_t bytes) {
    std::memcpy(to, from, static_cast<std::size_t>(bytes));
  }

  static std::byte* allocate(index_t bytes) {
    if (bytes == 0) return nullptr;
    void* data = ::mmap(nullptr, static_cast<std::size_t>(bytes), PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (data == MAP_FAILED) {
      throw capacity_error("the system refuses to map " + std::to_string(bytes) +
                           " bytes: raise the limit (ulimit -v) or choose a smaller batch or model");
    }
    ::madvise(data, static_cast<std::size_t>(bytes), MADV_HUGEPAGE);  // a wish: failing it costs only speed
    return static_cast<std::byte*>(data);
  }
  static void release(std::byte* data, index_t bytes) noexcept {
    ::munmap(data, static_cast<std::size_t>(bytes));
  }

  /// Bytes that the system would give now: MemAvailable, or less where the control group of this
  /// process (seen at /sys/fs/cgroup, as containers see theirs) allows less.
  [[nodiscard]] static index_t available_bytes() {
    index_t available = 0;
    std::ifstream info("/proc/meminfo");
    std::string key;
    index_t kib = 0;
    std::string unit;
    while (info >> key >> kib >> unit) {
      if (key == "MemAvailable:") available = kib * 1024;
    }
    const index_t limit = read_number("/sys/fs/cgroup/memory.max");
    if (limit > 0) {
      const index_t used = read_number("/sys/fs/cgroup/memory.current") - reclaimable_page_cache();
      available = std::min(available, std::max<index_t>(0, limit - used));
    }
    return available;
  }

 private:
  /// 0 if the file is missing or says "max".
  static index_t read_number(const char* path) {
    std::ifstream file(path);
    index_t value = 0;
    return file >> value ? value : 0;
  }
  /// Bytes of files that the control group holds and would drop at once.
  static index_t reclaimable_page_cache() {
    std::ifstream statistics("/sys/fs/cgroup/memory.stat");
    std::string key;
    index_t value = 0;
    while (statistics >> key >> value) {
      if (key == "inactive_file") return value;
    }
    return 0;
  }
};

}  // namespace t5zero::cpu
