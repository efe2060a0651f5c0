// The optimizer's passes over all parameters: conversion, sum of squares of the gradients, AdamW (Loshchilov
// and Hutter 2019, in PyTorch's order: decay, moments, step).
//
// All arrays are contiguous, `count` elements, aligned to 16 bytes; nothing overlaps. Deterministic; on the
// execution's stream; one launch each.
//   convert: to = from rounded to nearest; overwrites.
//   partial_squares: parts[i] overwritten; not finite if any gradient is not. Squares are added in fp32
//     inside a thread's 64 bytes and in double beyond. The blocks begin with the front of the range, which
//     backward writes last: it is the likeliest to be in the second-level cache still.
//   sum_parts: *result overwritten.
//   adamw: master, first, second updated in place, weights (16-bit copies, or null) overwritten; nothing
//     changes where params->applies is false. Scalars are read on the GPU: nothing waits for the host. Weight
//     decay is on between boundaries 2 k and 2 k + 1: a block counts once how many lie before it, while its
//     loads are under way, and looks closer only where one lies inside it.
//   adamw_rows: weights of the rows that ids name as adamw will leave them: the same bits, whichever of
//     the two writes last. An id outside the table, or one that comes twice, does no harm.
//
// Floors at 4.27 TB/s (H200) and targets.
//   adamw, 28 bytes an element, t5-small: 1.69 GB, 397 us, target 430 us; t5-large: 20.7 GB, 4.84 ms, target
//     5.2 ms (with 16-bit gradients and copies as with fp32 ones and none). Beside the forward it takes
//     longer.
//   partial_squares, t5-small fp16: 121 MB, 28 us, target 34 us; t5-large fp32: 2.95 GB, 0.69 ms, target
//     0.75.
//   convert, t5-small to fp16: 363 MB, 85 us, target 95 us.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

#include <t5zero/backend/cuda/check.hpp>
#include <t5zero/backend/cuda/execution.hpp>
#include <t5zero/backend/cuda/kernels/row_access.cuh>
#include <t5zero/backend/cuda/kernels/streaming.cuh>
#include <t5zero/backend/cuda/operations.hpp>

namespace t5zero::cuda {

namespace detail {

/// A thread takes packs of four elements, 16 bytes of fp32, Threads packs apart: each access of a warp is one
/// piece of memory, of 256 or 512 bytes.
inline constexpr int pass_threads = 256;
inline constexpr int pass_packs = 2;
/// One pack a thread: the fewest registers, since AdamW runs beside the forward and takes what that leaves.
inline constexpr int adamw_threads = 512;
inline constexpr int adamw_packs = 1;
inline constexpr index_t pass_elements = index_t{4} * pass_packs * pass_threads;

/// First element of a thread's pack.
template <int Threads, int Packs>
[[nodiscard]] __device__ inline index_t pass_element(int pack) {
  return (static_cast<index_t>(blockIdx.x) * Packs + pack) * (4 * Threads) +
         static_cast<index_t>(threadIdx.x) * 4;
}

template <int Threads, int Packs, element To>
__global__ void __launch_bounds__(Threads) convert_kernel(const float* from, To* to, index_t count) {
  pack<float, 4> loaded[Packs];
#pragma unroll
  for (int p = 0; p < Packs; ++p) {
    const index_t i = pass_element<Threads, Packs>(p);
    if (i + 4 <= count) loaded[p] = load_streaming<4>(from + i);
  }
#pragma unroll
  for (int p = 0; p < Packs; ++p) {
    const index_t i = pass_element<Threads, Packs>(p);
    if (i + 4 <= count) {
      store_pack<4>(to + i, loaded[p].values);
    } else {
      for (index_t j = i; j < count; ++j) to[j] = from_float<To>(from[j]);
    }
  }
}

/// partial[block] = sum of squares of its tiles of `count` gradients.
template <int Threads, element G>
__global__ void __launch_bounds__(Threads)
    sum_of_squares_kernel(const G* gradient, index_t count, double* partial) {
  __shared__ double shared[Threads / warp_size];
  constexpr int per_pack = 16 / static_cast<int>(sizeof(G));
  constexpr int packs = 4;
  constexpr index_t per_tile = index_t{Threads} * packs * per_pack;
  double total = 0.0;
  for (index_t tile = blockIdx.x; tile * per_tile < count; tile += gridDim.x) {
    const index_t first = tile * per_tile + static_cast<index_t>(threadIdx.x) * per_pack;
    pack<G, per_pack> loaded[packs];
    float squares = 0.0F;
#pragma unroll
    for (int p = 0; p < packs; ++p) {
      const index_t i = first + index_t{p} * Threads * per_pack;
      loaded[p] = {};
      if (i + per_pack <= count) {
        loaded[p] = *reinterpret_cast<const pack<G, per_pack>*>(gradient + i);
      } else {
        for (index_t j = i; j < count; ++j) {
          const float value = to_float(gradient[j]);
          squares += value * value;
        }
      }
    }
#pragma unroll
    for (int p = 0; p < packs; ++p) {
#pragma unroll
      for (int i = 0; i < per_pack; ++i) {
        const float value = to_float(loaded[p].values[i]);
        squares += value * value;
      }
    }
    total += static_cast<double>(squares);
  }
  total = block_sum<Threads>(total, shared);
  if (threadIdx.x == 0) partial[blockIdx.x] = total;
}

template <int Threads>
__global__ void __launch_bounds__(Threads)
    sum_partials_kernel(const double* partial, int count, double* result) {
  __shared__ double shared[Threads / warp_size];
  double total = 0.0;
  for (int i = static_cast<int>(threadIdx.x); i < count; i += Threads) total += partial[i];
  total = block_sum<Threads>(total, shared);
  if (threadIdx.x == 0) *result = total;
}

/// One element's update, of one parameter set and decay.
struct adamw_update {
  float beta1, beta2, one_minus_beta1, one_minus_beta2, epsilon, grad_multiplier;
  float step;
  float inverse_correction2;

