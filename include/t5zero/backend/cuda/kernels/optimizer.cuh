// The optimizer's passes over all parameters: conversion, sum of squares of the gradients, AdamW (Loshchilov
// and Hutter 2019, in PyTorch's order: decay, moments, step).
//
// All arrays are contiguous, `count` elements, aligned to 16 bytes; nothing overlaps.
//   convert         to = from rounded to nearest; overwrites
//   sum_of_squares  *result overwritten; not finite if any gradient is not. Squares are added in fp32 inside
//   a
//                   thread's 64 bytes and in double beyond. The blocks begin with the end of the array: what
//                   the L2 holds afterwards is the beginning, where the optimizer starts to read.
//   adamw           master, first, second updated in place, weights (16-bit copies, or null) overwritten;
//   nothing
//                   changes where params->applies is false. Scalars are read on the GPU: nothing waits for
//                   the host. Weight decay is on between boundaries 2 k and 2 k + 1: a block counts once how
//                   many lie before it, while its loads are under way, and looks closer only where one lies
//                   inside it.
// Deterministic; on the execution's stream. sum_of_squares is two launches, the others one.
//
// Floors at 4.27 TB/s (H200) and targets:
//   adamw           28 bytes an element:  t5-small 1.69 GB, 397 us, target 430 us; t5-large 20.7 GB, 4.84 ms,
//   target
//                   5.2 ms (with 16-bit gradients and copies as with fp32 ones and none)
//   sum_of_squares  t5-small fp16 121 MB, 28 us, target 34 us; t5-large fp32 2.95 GB, 0.69 ms, target 0.75 ms
//   convert         t5-small to fp16 363 MB, 85 us, target 95 us
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

#include <t5zero/backend/cuda/check.hpp>
#include <t5zero/backend/cuda/execution.hpp>
#include <t5zero/backend/cuda/kernels/row_access.cuh>
#include <t5zero/backend/cuda/kernels/streaming.cuh>
#include <t5zero/backend/cuda/operations.hpp>
#include <t5zero/backend/cuda/reduction_workspace.hpp>

namespace t5zero::cuda {

namespace detail {

/// A thread takes packs of four elements, 16 bytes of fp32, Threads packs apart: each access of a warp is one
/// piece of memory, of 256 or 512 bytes.
inline constexpr int pass_threads = 256;
inline constexpr int pass_packs = 2;
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

/// partial[block] = sum of squares of its tiles of the array.
template <int Threads, element G>
__global__ void __launch_bounds__(Threads)
    sum_of_squares_kernel(const G* gradient, index_t count, double* partial) {
  __shared__ double shared[Threads / warp_size];
  constexpr int per_pack = 16 / static_cast<int>(sizeof(G));
  constexpr int packs = 4;
  constexpr index_t per_tile = index_t{Threads} * packs * per_pack;
  double total = 0.0;
  for (index_t tile = (count - 1) / per_tile - blockIdx.x; tile >= 0; tile -= gridDim.x) {
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
    g *= grad_multiplier;
    m = beta1 * m + one_minus_beta1 * g;
    v = beta2 * v + one_minus_beta2 * (g * g);
    w = w * keep - step * (m / (sqrtf(v) * inverse_correction2 + epsilon));
  }
};

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
                 float* first, float* second, const G* gradient, W* weights, index_t count) {
  pack<G, 4> gradients[Packs];
  pack<float, 4> firsts[Packs];
  pack<float, 4> seconds[Packs];
  pack<float, 4> masters[Packs];
#pragma unroll
  for (int p = 0; p < Packs; ++p) {
    const index_t i = pass_element<Threads, Packs>(p);
    if (i + 4 > count) continue;
    gradients[p] = load_streaming<4>(gradient + i);
    firsts[p] = load_streaming<4>(first + i);
    seconds[p] = load_streaming<4>(second + i);
    masters[p] = load_streaming<4>(master + i);
  }
  const adamw_params p = *params;
  const index_t begin = static_cast<index_t>(blockIdx.x) * (4 * Packs * Threads);
  const decay_range range =
      decay_range::of_block<Threads>(decay_boundaries, begin, begin + 4 * Packs * Threads);
  if (!p.applies) return;
  const adamw_update update(p);
  const float keep_decaying = 1.0F - p.learning_rate * p.weight_decay;
#pragma unroll
  for (int n = 0; n < Packs; ++n) {
    const index_t i = pass_element<Threads, Packs>(n);
    if (i >= count) continue;
    const float keep = range.decays(i) ? keep_decaying : 1.0F;
    if (i + 4 <= count) {
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
      for (index_t j = i; j < count; ++j) {
        update(to_float(gradient[j]), keep, first[j], second[j], master[j]);
        if (weights != nullptr) weights[j] = from_float<W>(master[j]);
      }
    }
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

inline void sum_of_squares(execution& e, const std::byte* gradients, dtype type, index_t count,
                           double* result) {
  require(detail::is_aligned(gradients), "cuda::sum_of_squares: the array is not aligned to 16 bytes");
  constexpr auto blocks = static_cast<unsigned>(detail::square_blocks);
  auto* const partial = reinterpret_cast<double*>(e.workspace(sum_of_squares_workspace_bytes(count)));
  if (count == 0) {
    check(cudaMemsetAsync(result, 0, sizeof(double), e.stream()));
    return;
  }
  visit(type, [&](auto zero) {
    detail::sum_of_squares_kernel<256>
        <<<blocks, 256, 0, e.stream()>>>(reinterpret_cast<const decltype(zero)*>(gradients), count, partial);
  });
  check(cudaGetLastError());
  detail::sum_partials_kernel<1024>
      <<<1, 1024, 0, e.stream()>>>(partial, static_cast<int>(detail::square_blocks), result);
  check(cudaGetLastError());
}

template <element T>
void adamw(execution& e, const adamw_params* params, vector_view<const index_t> decay_boundaries,
           float* master, float* first, float* second, const std::byte* gradients, dtype type, T* weights,
           index_t count) {
  require(detail::is_aligned(master) && detail::is_aligned(first) && detail::is_aligned(second) &&
              detail::is_aligned(gradients) && detail::is_aligned(weights),
          "cuda::adamw: the arrays are not aligned to 16 bytes");
  if (count == 0) return;
  const auto blocks = static_cast<unsigned>(ceil_div(count, detail::pass_elements));
  visit(type, [&](auto zero) {
    detail::adamw_kernel<detail::pass_threads, detail::pass_packs>
        <<<blocks, detail::pass_threads, 0, e.stream()>>>(params, decay_boundaries, master, first, second,
                                                          reinterpret_cast<const decltype(zero)*>(gradients),
                                                          weights, count);
  });
  check(cudaGetLastError());
}

template <element T>
void operations<T>::convert(execution& e, const float* from, void* to, dtype type, index_t count) {
  cuda::convert(e, from, to, type, count);
}
template <element T>
void operations<T>::sum_of_squares(execution& e, const std::byte* gradients, dtype type, index_t count,
                                   double* result) {
  cuda::sum_of_squares(e, gradients, type, count, result);
}
template <element T>
void operations<T>::adamw(execution& e, const adamw_params* params,
                          vector_view<const index_t> decay_boundaries, float* master, float* first,
                          float* second, const std::byte* gradients, dtype type, T* weights, index_t count) {
  cuda::adamw<T>(e, params, decay_boundaries, master, first, second, gradients, type, weights, count);
}

}  // namespace t5zero::cuda
