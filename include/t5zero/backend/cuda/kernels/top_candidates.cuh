// The best next tokens of each row, and log probabilities.
//
// log_softmax_rows: in place, fp32 [rows, vocabulary], any row stride.
// top_candidates: scores fp32 and ids int32 [rows, count] get the count largest of each row of values,
// descending, ties to the lower id; -0 equals +0, NaN comes after -infinity. Overwrites; nothing overlaps;
// count <= vocabulary.
//
// A block takes a row, in registers up to 32768 values (block_row.cuh). Values and ids make one 64-bit key of
// which no two are equal: each round picks the largest key below the last, so nothing need be removed. A
// round costs about 0.15 us; beyond 128 candidates (sampling without top_k) the rows are sorted by CUB
// instead. Deterministic, on the execution's stream; one launch, or those of the sort.
//
// Floors at 4.27 TB/s (H200) and targets for 64 rows of 32128: log_softmax 16.5 MB, 3.9 us, target 7 us; one
// candidate 8.2 MB, 1.9 us, target 5 us; eight candidates, target 7 us.
#pragma once

#include <cuda_runtime_api.h>

#include <cub/device/device_segmented_radix_sort.cuh>
#include <cuda/std/iterator>

#include <algorithm>
#include <cstdint>

#include <t5zero/backend/cuda/check.hpp>
#include <t5zero/backend/cuda/execution.hpp>
#include <t5zero/backend/cuda/kernels/block_row.cuh>
#include <t5zero/backend/cuda/operations.hpp>
#include <t5zero/backend/cuda/reduction_workspace.hpp>

namespace t5zero::cuda {

namespace detail {

template <bool Resident, bool Packs>
__global__ void __launch_bounds__(block_row_threads, 1) log_softmax_kernel(matrix_view<float> logits) {
  constexpr int threads = block_row_threads;
  __shared__ float shared[threads / warp_size];
  float* const at = logits.data + static_cast<index_t>(blockIdx.x) * logits.stride;
  const int cols = static_cast<int>(logits.cols);
  block_row<Resident, Packs> row(at, cols);
  const float shift = log_sum_of_exponentials(row, shared);
  row.for_each([&](int first, const float(&values)[4]) {
    float result[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) result[i] = values[i] - shift;
    store_features<4, Packs>(at + first, cols - first, result);
  });
}

/// Grows with the value; never 0. NaN is 1, below -infinity.
[[nodiscard]] __device__ inline std::uint32_t ordered_bits(float value) {
  if (isnan(value)) return 1;
  const auto bits = static_cast<std::uint32_t>(__float_as_int(value + 0.0F));  // -0 + 0 = +0
  return (bits & 0x80000000U) != 0 ? ~bits : bits | 0x80000000U;
}
/// Larger is better: the value, then the lower id. Never 0.
[[nodiscard]] __device__ constexpr std::uint64_t candidate_key(std::uint32_t bits, int id) {
  return std::uint64_t{bits} << 32 | ~static_cast<std::uint32_t>(id);
}
[[nodiscard]] __device__ inline std::uint64_t warp_max_key(std::uint64_t key) {
#if __CUDA_ARCH__ >= 800
  const auto high = static_cast<std::uint32_t>(key >> 32);
  const std::uint32_t best = __reduce_max_sync(all_lanes, high);
  const std::uint32_t low =
      __reduce_max_sync(all_lanes, high == best ? static_cast<std::uint32_t>(key) : std::uint32_t{0});
  return std::uint64_t{best} << 32 | low;
#else
#pragma unroll
  for (int offset = warp_size / 2; offset > 0; offset /= 2) {
    const std::uint64_t other = __shfl_xor_sync(all_lanes, key, offset);
    key = other > key ? other : key;
  }
  return key;
#endif
}
[[nodiscard]] __device__ constexpr int id_of_candidate(std::uint64_t key) {
  return static_cast<int>(~static_cast<std::uint32_t>(key));
}

/// found(i, key) by one thread for each of the `count` largest keys of a row, descending. bits_of(value,
/// column): its ordered_bits. All threads of the block call it.
template <bool Packs, class Row, class BitsOf, class Found>
__device__ void pick_best(Row& row, int cols, int count, const BitsOf& bits_of, const Found& found) {
  static_assert(block_row_threads == warp_size * warp_size, "each lane reads one warp's best");
  // Written in one round while the one before may still be read.
  __shared__ std::uint64_t best_of_warps[2][warp_size];
  const int warp = static_cast<int>(threadIdx.x) / warp_size;
  const int lane = static_cast<int>(threadIdx.x) % warp_size;
  /// This thread's largest key below `limit`; 0: none. Ids ascend, so the first of equal values is the best.
  const auto best_below = [&](std::uint64_t limit) {
    const auto limit_bits = static_cast<std::uint32_t>(limit >> 32);
    // Relative to the thread's first id the others are constants.
    const int base = static_cast<int>(threadIdx.x) * 4;
    const int limit_place = id_of_candidate(limit) - base;
    std::uint32_t best_bits = 0;
    int best_place = 0;
    row.for_each([&](int first, const float(&loaded)[4]) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int place = first - base + i;
        const std::uint32_t bits = bits_of(loaded[i], first + i);
        const bool is_left = bits < limit_bits || (bits == limit_bits && place > limit_place);
        if (is_left && bits > best_bits && (Packs || first + i < cols)) {
          best_bits = bits;
          best_place = place;
        }
      }
    });
    return best_bits == 0 ? std::uint64_t{0} : candidate_key(best_bits, base + best_place);
  };
  constexpr std::uint64_t no_limit = candidate_key(~std::uint32_t{0}, -1);
  std::uint64_t best = best_below(no_limit);
  std::uint64_t best_of_warp = warp_max_key(best);
  for (int i = 0; i < count; ++i) {
    if (lane == 0) best_of_warps[i % 2][warp] = best_of_warp;
    __syncthreads();
    const std::uint64_t picked = warp_max_key(best_of_warps[i % 2][lane]);
    if (threadIdx.x == 0) found(i, picked);
    if (i + 1 == count || best_of_warp != picked) continue;
    if (best == picked) best = best_below(picked);
    best_of_warp = warp_max_key(best);
  }
}