  __device__ explicit adamw_update(const adamw_params& p)
      : beta1(p.beta1),
        beta2(p.beta2),
        one_minus_beta1(p.one_minus_beta1),
        one_minus_beta2(p.one_minus_beta2),
        epsilon(p.epsilon),
        grad_multiplier(p.grad_multiplier),
        step(p.learning_rate / p.bias_correction1),
        inverse_correction2(1.0F / p.bias_correction2_sqrt) {}

  __device__ void operator()(float g, float keep, float& m, float& v, float& w) const {
    // Which operations are fused is said, so that every kernel gives the same bits.
    g *= grad_multiplier;
    m = __fmaf_rn(beta1, m, __fmul_rn(one_minus_beta1, g));
    v = __fmaf_rn(beta2, v, __fmul_rn(one_minus_beta2, __fmul_rn(g, g)));
    w = __fmaf_rn(-step, m / __fmaf_rn(sqrtf(v), inverse_correction2, epsilon), __fmul_rn(w, keep));
  }
};

/// What a decaying weight is multiplied by.
[[nodiscard]] __device__ inline float decaying_factor(const adamw_params& p) {
  return __fmaf_rn(-p.learning_rate, p.weight_decay, 1.0F);
}

/// How many decay boundaries lie at or before an element, for any element of a block's [begin, end).
struct decay_range {
  const index_t* boundaries;
  int lower = 0;  ///< boundaries at or before `begin`
  int upper = 0;  ///< boundaries before `end`

