// What stands between the matrices of a feed-forward, with its dropout: relu, or gelu_new(gate) * linear, the
// tanh form of Hendrycks and Gimpel 2016.
//
// hidden and grad_hidden [tokens, d_ff] (gated: [tokens, 2 * d_ff], gate then linear), activated, out and
// grad_activated [tokens, d_ff]; any row stride. Results overwrite; relu_dropout_forward works in place and
// grad_hidden may be grad_activated or activated for relu; nothing else may overlap. Elementwise, so
// deterministic; masks are recomputed, one launch on the execution's stream.
//
// Floors at 4.27 TB/s (H200) and targets, fp16:
//   relu forward    1024 x 2048:  8.4 MB, 2.0 us, target 3 us;  4096 x 4096:  67 MB, 15.7 us, target 19 us
//   relu backward   1024 x 2048: 12.6 MB, 2.9 us, target 4 us;  4096 x 4096: 101 MB, 23.6 us, target 27 us
//   gelu forward    1024 x 2816: 17.3 MB, 4.1 us, target 6 us;  4096 x 2816:  69 MB, 16.2 us, target 20 us
//   gelu backward   1024 x 2816: 28.8 MB, 6.8 us, target 9 us;  4096 x 2816: 115 MB, 27.0 us, target 33 us
#pragma once

#include <cuda_runtime_api.h>

#include <t5zero/backend/cuda/execution.hpp>
#include <t5zero/backend/cuda/kernels/row_access.cuh>
#include <t5zero/backend/cuda/operations.hpp>
#include <t5zero/core/error.hpp>