template <bool Resident, bool Packs>
__global__ void __launch_bounds__(block_row_threads, 1)
    pick_candidates_kernel(matrix_view<const float> values, matrix_view<float> scores,
                           matrix_view<std::int32_t> ids) {
  const index_t r = blockIdx.x;
  const float* const from = values.data + r * values.stride;
  const int cols = static_cast<int>(values.cols);
  block_row<Resident, Packs> row(from, cols);
  if constexpr (Resident) {
    row.for_each([&](int, float(&loaded)[4]) {
#pragma unroll
      for (float& value : loaded) value = __uint_as_float(ordered_bits(value));
    });
  }
  pick_best<Packs>(
      row, cols, static_cast<int>(scores.cols),
      [](float loaded, int) { return Resident ? __float_as_uint(loaded) : ordered_bits(loaded); },
      [&](int i, std::uint64_t key) {
        const int id = id_of_candidate(key);
        ids.data[r * ids.stride + i] = id;
        scores.data[r * scores.stride + i] = from[id];
      });
}

template <int Threads>
__global__ void __launch_bounds__(Threads)
    make_sort_keys_kernel(matrix_view<const float> values, std::uint32_t* keys, std::int32_t* ids) {
  const index_t i = static_cast<index_t>(blockIdx.x) * Threads + static_cast<index_t>(threadIdx.x);
  if (i >= values.rows * values.cols) return;
  const index_t row = i / values.cols;
  const index_t id = i % values.cols;
  keys[i] = ordered_bits(values.data[row * values.stride + id]);
  ids[i] = static_cast<std::int32_t>(id);
}

template <int Threads>
__global__ void __launch_bounds__(Threads)
    take_sorted_kernel(matrix_view<const float> values, const std::int32_t* sorted, matrix_view<float> scores,
                       matrix_view<std::int32_t> ids) {
  const index_t i = static_cast<index_t>(blockIdx.x) * Threads + static_cast<index_t>(threadIdx.x);
  if (i >= scores.rows * scores.cols) return;
  const index_t row = i / scores.cols;
  const index_t place = i % scores.cols;
  const std::int32_t id = sorted[row * values.cols + place];
  ids.data[row * ids.stride + place] = id;
  scores.data[row * scores.stride + place] = values.data[row * values.stride + id];
}

/// Random access to 0, step, 2 * step, ...: where rows begin and end in one array.
struct row_offsets {
  using difference_type = std::ptrdiff_t;
  using value_type = index_t;
  using pointer = const index_t*;
  using reference = index_t;
  using iterator_category = ::cuda::std::random_access_iterator_tag;

  index_t step = 0;
  index_t first = 0;

