// Event files that TensorBoard reads: records of a length, its checksum, a protobuf message and its checksum.
// Formats: tensorflow/core/lib/io/record_writer.h, tensorflow/core/util/event.proto and
// tensorflow/core/framework/summary.proto.
#pragma once

#include <unistd.h>

#include <array>
#include <cerrno>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <string>
#include <string_view>
#include <system_error>

#include <t5zero/core/error.hpp>
#include <t5zero/core/integers.hpp>

namespace t5zero {

namespace detail {

/// CRC-32C (Castagnoli), reflected, of a byte.
inline constexpr std::array<std::uint32_t, 256> crc32c_table = [] {
  std::array<std::uint32_t, 256> table{};
  for (std::uint32_t byte = 0; byte < 256; ++byte) {
    std::uint32_t crc = byte;
    for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ ((crc & 1U) != 0 ? 0x82f63b78U : 0U);
    table[byte] = crc;
  }
  return table;
}();

}  // namespace detail

[[nodiscard]] constexpr std::uint32_t crc32c(std::string_view bytes) {
  std::uint32_t crc = 0xffffffffU;
  for (const char c : bytes)
    crc = (crc >> 8) ^ detail::crc32c_table[(crc ^ static_cast<unsigned char>(c)) & 0xffU];
  return ~crc;
}
static_assert(crc32c("123456789") == 0xe3069283U, "the check value of CRC-32C (RFC 3720, B.4)");

namespace detail {

/// The fields of a protobuf message that events use.
class protobuf_message {
 public:
  void add_double(int field, double value) { add_fixed(field, 1, value); }
  void add_float(int field, float value) { add_fixed(field, 5, value); }
  void add_integer(int field, index_t value) {
    add_varint(static_cast<std::uint64_t>(field) << 3);
    add_varint(static_cast<std::uint64_t>(value));
  }
  void add_bytes(int field, std::string_view value) {
    add_varint((static_cast<std::uint64_t>(field) << 3) | 2U);
    add_varint(value.size());
    bytes_.append(value);
  }
  [[nodiscard]] const std::string& bytes() const { return bytes_; }

 private:
  void add_varint(std::uint64_t value) {
    for (; value >= 0x80; value >>= 7) bytes_ += static_cast<char>((value & 0x7f) | 0x80);
    bytes_ += static_cast<char>(value);
  }
  template <class T>
  void add_fixed(int field, std::uint64_t wire_type, T value) {
    add_varint((static_cast<std::uint64_t>(field) << 3) | wire_type);
    char raw[sizeof(T)];
    std::memcpy(raw, &value, sizeof(T));  // little-endian, as every machine this runs on
    bytes_.append(raw, sizeof(T));
  }

  std::string bytes_;
};

}  // namespace detail

/// Appends scalars to a new event file. When it cannot be written any more (a full disk), says so once on
/// standard error and writes no more: a training is worth more than its curves.
class tensorboard_writer {
 public:
  /// Makes the directory and its events.out.tfevents.* file. Throws io_error.
  explicit tensorboard_writer(const std::filesystem::path& directory) {
    std::error_code failure;
    std::filesystem::create_directories(directory, failure);
    if (failure) {
      throw io_error(directory.string() + ": the directory cannot be created (" + failure.message() +
                     "); name another --logging_dir, or leave --report_to out");
    }
    std::array<char, 256> host{};
    ::gethostname(host.data(), host.size() - 1);
    path_ = directory / ("events.out.tfevents." + std::to_string(static_cast<index_t>(now())) + "." +
                         host.data() + "." + std::to_string(::getpid()) + ".0");
    errno = 0;
    file_.open(path_, std::ios::binary | std::ios::app);
    if (!file_) fail("cannot be made; name another --logging_dir, or leave --report_to out");
    detail::protobuf_message event;
    event.add_double(1, now());
    event.add_bytes(3, "brain.Event:2");
    if (!write(event)) fail("cannot be written; free some space, or leave --report_to out");
  }

  void add_scalar(std::string_view tag, double value, index_t step) {
    if (!file_) return;
    detail::protobuf_message of_value;
    of_value.add_bytes(1, tag);
    of_value.add_float(2, static_cast<float>(value));
    detail::protobuf_message summary;
    summary.add_bytes(1, of_value.bytes());
    detail::protobuf_message event;
    event.add_double(1, now());
    event.add_integer(2, step);
    event.add_bytes(5, summary.bytes());
    if (!write(event))
      std::cerr << "warning: " << path_.string()
                << ": cannot be written; no more events are, training goes on\n";
  }

  [[nodiscard]] const std::filesystem::path& path() const { return path_; }

 private:
  /// Seconds since 1970.
  static double now() {
    return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
  }
  /// A checksum among the bytes that it covers would be weak: TensorFlow rotates it and adds a constant.
  static std::uint32_t masked(std::string_view bytes) {
    const std::uint32_t crc = crc32c(bytes);
    return ((crc >> 15) | (crc << 17)) + 0xa282ead8U;
  }
  template <class T>
  static std::string raw(T value) {
    std::string bytes(sizeof(T), '\0');
    std::memcpy(bytes.data(), &value, sizeof(T));
    return bytes;
  }
  [[nodiscard]] bool write(const detail::protobuf_message& event) {
    const std::string length = raw(static_cast<std::uint64_t>(event.bytes().size()));
    errno = 0;
    file_ << length << raw(masked(length)) << event.bytes() << raw(masked(event.bytes()));
    file_.flush();
    return static_cast<bool>(file_);
  }
  [[noreturn]] void fail(const char* what) const {
    const int number = errno;  // of the stream's last system call
    throw io_error(path_.string() + ": " + what +
                   (number == 0 ? "" : std::string(" (") + std::strerror(number) + ")"));
  }

  std::filesystem::path path_;
  std::ofstream file_;
};

}  // namespace t5zero