namespace t5zero::cuda {

namespace detail {

/// 16 bytes of T, four features at least.
template <element T>
inline constexpr int activation_features = sizeof(T) == 2 ? 8 : 4;

inline constexpr float sqrt_2_over_pi = 0.7978845608028654F;

/// tanh(sqrt(2/pi) (x + 0.044715 x^3)).
[[nodiscard]] __device__ inline float gelu_tanh(float x) {
  return tanhf(sqrt_2_over_pi * (x + 0.044715F * x * x * x));
}

template <int Features, bool Packs, element T>
__global__ void __launch_bounds__(row_threads)
    relu_dropout_forward_kernel(matrix_view<T> hidden, dropout_site site, const std::uint32_t* rows,
                                const std::uint32_t* positions) {
  wait_for_previous_grid();
  const index_t t = blockIdx.x;
  const int first = first_feature<Features>();
  const int available = static_cast<int>(hidden.cols) - first;
  if (available <= 0) return;
  T* const at = hidden.data + t * hidden.stride + first;
  const auto loaded = load_features<Features, Packs>(at, available);
  float multiplier[Features];
  feature_multipliers(dropout_mask(site), rows, positions, t, first, multiplier);
  float value[Features];
  unpack(loaded, value);
#pragma unroll
  for (int i = 0; i < Features; ++i) value[i] = value[i] > 0.0F ? value[i] * multiplier[i] : 0.0F;
  store_features<Features, Packs>(at, available, value);
}

template <int Features, bool Packs, element T>
__global__ void __launch_bounds__(row_threads)
    relu_dropout_backward_kernel(matrix_view<const T> grad_activated, matrix_view<const T> activated,
                                 float scale, matrix_view<T> grad_hidden) {
  wait_for_previous_grid();
  const index_t t = blockIdx.x;
  const int first = first_feature<Features>();
  const int available = static_cast<int>(activated.cols) - first;
  if (available <= 0) return;
  const auto loaded_gradient =
      load_features<Features, Packs>(grad_activated.data + t * grad_activated.stride + first, available);
  const auto loaded_value =
      load_features<Features, Packs>(activated.data + t * activated.stride + first, available);
  float gradient[Features];
  float value[Features];
  unpack(loaded_gradient, gradient);
  unpack(loaded_value, value);
#pragma unroll
  for (int i = 0; i < Features; ++i) gradient[i] = value[i] > 0.0F ? gradient[i] * scale : 0.0F;
  store_features<Features, Packs>(grad_hidden.data + t * grad_hidden.stride + first, available, gradient);
}

template <int Features, bool Packs, element T>
__global__ void __launch_bounds__(row_threads)
    gated_gelu_dropout_forward_kernel(matrix_view<const T> hidden, dropout_site site,
                                      const std::uint32_t* rows, const std::uint32_t* positions,
                                      matrix_view<T> out) {
  wait_for_previous_grid();
  const index_t t = blockIdx.x;
  const int first = first_feature<Features>();
  const int available = static_cast<int>(out.cols) - first;
  if (available <= 0) return;
  const T* const at = hidden.data + t * hidden.stride + first;
  const auto loaded_gate = load_features<Features, Packs>(at, available);
  const auto loaded_linear = load_features<Features, Packs>(at + out.cols, available);
  float multiplier[Features];
  feature_multipliers(dropout_mask(site), rows, positions, t, first, multiplier);
  float gate[Features];
  float linear[Features];
  unpack(loaded_gate, gate);
  unpack(loaded_linear, linear);
#pragma unroll
  for (int i = 0; i < Features; ++i)
    linear[i] *= 0.5F * gate[i] * (1.0F + gelu_tanh(gate[i])) * multiplier[i];
  store_features<Features, Packs>(out.data + t * out.stride + first, available, linear);
}

template <int Features, bool Packs, element T>
__global__ void __launch_bounds__(row_threads)
    gated_gelu_dropout_backward_kernel(matrix_view<const T> grad_activated, matrix_view<const T> hidden,
                                       dropout_site site, const std::uint32_t* rows,
                                       const std::uint32_t* positions, matrix_view<T> grad_hidden) {
  wait_for_previous_grid();
  const index_t t = blockIdx.x;
  const int first = first_feature<Features>();
  const index_t d_ff = grad_activated.cols;
  const int available = static_cast<int>(d_ff) - first;
  if (available <= 0) return;
  const T* const at = hidden.data + t * hidden.stride + first;
  const auto loaded_gradient =
      load_features<Features, Packs>(grad_activated.data + t * grad_activated.stride + first, available);
  const auto loaded_gate = load_features<Features, Packs>(at, available);
  const auto loaded_linear = load_features<Features, Packs>(at + d_ff, available);
  float multiplier[Features];
  feature_multipliers(dropout_mask(site), rows, positions, t, first, multiplier);
  float gradient[Features];
  float gate[Features];
  float linear[Features];
  unpack(loaded_gradient, gradient);
  unpack(loaded_gate, gate);
  unpack(loaded_linear, linear);
#pragma unroll
  for (int i = 0; i < Features; ++i) {
    const float g = gradient[i] * multiplier[i];
    const float x = gate[i];
    const float tanh = gelu_tanh(x);
    const float gelu = 0.5F * x * (1.0F + tanh);
    const float inner = sqrt_2_over_pi * (1.0F + 3.0F * 0.044715F * x * x);
    const float slope = 0.5F * (1.0F + tanh) + 0.5F * x * (1.0F - tanh * tanh) * inner;
    gate[i] = g * linear[i] * slope;
    linear[i] = g * gelu;
  }
  T* const to = grad_hidden.data + t * grad_hidden.stride + first;
  store_features<Features, Packs>(to, available, gate);
  store_features<Features, Packs>(to + d_ff, available, linear);
}

/// Both halves of a gated matrix take packs.
template <int Features, class U>
[[nodiscard]] bool gated_takes_packs(matrix_view<U> hidden) {
  const index_t d_ff = hidden.cols / 2;
  return takes_packs(hidden.column_block(0, d_ff), Features) &&
         takes_packs(hidden.column_block(d_ff, d_ff), Features);
}

}  // namespace detail

template <element T>
void relu_dropout_forward(execution& e, matrix_view<T> hidden, const dropout_site& site,
                          const ragged_view& tokens) {
  require(!site.active() || tokens.tokens == hidden.rows,
          "cuda::relu_dropout_forward: the shapes do not agree");
  if (hidden.rows == 0 || hidden.cols == 0) return;
  constexpr int features = detail::activation_features<T>;
  const detail::row_grid grid(hidden.rows, hidden.cols, features);
  detail::with_packs(detail::takes_packs(hidden, features), [&](auto whole) {
    detail::launch(e, detail::relu_dropout_forward_kernel<features, whole(), T>, grid.overlapping(e), hidden,
                   site, tokens.rows, tokens.positions);
  });
}

template <element T>
void relu_dropout_backward(execution& e, matrix_view<const T> grad_activated, matrix_view<const T> activated,
                           const dropout_site& site, matrix_view<T> grad_hidden) {
  require(grad_activated.rows == activated.rows && grad_activated.cols == activated.cols &&
              grad_hidden.rows == activated.rows && grad_hidden.cols == activated.cols,
          "cuda::relu_dropout_backward: the shapes do not agree");
  if (activated.rows == 0 || activated.cols == 0) return;
  constexpr int features = detail::activation_features<T>;
  const detail::row_grid grid(activated.rows, activated.cols, features);
  const bool packs = detail::takes_packs(grad_activated, features) &&
                     detail::takes_packs(activated, features) && detail::takes_packs(grad_hidden, features);
  detail::with_packs(packs, [&](auto whole) {
    detail::launch(e, detail::relu_dropout_backward_kernel<features, whole(), T>, grid.overlapping(e),
                   grad_activated, activated, site.scale(), grad_hidden);
  });
}

template <element T>
void gated_gelu_dropout_forward(execution& e, matrix_view<const T> hidden, const dropout_site& site,
                                const ragged_view& tokens, matrix_view<T> out) {
  require(
      hidden.rows == out.rows && hidden.cols == 2 * out.cols && (!site.active() || tokens.tokens == out.rows),
      "cuda::gated_gelu_dropout_forward: the shapes do not agree");
  if (out.rows == 0 || out.cols == 0) return;
  constexpr int features = detail::activation_features<T>;
  const detail::row_grid grid(out.rows, out.cols, features);
  const bool packs = detail::gated_takes_packs<features>(hidden) && detail::takes_packs(out, features);
  detail::with_packs(packs, [&](auto whole) {
    detail::launch(e, detail::gated_gelu_dropout_forward_kernel<features, whole(), T>, grid.overlapping(e),
                   hidden, site, tokens.rows, tokens.positions, out);
  });
}

template <element T>
void gated_gelu_dropout_backward(execution& e, matrix_view<const T> grad_activated,
                                 matrix_view<const T> hidden, const dropout_site& site,
                                 const ragged_view& tokens, matrix_view<T> grad_hidden) {
  require(grad_activated.rows == hidden.rows && 2 * grad_activated.cols == hidden.cols &&
              grad_hidden.rows == hidden.rows && grad_hidden.cols == hidden.cols &&
              (!site.active() || tokens.tokens == hidden.rows),
          "cuda::gated_gelu_dropout_backward: the shapes do not agree");
  if (hidden.rows == 0 || hidden.cols == 0) return;
  constexpr int features = detail::activation_features<T>;
  const detail::row_grid grid(hidden.rows, grad_activated.cols, features);
  const bool packs = detail::takes_packs(grad_activated, features) &&
                     detail::gated_takes_packs<features>(hidden) &&
                     detail::gated_takes_packs<features>(grad_hidden);
  detail::with_packs(packs, [&](auto whole) {
    detail::launch(e, detail::gated_gelu_dropout_backward_kernel<features, whole(), T>, grid.overlapping(e),
                   grad_activated, hidden, site, tokens.rows, tokens.positions, grad_hidden);
  });
}

template <element T>
void operations<T>::relu_dropout_forward(execution& e, matrix_view<T> hidden, const dropout_site& site,
                                         const ragged_view& tokens) {
  cuda::relu_dropout_forward<T>(e, hidden, site, tokens);
}
template <element T>
void operations<T>::relu_dropout_backward(execution& e, matrix_view<const T> grad_activated,
                                          matrix_view<const T> activated, const dropout_site& site,
                                          matrix_view<T> grad_hidden) {
  cuda::relu_dropout_backward<T>(e, grad_activated, activated, site, grad_hidden);
}
template <element T>
void operations<T>::gated_gelu_dropout_forward(execution& e, matrix_view<const T> hidden,
                                               const dropout_site& site, const ragged_view& tokens,
                                               matrix_view<T> out) {
  cuda::gated_gelu_dropout_forward<T>(e, hidden, site, tokens, out);
}
template <element T>
void operations<T>::gated_gelu_dropout_backward(execution& e, matrix_view<const T> grad_activated,
                                                matrix_view<const T> hidden, const dropout_site& site,
                                                const ragged_view& tokens, matrix_view<T> grad_hidden) {
  cuda::gated_gelu_dropout_backward<T>(e, grad_activated, hidden, site, tokens, grad_hidden);
}

}  // namespace t5zero::cuda