  [[nodiscard]] __host__ __device__ index_t operator*() const { return first; }
  [[nodiscard]] __host__ __device__ index_t operator[](difference_type i) const { return first + i * step; }
  [[nodiscard]] __host__ __device__ row_offsets operator+(difference_type i) const {
    return {step, first + i * step};
  }
};

inline void sort_candidates(execution& e, matrix_view<const float> values, matrix_view<float> scores,
                            matrix_view<std::int32_t> ids) {
  constexpr int threads = 256;
  const index_t size = values.rows * values.cols;
  const index_t part = round_up(size * 4, 256);
  std::byte* const memory = e.workspace(top_candidates_workspace_bytes(values.rows, values.cols));
  auto* const first_keys = reinterpret_cast<std::uint32_t*>(memory);
  auto* const second_keys = reinterpret_cast<std::uint32_t*>(memory + part);
  auto* const first_ids = reinterpret_cast<std::int32_t*>(memory + 2 * part);
  auto* const second_ids = reinterpret_cast<std::int32_t*>(memory + 3 * part);
  std::byte* const scratch = memory + 4 * part;
  make_sort_keys_kernel<threads><<<static_cast<unsigned>(ceil_div(size, threads)), threads, 0, e.stream()>>>(
      values, first_keys, first_ids);
  check(cudaGetLastError());
  cub::DoubleBuffer<std::uint32_t> keys(first_keys, second_keys);
  cub::DoubleBuffer<std::int32_t> sorted(first_ids, second_ids);
  // Stable, so equal values stay in the order of their ids.
  const auto sort = [&](void* temporary, std::size_t& bytes) {
    check(cub::DeviceSegmentedRadixSort::SortPairsDescending(
        temporary, bytes, keys, sorted, size, values.rows, row_offsets{values.cols, 0},
        row_offsets{values.cols, values.cols}, 0, 32, e.stream()));
  };
  std::size_t bytes = 0;
  sort(nullptr, bytes);
  require(bytes <= static_cast<std::size_t>(sort_scratch_bytes),
          "cuda::top_candidates: the sort needs more scratch memory than was planned");
  sort(scratch, bytes);
  const index_t wanted = scores.rows * scores.cols;
  take_sorted_kernel<threads><<<static_cast<unsigned>(ceil_div(wanted, threads)), threads, 0, e.stream()>>>(
      values, sorted.Current(), scores, ids);
  check(cudaGetLastError());
}

}  // namespace detail

inline void log_softmax_rows(execution& e, matrix_view<float> logits) {
  if (logits.rows == 0 || logits.cols == 0) return;
  detail::with_block_row(logits.cols, detail::takes_packs(logits, 4), [&](auto resident, auto whole) {
    detail::log_softmax_kernel<resident(), whole()>
        <<<static_cast<unsigned>(logits.rows), detail::block_row_threads, 0, e.stream()>>>(logits);
  });
  check(cudaGetLastError());
}

inline void top_candidates(execution& e, matrix_view<const float> values, matrix_view<float> scores,
                           matrix_view<std::int32_t> ids) {
  require(scores.rows == values.rows && ids.rows == values.rows && ids.cols == scores.cols &&
              scores.cols <= values.cols,
          "cuda::top_candidates: the shapes do not agree");
  if (scores.rows == 0 || scores.cols == 0) return;
  if (scores.cols > detail::most_picked_candidates) {
    // As many rows at a time as there is workspace for, at least one.
    index_t rows = values.rows;
    while (rows > 1 && top_candidates_workspace_bytes(rows, values.cols) > e.workspace_bytes())
      rows = (rows + 1) / 2;
    for (index_t first = 0; first < values.rows; first += rows) {
      const index_t count = std::min(rows, values.rows - first);
      detail::sort_candidates(e, values.row_block(first, count), scores.row_block(first, count),
                              ids.row_block(first, count));
    }
    return;
  }
  detail::with_block_row(values.cols, detail::takes_packs(values, 4), [&](auto resident, auto whole) {
    detail::pick_candidates_kernel<resident(), whole()>
        <<<static_cast<unsigned>(values.rows), detail::block_row_threads, 0, e.stream()>>>(values, scores,
                                                                                           ids);
  });
  check(cudaGetLastError());
}

template <element T>
void operations<T>::log_softmax_rows(execution& e, matrix_view<float> logits) {
  cuda::log_softmax_rows(e, logits);
}
template <element T>
void operations<T>::top_candidates(execution& e, matrix_view<const float> values, matrix_view<float> scores,
                                   matrix_view<std::int32_t> ids) {
  cuda::top_candidates(e, values, scores, ids);
}

}  // namespace t5zero::cuda
