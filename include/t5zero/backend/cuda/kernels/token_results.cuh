// What becomes of a sum of token_matmul's products: each result type reads what it needs beside the sum early
// (`prepare`, while operands are on their way) and stores four features of a token at a time.
#pragma once

#include <cstdint>

#include <t5zero/backend/cuda/kernels/dropout_mask.cuh>
#include <t5zero/backend/cuda/kernels/element.cuh>
#include <t5zero/backend/cuda/kernels/row_access.cuh>
#include <t5zero/backend/cuda/token_matmul.hpp>

namespace t5zero::cuda::detail {

/// y = dropout(relu(sum)), or y = sum; the sum is rounded to T before, as a product of its own would be.
template <element T>
struct forward_result {
  matrix_view<T> y;
  bool relu = false;
  dropout_site site;
  const std::uint32_t* rows = nullptr;
  const std::uint32_t* positions = nullptr;

  struct prepared {
    float multiplier[4];
  };
  [[nodiscard]] __device__ prepared prepare(index_t row, int column) const {
    prepared result;
    feature_multipliers(dropout_mask(site), rows, positions, row, column, result.multiplier);
    return result;
  }
  __device__ void store(const prepared& with, index_t row, int column, float (&sum)[4]) const {
    if (relu) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float value = to_float(from_float<T>(sum[i]));
        sum[i] = value > 0.0F ? value * with.multiplier[i] : 0.0F;
      }
    }
    store_pack(y.data + row * y.stride + column, sum);
  }
};

/// y = gradient before dropout(relu()) where `activated` has data, else y = sum.
template <element T>
struct backward_result {
  matrix_view<T> y;
  matrix_view<const T> activated;
  float scale = 1.0F;

  struct prepared {
    pack<T, 4> activated;
  };
  [[nodiscard]] __device__ prepared prepare(index_t row, int column) const {
    if (activated.data == nullptr) return {};
    return {*reinterpret_cast<const pack<T, 4>*>(activated.data + row * activated.stride + column)};
  }
  __device__ void store(const prepared& with, index_t row, int column, float (&sum)[4]) const {
    if (activated.data != nullptr) {
#pragma unroll
      for (int i = 0; i < 4; ++i)
        sum[i] = to_float(with.activated.values[i]) > 0.0F ? to_float(from_float<T>(sum[i])) * scale : 0.0F;
    }
    store_pack(y.data + row * y.stride + column, sum);
  }
};

/// out = x + dropout(sum); `out` may be x.
struct residual_result {
  matrix_view<float> out;
  matrix_view<const float> x;
  dropout_site site;
  const std::uint32_t* rows = nullptr;
  const std::uint32_t* positions = nullptr;

  struct prepared {
    pack<float, 4> x;
    float multiplier[4];
  };
  [[nodiscard]] __device__ prepared prepare(index_t row, int column) const {
    prepared result;
    result.x = *reinterpret_cast<const pack<float, 4>*>(x.data + row * x.stride + column);
    feature_multipliers(dropout_mask(site), rows, positions, row, column, result.multiplier);
    return result;
  }
  __device__ void store(const prepared& with, index_t row, int column, float (&sum)[4]) const {
#pragma unroll
    for (int i = 0; i < 4; ++i) sum[i] = with.x.values[i] + with.multiplier[i] * sum[i];
    store_pack(out.data + row * out.stride + column, sum);
  }
};

/// y = sum.
struct plain_result {
  matrix_view<float> y;

  struct prepared {};
  [[nodiscard]] __device__ prepared prepare(index_t /*row*/, int /*column*/) const { return {}; }
  __device__ void store(const prepared& /*with*/, index_t row, int column, float (&sum)[4]) const {
    store_pack(y.data + row * y.stride + column, sum);
  }
};

}  // namespace t5zero::cuda::detail
