// Cross entropy over rows of logits, with label smoothing in transformers' form (the uniform part includes
// the target).
//
// logits fp32 [rows, vocabulary], labels [rows], row_loss double [rows, 2]: -log p[label] and, with label
// smoothing, the sum of -log p; overwritten, zeros where the label is negative. A label beyond the
// vocabulary, which nothing here can throw for, gives NaN. Backward also overwrites grad_logits T [rows,
// vocabulary] with *scale * factor * (softmax - target distribution); grad_logits may be logits where T is
// fp32. Any row stride.
//
// A block takes a row, kept in registers (block_row.cuh): memory is read once and written once.
// Deterministic, on the execution's stream, one launch each.
//
// Floors at 4.27 TB/s (H200) and targets for rows of 32128, backward to fp16: 40 rows 7.7 MB, 1.8 us, target
// 5 us (one multiprocessor takes a row from the L2 at about 0.1 TB/s); 1024 rows 197 MB, 46 us, target 60 us.
#pragma once

#include <cuda_runtime_api.h>

#include <cmath>
#include <cstdint>

#include <t5zero/backend/cuda/check.hpp>
#include <t5zero/backend/cuda/execution.hpp>
#include <t5zero/backend/cuda/kernels/block_row.cuh>
#include <t5zero/backend/cuda/operations.hpp>
#include <t5zero/optim/loss_sums.hpp>

namespace t5zero::cuda {

namespace detail {

/// T: of the gradients; not used without them.
template <bool HasGradient, bool Resident, bool Packs, element T>
__global__ void __launch_bounds__(block_row_threads, 1)
    cross_entropy_kernel(matrix_view<const float> logits, const std::int32_t* labels, float label_smoothing,
                         const float* scale, float factor, matrix_view<T> grad_logits,
                         matrix_view<double> row_loss) {
  constexpr int threads = block_row_threads;
  __shared__ float shared[threads / warp_size];
  __shared__ double shared_double[threads / warp_size];
  const index_t t = blockIdx.x;
  const int vocabulary = static_cast<int>(logits.cols);
  const int label = labels[t];
  double* const out = row_loss.data + t * row_loss.stride;
  T* const to = HasGradient ? grad_logits.data + t * grad_logits.stride : nullptr;
  if (label < 0) {
    if (threadIdx.x == 0) out[0] = out[1] = 0.0;
    if constexpr (HasGradient) {
      const float zeros[4] = {};
      for (int c = static_cast<int>(threadIdx.x) * 4; c < vocabulary; c += 4 * threads)
        store_features<4, Packs>(to + c, vocabulary - c, zeros);
    }
    return;
  }
  const float* const from = logits.data + t * logits.stride;
  // Before anything is written: the gradient may take the logits' place.
  const float target = label < vocabulary ? from[label] : __int_as_float(0x7fffffff);
  block_row<Resident, Packs> row(from, vocabulary);
  float maximum = -INFINITY;
  double sum_of_logits = 0.0;
  row.for_each([&](int first, const float(&values)[4]) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      maximum = fmaxf(maximum, values[i]);
      if (label_smoothing > 0.0F && first + i < vocabulary) sum_of_logits += static_cast<double>(values[i]);
    }
  });
  maximum = block_max<threads>(maximum, shared);
  float sum = 0.0F;
  row.for_each([&](int, float(&values)[4]) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      values[i] = expf(values[i] - maximum);
      sum += values[i];
    }
  });
  sum = block_sum<threads>(sum, shared);
  if (label_smoothing > 0.0F) sum_of_logits = block_sum<threads>(sum_of_logits, shared_double);
  if (threadIdx.x == 0) {
    const double log_sum_exp = static_cast<double>(maximum) + log(static_cast<double>(sum));
    out[0] = log_sum_exp - static_cast<double>(target);
    out[1] = label_smoothing > 0.0F ? static_cast<double>(vocabulary) * log_sum_exp - sum_of_logits : 0.0;
  }
  if constexpr (HasGradient) {
    const float unit = label < vocabulary ? *scale * factor : __int_as_float(0x7fffffff);
    const float per_exponential = unit / sum;
    const float uniform = unit * label_smoothing / static_cast<float>(vocabulary);
    const float one = unit * (1.0F - label_smoothing);
    row.for_each([&](int first, const float(&values)[4]) {
      float gradient[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float exponential = Resident ? values[i] : expf(values[i] - maximum);
        gradient[i] = exponential * per_exponential - uniform;
        if (first + i == label) gradient[i] -= one;
      }
      store_features<4, Packs>(to + first, vocabulary - first, gradient);
    });
  }
}

