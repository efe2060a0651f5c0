// A row of fp32 values that one block goes over several times: vocabularies of up to 32768 tokens, T5's 32128
// among them, stay in the registers of 1024 threads, so that memory is read once; longer rows are read again.
#pragma once

#include <cmath>
#include <type_traits>

#include <t5zero/backend/cuda/kernels/row_access.cuh>
#include <t5zero/core/integers.hpp>

namespace t5zero::cuda::detail {

inline constexpr int block_row_threads = 1024;
inline constexpr int block_row_packs = 8;
/// Longest row that is kept in registers.
inline constexpr index_t block_row_columns = index_t{4} * block_row_threads * block_row_packs;

/// `Resident`: the row stays in registers. `Packs`: it is made of whole packs of four.
template <bool Resident, bool Packs>
class block_row {
 public:
  __device__ block_row(const float* row, int cols) : row_(row), cols_(cols) {
    if constexpr (Resident) {
#pragma unroll
      for (int p = 0; p < block_row_packs; ++p) load(column(p), values_[p]);
    }
  }

  /// f(first column, values) for all of this thread's packs of four; columns beyond the row hold -infinity.
  /// Where the row is resident, what f makes of the values stays.
  template <class F>
  __device__ void for_each(const F& f) {
    if constexpr (Resident) {
#pragma unroll
      for (int p = 0; p < block_row_packs; ++p)
        if (column(p) < cols_) f(column(p), values_[p]);
    } else {
#pragma unroll 4
      for (int c = column(0); c < cols_; c += 4 * block_row_threads) {
        float values[4];
        load(c, values);
        f(c, values);
      }
    }
  }

 private:
  [[nodiscard]] static __device__ int column(int pack) {
    return (pack * block_row_threads + static_cast<int>(threadIdx.x)) * 4;
  }
  __device__ void load(int first, float (&to)[4]) const {
    const auto loaded = load_features<4, Packs>(row_ + first, cols_ - first);
#pragma unroll
    for (int i = 0; i < 4; ++i) to[i] = first + i < cols_ ? loaded.values[i] : -INFINITY;
  }

  const float* row_;
  int cols_;
  float values_[Resident ? block_row_packs : 1][4];
};

/// Calls f(resident?, whole packs?) for rows of `cols` values; both are std::bool_constant.
template <class F>
void with_block_row(index_t cols, bool packs, const F& f) {
  with_packs(packs, [&](auto whole) {
    if (cols <= block_row_columns)
      f(std::true_type{}, whole);
    else
      f(std::false_type{}, whole);
  });
}

/// log(sum of exp) of a row: what log-softmax takes off. All threads of the block call it; shared: a float a
/// warp.
template <class Row>
[[nodiscard]] __device__ float log_sum_of_exponentials(Row& row, float* shared) {
  float maximum = -INFINITY;
  row.for_each([&](int, const float(&values)[4]) {
#pragma unroll
    for (const float value : values) maximum = fmaxf(maximum, value);
  });
  maximum = block_max<block_row_threads>(maximum, shared);
  float sum = 0.0F;
  row.for_each([&](int, const float(&values)[4]) {
#pragma unroll
    for (const float value : values) sum += expf(value - maximum);
  });
  sum = block_sum<block_row_threads>(sum, shared);
  return maximum + logf(sum);
}

}  // namespace t5zero::cuda::detail
