// Version and the one portability macro of t5zero.
#pragma once

#include <string_view>

/// Marks a function that device code may call too; nothing without nvcc.
#if defined(__CUDACC__)
#define T5ZERO_HOST_DEVICE __host__ __device__
#else
#define T5ZERO_HOST_DEVICE
#endif

namespace t5zero {

inline constexpr std::string_view version = "0.1.0";

}  // namespace t5zero