template <bool HasGradient, element T>
void cross_entropy(execution& e, matrix_view<const float> logits, const std::int32_t* labels,
                   float label_smoothing, const float* scale, float factor, matrix_view<T> grad_logits,
                   matrix_view<double> row_loss) {
  require(row_loss.rows == logits.rows && row_loss.cols == 2,
          "cuda::cross_entropy: row_loss is not [rows, 2]");
  if (logits.rows == 0 || logits.cols == 0) return;
  const bool packs = takes_packs(logits, 4) && (!HasGradient || takes_packs(grad_logits, 4));
  with_block_row(logits.cols, packs, [&](auto resident, auto whole) {
    cross_entropy_kernel<HasGradient, resident(), whole()>
        <<<static_cast<unsigned>(logits.rows), block_row_threads, 0, e.stream()>>>(
            logits, labels, label_smoothing, scale, factor, grad_logits, row_loss);
  });
  check(cudaGetLastError());
}

template <int Threads>
__global__ void __launch_bounds__(Threads)
    sum_losses_kernel(matrix_view<const double> row_loss, const std::int32_t* labels, loss_sums* sums) {
  __shared__ double shared[Threads / warp_size];
  __shared__ index_t shared_count[Threads / warp_size];
  double negative_log_likelihood = 0.0;
  double uniform = 0.0;
  index_t count = 0;
  for (index_t t = threadIdx.x; t < row_loss.rows; t += Threads) {
    negative_log_likelihood += row_loss.data[t * row_loss.stride];
    uniform += row_loss.data[t * row_loss.stride + 1];
    count += labels[t] >= 0 ? 1 : 0;
  }
  negative_log_likelihood = block_sum<Threads>(negative_log_likelihood, shared);
  uniform = block_sum<Threads>(uniform, shared);
  count = block_sum<Threads>(count, shared_count);
  if (threadIdx.x == 0) {
    sums->negative_log_likelihood = negative_log_likelihood;
    sums->uniform = uniform;
    sums->labels = count;
  }
}

}  // namespace detail

inline void cross_entropy_forward(execution& e, matrix_view<float> logits, const std::int32_t* labels,
                                  float label_smoothing, matrix_view<double> row_loss) {
  detail::cross_entropy<false>(e, logits, labels, label_smoothing, nullptr, 1.0F, matrix_view<float>(),
                               row_loss);
}

template <element T>
void cross_entropy_backward(execution& e, matrix_view<float> logits, const std::int32_t* labels,
                            float label_smoothing, const float* scale, float factor,
                            matrix_view<T> grad_logits, matrix_view<double> row_loss) {
  require(grad_logits.rows == logits.rows && grad_logits.cols == logits.cols,
          "cuda::cross_entropy_backward: the shapes do not agree");
  detail::cross_entropy<true>(e, logits, labels, label_smoothing, scale, factor, grad_logits, row_loss);
}

inline void sum_losses(execution& e, matrix_view<const double> row_loss, const std::int32_t* labels,
                       loss_sums* sums) {
  require(row_loss.cols == 2, "cuda::sum_losses: row_loss is not [rows, 2]");
  detail::sum_losses_kernel<1024><<<1, 1024, 0, e.stream()>>>(row_loss, labels, sums);
  check(cudaGetLastError());
}

template <element T>
void operations<T>::cross_entropy_forward(execution& e, matrix_view<float> logits, const std::int32_t* labels,
                                          float label_smoothing, matrix_view<double> row_loss) {
  cuda::cross_entropy_forward(e, logits, labels, label_smoothing, row_loss);
}
template <element T>
void operations<T>::cross_entropy_backward(execution& e, matrix_view<float> logits,
                                           const std::int32_t* labels, float label_smoothing,
                                           const float* scale, float factor, matrix_view<T> grad_logits,
                                           matrix_view<double> row_loss) {
  cuda::cross_entropy_backward<T>(e, logits, labels, label_smoothing, scale, factor, grad_logits, row_loss);
}
template <element T>
void operations<T>::sum_losses(execution& e, matrix_view<const double> row_loss, const std::int32_t* labels,
                               loss_sums* sums) {
  cuda::sum_losses(e, row_loss, labels, sums);
}

}  // namespace t5zero::cuda
