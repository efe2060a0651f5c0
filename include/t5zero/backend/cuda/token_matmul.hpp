// Matrix products of few tokens together with what stands before and after them in a sublayer, one launch
// each: declarations that a plain C++ compiler reads. kernels/token_matmul.cuh and
// kernels/token_weight_gradients.cuh define them for float16 and bfloat16; the library t5zero::kernels holds
// them. For which shapes: token_matmul_limits.hpp.
//
// Rows are tokens. The features of every matrix are multiples of 8, its stride too, its first element is
// aligned to 16 bytes. Results overlap nothing else unless it is said. Everything overwrites but where a
// gradient_view says otherwise, and is deterministic.
#pragma once

#include <array>
#include <cstdint>

#include <t5zero/backend/backend.hpp>
#include <t5zero/backend/cuda/execution.hpp>
#include <t5zero/backend/cuda/token_matmul_limits.hpp>

namespace t5zero::cuda {

/// The types that tensor cores multiply here.
template <class T>
concept token_element = element<T> && sizeof(T) == 2;

/// y = epilogue(rms_norm(x) weight^T). What backward needs of the norm is stored too.
template <token_element T>
struct norm_matmul_arguments {
  matrix_view<const float> x;        ///< [tokens, d_model]
  vector_view<const T> norm_weight;  ///< [d_model]
  float epsilon = 0.0F;
  matrix_view<const T> weight;       ///< [features, d_model]
  matrix_view<T> y;                  ///< [tokens, features]
  matrix_view<T> normed{};           ///< [tokens, d_model]; no data: not stored
  vector_view<float> inverse_rms{};  ///< [tokens]; no data: not stored
  bool relu = false;                 ///< y = dropout(relu(product)), else the product
  dropout_site dropout{};            ///< of relu
  ragged_view tokens{};              ///< read where dropout is on
  launch_overlap overlap = launch_overlap::none;
};

/// out = x + dropout(a weight^T).
template <token_element T>
struct matmul_residual_arguments {
  matrix_view<const T> a;       ///< [tokens, depth]
  matrix_view<const T> weight;  ///< [d_model, depth]
  matrix_view<const float> x;   ///< [tokens, d_model]
  matrix_view<float> out;       ///< [tokens, d_model]; may be x
  dropout_site dropout{};
  ragged_view tokens{};
  launch_overlap overlap = launch_overlap::none;
};

/// y = epilogue(dropout(gradient) weight), where gradient is that of the residual stream: `grad`, or, if
/// grad_normed has data, first that of the norm behind is added: gradient = grad + rms_norm_backward(...).
template <token_element T>
struct grad_matmul_arguments {
  matrix_view<const float> grad;           ///< [tokens, d_model]
  matrix_view<const float> grad_normed{};  ///< [tokens, d_model]; no data: gradient is grad
  matrix_view<const float> x{};            ///< [tokens, d_model], what was normed
  vector_view<const T> norm_weight{};      ///< [d_model]
  vector_view<const float> inverse_rms{};  ///< [tokens]
  matrix_view<float> gradient{};           ///< [tokens, d_model]; no data: not stored
  dropout_site dropout{};
  ragged_view tokens{};
  matrix_view<T> dropped{};          ///< [tokens, d_model], dropout(gradient) as T; no data: not stored
  matrix_view<const T> weight;       ///< [d_model, features]
  matrix_view<const T> activated{};  ///< [tokens, features], dropout(relu()); no data: no relu here
  dropout_site activated_dropout{};  ///< of `activated`
  matrix_view<T> y;                  ///< [tokens, features]; may be `activated`
  launch_overlap overlap = launch_overlap::none;
};

/// y = a weight.
template <token_element T>
struct plain_matmul_arguments {
  matrix_view<const T> a;       ///< [tokens, depth]
  matrix_view<const T> weight;  ///< [depth, features]
  matrix_view<float> y;         ///< [tokens, features]
  launch_overlap overlap = launch_overlap::none;
};

/// grad_weight (+)= grad_y^T x.
template <token_element T>
struct weight_gradient {
  matrix_view<const T> grad_y;  ///< [tokens, rows of grad_weight]
  matrix_view<const T> x;       ///< [tokens, columns of grad_weight]
  gradient_view grad_weight;    ///< of type T or fp32
};
/// grad_weight (+)= sum over tokens of grad_normed * x * inverse_rms.
struct norm_weight_gradient {
  matrix_view<const float> grad_normed;  ///< [tokens, d_model]
  matrix_view<const float> x;            ///< [tokens, d_model]
  vector_view<const float> inverse_rms;  ///< [tokens]
  gradient_view grad_weight;             ///< [1, d_model]
};
/// Up to max_weight_gradients of each; those without data are not there.
template <token_element T>
struct weight_gradients_arguments {
  std::array<weight_gradient<T>, max_weight_gradients> products{};
  std::array<norm_weight_gradient, max_weight_gradients> norms{};
  launch_overlap overlap = launch_overlap::none;
};

// Each throws contract_error where shapes or alignments do not fit, and is one launch.
template <token_element T>
void norm_matmul(execution& e, const norm_matmul_arguments<T>& arguments);
template <token_element T>
void matmul_residual(execution& e, const matmul_residual_arguments<T>& arguments);
template <token_element T>
void grad_matmul(execution& e, const grad_matmul_arguments<T>& arguments);
template <token_element T>
void plain_matmul(execution& e, const plain_matmul_arguments<T>& arguments);
template <token_element T>
void weight_gradients(execution& e, const weight_gradients_arguments<T>& arguments);

}  // namespace t5zero::cuda