  /// All threads of the block call it.
  template <int Threads>
  [[nodiscard]] static __device__ decay_range of_block(vector_view<const index_t> boundaries, index_t begin,
                                                       index_t end) {
    decay_range result{boundaries.data};
    const int count = static_cast<int>(boundaries.size);
#pragma unroll 1
    for (int first = 0; first < count; first += Threads) {
      const int i = first + static_cast<int>(threadIdx.x);
      const index_t boundary = i < count ? boundaries.data[i] : end;
      result.lower += __syncthreads_count(boundary <= begin ? 1 : 0);
      result.upper += __syncthreads_count(boundary < end ? 1 : 0);
    }
    return result;
  }
  [[nodiscard]] __device__ bool decays(index_t element) const {
    int before = lower;
#pragma unroll 1  // rarely any
    for (int i = lower; i < upper; ++i) before += boundaries[i] <= element ? 1 : 0;
    return before % 2 == 1;
  }
};

template <int Threads, int Packs, element G, element W>
__global__ void __launch_bounds__(Threads, 1024 / Threads)
    adamw_kernel(const adamw_params* params, vector_view<const index_t> decay_boundaries, float* master,
                 float* first, float* second, const G* gradient, W* weights, index_t begin, index_t end) {
  const adamw_params scalars = *params;
  if (!scalars.applies) return;
  pack<G, 4> gradients[Packs];
  pack<float, 4> firsts[Packs];
  pack<float, 4> seconds[Packs];
  pack<float, 4> masters[Packs];
#pragma unroll
  for (int p = 0; p < Packs; ++p) {
    const index_t i = begin + pass_element<Threads, Packs>(p);
    if (i + 4 > end) continue;
    gradients[p] = load_streaming<4>(gradient + i);
    firsts[p] = load_streaming<4>(first + i);
    seconds[p] = load_streaming<4>(second + i);
    masters[p] = load_streaming<4>(master + i);
  }
  const index_t block_begin = begin + static_cast<index_t>(blockIdx.x) * (4 * Packs * Threads);
  const decay_range range =
      decay_range::of_block<Threads>(decay_boundaries, block_begin, block_begin + 4 * Packs * Threads);
  const adamw_update update(scalars);
  const float keep_decaying = decaying_factor(scalars);
#pragma unroll
  for (int n = 0; n < Packs; ++n) {
    const index_t i = begin + pass_element<Threads, Packs>(n);
    if (i >= end) continue;
    const float keep = range.decays(i) ? keep_decaying : 1.0F;
    if (i + 4 <= end) {
#pragma unroll
      for (int j = 0; j < 4; ++j)
        update(to_float(gradients[n].values[j]), keep, firsts[n].values[j], seconds[n].values[j],
               masters[n].values[j]);
      store_streaming(first + i, firsts[n].values);
      store_streaming(second + i, seconds[n].values);
      store_streaming(master + i, masters[n].values);
      // The next step reads them: they may stay.
      if (weights != nullptr) store_pack<4>(weights + i, masters[n].values);
    } else {
#pragma unroll 1  // the array's last elements
      for (index_t j = i; j < end; ++j) {
        update(to_float(gradient[j]), keep, first[j], second[j], master[j]);
        if (weights != nullptr) weights[j] = from_float<W>(master[j]);
      }
    }
  }
}

/// A block for each id: rows of `cols` elements from element `table` of the arrays on.
template <int Threads, element G, element W>
__global__ void __launch_bounds__(Threads)
    adamw_rows_kernel(const adamw_params* params, vector_view<const index_t> decay_boundaries,
                      const float* master, const float* first, const float* second, const G* gradient,
                      W* weights, parameter_range table, index_t cols, const std::int32_t* ids,
                      index_t id_count, const std::int32_t* more_ids) {
  const adamw_params scalars = *params;
  if (!scalars.applies) return;
  const index_t block = blockIdx.x;
  const index_t id = block < id_count ? ids[block] : more_ids[block - id_count];
  if (id < 0 || id * cols >= table.count) return;
  const index_t begin = table.first + id * cols;
  const decay_range range = decay_range::of_block<Threads>(decay_boundaries, begin, begin + cols);
  const adamw_update update(scalars);
  const float keep_decaying = decaying_factor(scalars);
  for (index_t i = begin + threadIdx.x; i < begin + cols; i += Threads) {
    float m = first[i];
    float v = second[i];
    float w = master[i];
    update(to_float(gradient[i]), range.decays(i) ? keep_decaying : 1.0F, m, v, w);
    weights[i] = from_float<W>(w);
  }
}

template <class U>
[[nodiscard]] bool is_aligned(const U* data) {
  return reinterpret_cast<std::uintptr_t>(data) % 16 == 0;
}

}  // namespace detail

inline void convert(execution& e, const float* from, void* to, dtype type, index_t count) {
  require(detail::is_aligned(from) && detail::is_aligned(static_cast<std::byte*>(to)),
          "cuda::convert: the arrays are not aligned to 16 bytes");
  if (count == 0) return;
  const auto blocks = static_cast<unsigned>(ceil_div(count, detail::pass_elements));
  visit(type, [&](auto zero) {
    detail::convert_kernel<detail::pass_threads, detail::pass_packs>
        <<<blocks, detail::pass_threads, 0, e.stream()>>>(from, static_cast<decltype(zero)*>(to), count);
  });
  check(cudaGetLastError());
}

inline void partial_squares(execution& e, const std::byte* gradients, dtype type, parameter_range range,
                            vector_view<double> parts) {
  require(range.first % 8 == 0 && detail::is_aligned(gradients),
          "cuda::partial_squares: the range is not aligned to 16 bytes");
  require(range.count > 0 && parts.size > 0, "cuda::partial_squares: an empty range");
  visit(type, [&](auto zero) {
    detail::sum_of_squares_kernel<256><<<static_cast<unsigned>(parts.size), 256, 0, e.stream()>>>(
        reinterpret_cast<const decltype(zero)*>(gradients) + range.first, range.count, parts.data);
  });
  check(cudaGetLastError());
}

inline void sum_parts(execution& e, vector_view<const double> parts, double* result) {
  detail::sum_partials_kernel<1024>
      <<<1, 1024, 0, e.stream()>>>(parts.data, static_cast<int>(parts.size), result);
  check(cudaGetLastError());
}

template <element T>
void adamw(execution& e, const adamw_params* params, vector_view<const index_t> decay_boundaries,
           float* master, float* first, float* second, const std::byte* gradients, dtype type, T* weights,
           parameter_range range) {
  require(range.first % 8 == 0, "cuda::adamw: the range does not begin at a multiple of 8 elements");
  require(detail::is_aligned(master) && detail::is_aligned(first) && detail::is_aligned(second) &&
              detail::is_aligned(gradients) && detail::is_aligned(weights),
          "cuda::adamw: the arrays are not aligned to 16 bytes");
  if (range.count == 0) return;
  const auto blocks =
      static_cast<unsigned>(ceil_div(range.count, index_t{4} * detail::adamw_threads * detail::adamw_packs));
  visit(type, [&](auto zero) {
    detail::adamw_kernel<detail::adamw_threads, detail::adamw_packs>
        <<<blocks, detail::adamw_threads, 0, e.stream()>>>(params, decay_boundaries, master, first, second,
                                                           reinterpret_cast<const decltype(zero)*>(gradients),
                                                           weights, range.first, range.first + range.count);
  });
  check(cudaGetLastError());
}

template <element T>
void adamw_rows(execution& e, const adamw_params* params, vector_view<const index_t> decay_boundaries,
                const float* master, const float* first, const float* second, const std::byte* gradients,
                dtype type, T* weights, parameter_range table, index_t cols,
                vector_view<const std::int32_t> ids, vector_view<const std::int32_t> more_ids) {
  constexpr int threads = 128;
  if (ids.size + more_ids.size == 0) return;
  visit(type, [&](auto zero) {
    detail::adamw_rows_kernel<threads>
        <<<static_cast<unsigned>(ids.size + more_ids.size), threads, 0, e.stream()>>>(
            params, decay_boundaries, master, first, second,
            reinterpret_cast<const decltype(zero)*>(gradients), weights, table, cols, ids.data, ids.size,
            more_ids.data);
  });
  check(cudaGetLastError());
}

template <element T>
void operations<T>::convert(execution& e, const float* from, void* to, dtype type, index_t count) {
  cuda::convert(e, from, to, type, count);
}
template <element T>
void operations<T>::partial_squares(execution& e, const std::byte* gradients, dtype type,
                                    parameter_range range, vector_view<double> parts) {
  cuda::partial_squares(e, gradients, type, range, parts);
}
template <element T>
void operations<T>::sum_parts(execution& e, vector_view<const double> parts, double* result) {
  cuda::sum_parts(e, parts, result);
}
template <element T>
void operations<T>::adamw(execution& e, const adamw_params* params,
                          vector_view<const index_t> decay_boundaries, float* master, float* first,
                          float* second, const std::byte* gradients, dtype type, T* weights,
                          parameter_range range) {
  cuda::adamw<T>(e, params, decay_boundaries, master, first, second, gradients, type, weights, range);
}
template <element T>
void operations<T>::adamw_rows(execution& e, const adamw_params* params,
                               vector_view<const index_t> decay_boundaries, const float* master,
                               const float* first, const float* second, const std::byte* gradients,
                               dtype type, T* weights, parameter_range table, index_t cols,
                               vector_view<const std::int32_t> ids,
                               vector_view<const std::int32_t> more_ids) {
  cuda::adamw_rows<T>(e, params, decay_boundaries, master, first, second, gradients, type, weights, table,
                      cols, ids, more_ids);
}

}  // namespace t5zero::cuda
