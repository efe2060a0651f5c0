// What a GPU has, as the choice of kernels' tiles needs it.
#pragma once

#include <t5zero/core/integers.hpp>

namespace t5zero::cuda {

struct device_limits {
  int multiprocessors = 0;
  index_t shared_bytes = 0;  ///< that a block may have
};

}  // namespace t5zero::cuda
