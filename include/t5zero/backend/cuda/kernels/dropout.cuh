// Dropout and what goes with it in one pass over memory: the residual sum and conversions.
//
// All matrices [tokens, features], any row stride; masks are recomputed from coordinates
// (backend/dropout.hpp) and never stored. Elementwise, so deterministic; one launch on the execution's
// stream.
//   residual_dropout_add: out = x + mask(branch), fp32; out may be x or branch.
//   dropout_backward: grad_branch = mask(grad), fp32 to T; overwrites; overlap is allowed in fp32 alone.
//   dropout_in_place: x = mask(x). fill_zero: x = 0.
//
// Floors at 4.27 TB/s (H200) and targets; what small batches cost is the launch and one trip to the L2.
//   residual_dropout_add, 1024 x 512: 6.3 MB, 1.5 us, target 2.5 us; 4096 x 1024: 50 MB, 11.8 us, target 14.
//   dropout_backward, fp16, 1024 x 512: 3.1 MB, 0.7 us, target 2.2 us; 4096 x 1024: 25 MB, 5.9 us, target 8.
#pragma once

#include <cuda_runtime_api.h>

#include <t5zero/backend/cuda/check.hpp>
#include <t5zero/backend/cuda/execution.hpp>
#include <t5zero/backend/cuda/kernels/row_access.cuh>
#include <t5zero/backend/cuda/operations.hpp>

namespace t5zero::cuda {

namespace detail {

template <int Features, bool Packs>
__global__ void __launch_bounds__(row_threads)
    residual_dropout_add_kernel(matrix_view<const float> x, matrix_view<const float> branch,
                                dropout_site site, const std::uint32_t* rows, const std::uint32_t* positions,
                                matrix_view<float> out) {
  wait_for_previous_grid();
  const index_t t = blockIdx.x;
  const int first = first_feature<Features>();
  const int available = static_cast<int>(x.cols) - first;
  if (available <= 0) return;
  const auto from = load_features<Features, Packs>(x.data + t * x.stride + first, available);
  const auto added = load_features<Features, Packs>(branch.data + t * branch.stride + first, available);
  float multiplier[Features];
  feature_multipliers(dropout_mask(site), rows, positions, t, first, multiplier);
  float sum[Features];
#pragma unroll
  for (int i = 0; i < Features; ++i) sum[i] = from.values[i] + multiplier[i] * added.values[i];
  store_features<Features, Packs>(out.data + t * out.stride + first, available, sum);
}

/// to = mask(from); `to` may be `from`.
template <int Features, bool Packs, element From, element To>
__global__ void __launch_bounds__(row_threads)
    dropout_kernel(matrix_view<const From> from, dropout_site site, const std::uint32_t* rows,
                   const std::uint32_t* positions, matrix_view<To> to) {
  wait_for_previous_grid();
  const index_t t = blockIdx.x;
  const int first = first_feature<Features>();
  const int available = static_cast<int>(from.cols) - first;
  if (available <= 0) return;
  const auto loaded = load_features<Features, Packs>(from.data + t * from.stride + first, available);
  float multiplier[Features];
  feature_multipliers(dropout_mask(site), rows, positions, t, first, multiplier);
  float value[Features];
  unpack(loaded, value);
#pragma unroll
  for (int i = 0; i < Features; ++i) value[i] *= multiplier[i];
  store_features<Features, Packs>(to.data + t * to.stride + first, available, value);
}

template <element From, element To>
void dropout(execution& e, matrix_view<const From> from, const dropout_site& site, const ragged_view& tokens,
             matrix_view<To> to) {
  require(from.rows == to.rows && from.cols == to.cols && (!site.active() || tokens.tokens == from.rows),
          "cuda::dropout: the shapes do not agree");
  if (from.rows == 0 || from.cols == 0) return;
  // 16 bytes of the wider side.
  constexpr int features = sizeof(From) == 2 && sizeof(To) == 2 ? 8 : 4;
  const row_grid grid(from.rows, from.cols, features);
  const bool packs = takes_packs(from, features) && takes_packs(to, features);
  with_packs(packs, [&](auto whole) {
    launch(e, dropout_kernel<features, whole(), From, To>, grid.overlapping(e), from, site, tokens.rows,
           tokens.positions, to);
  });
}

}  // namespace detail

inline void residual_dropout_add(execution& e, matrix_view<const float> x, matrix_view<const float> branch,
                                 const dropout_site& site, const ragged_view& tokens,
                                 matrix_view<float> out) {
  require(x.rows == branch.rows && x.cols == branch.cols && x.rows == out.rows && x.cols == out.cols &&
              (!site.active() || tokens.tokens == x.rows),
          "cuda::residual_dropout_add: the shapes do not agree");
  if (x.rows == 0 || x.cols == 0) return;
  constexpr int features = 4;
  const detail::row_grid grid(x.rows, x.cols, features);
  const bool packs = detail::takes_packs(x, features) && detail::takes_packs(branch, features) &&
                     detail::takes_packs(out, features);
  detail::with_packs(packs, [&](auto whole) {
    detail::launch(e, detail::residual_dropout_add_kernel<features, whole()>, grid.overlapping(e), x, branch,
                   site, tokens.rows, tokens.positions, out);
  });
}

template <element T>
void dropout_backward(execution& e, matrix_view<const float> grad, const dropout_site& site,
                      const ragged_view& tokens, matrix_view<T> grad_branch) {
  detail::dropout<float, T>(e, grad, site, tokens, grad_branch);
}

template <element U>
void dropout_in_place(execution& e, matrix_view<U> x, const dropout_site& site, const ragged_view& tokens) {
  detail::dropout<U, U>(e, x, site, tokens, x);
}

inline void fill_zero(execution& e, matrix_view<float> x) {
  if (x.rows == 0 || x.cols == 0) return;
  e.note_barrier();
  const auto bytes = [](index_t elements) { return static_cast<std::size_t>(elements) * sizeof(float); };
  if (x.contiguous())
    check(cudaMemsetAsync(x.data, 0, bytes(x.rows * x.cols), e.stream()));
  else
    check(cudaMemset2DAsync(x.data, bytes(x.stride), 0, bytes(x.cols), static_cast<std::size_t>(x.rows),
                            e.stream()));
}

template <element T>
void operations<T>::residual_dropout_add(execution& e, matrix_view<const float> x,
                                         matrix_view<const float> branch, const dropout_site& site,
                                         const ragged_view& tokens, matrix_view<float> out) {
  cuda::residual_dropout_add(e, x, branch, site, tokens, out);
}
template <element T>
void operations<T>::dropout_backward(execution& e, matrix_view<const float> grad, const dropout_site& site,
                                     const ragged_view& tokens, matrix_view<T> grad_branch) {
  cuda::dropout_backward<T>(e, grad, site, tokens, grad_branch);
}
template <element T>
template <element U>
void operations<T>::dropout_in_place(execution& e, matrix_view<U> x, const dropout_site& site,
                                     const ragged_view& tokens) {
  cuda::dropout_in_place<U>(e, x, site, tokens);
}
template <element T>
void operations<T>::fill_zero(execution& e, matrix_view<float> x) {
  cuda::fill_zero(e, x);
}

}  // namespace t5zero::cuda
