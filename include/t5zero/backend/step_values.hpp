// The scalars of a step that change from step to step. They live in the backend's memory, where its
// operations read and write them: on a GPU nothing of a step waits for the host.
#pragma once

#include <t5zero/core/config.hpp>
#include <t5zero/core/integers.hpp>

namespace t5zero {

/// Sums over the labels that count (those >= 0) of one batch.
struct loss_sums {
  double negative_log_likelihood = 0.0;
  double uniform = 0.0;  ///< sum over tokens and vocabulary of -log p; 0 without label smoothing
  index_t labels = 0;    ///< labels that count

  /// Mean over the labels that count; NaN if there are none, as PyTorch gives.
  [[nodiscard]] double mean(float label_smoothing, index_t vocab_size) const {
    const auto n = static_cast<double>(labels);
    const double smoothing = label_smoothing;
    return (1.0 - smoothing) * negative_log_likelihood / n +
           (smoothing > 0.0 ? smoothing * uniform / (n * static_cast<double>(vocab_size)) : 0.0);
  }
};

/// Scalars of one AdamW update (Loshchilov and Hutter 2019), the same for all elements.
struct adamw_params {
  bool applies = true;  ///< false: gradients were not finite, nothing changes
  float learning_rate = 0.0F;
  float beta1 = 0.9F;
  float beta2 = 0.999F;
  float one_minus_beta1 = 0.1F;  ///< rounded from double: 1.0F - 0.999F is off by 1e-5
  float one_minus_beta2 = 0.001F;
  float epsilon = 1e-8F;
  float weight_decay = 0.0F;           ///< of the elements that decay
  float bias_correction1 = 1.0F;       ///< 1 - beta1^t
  float bias_correction2_sqrt = 1.0F;  ///< sqrt(1 - beta2^t)
  float grad_multiplier = 1.0F;        ///< unscaling and clipping in one factor
};

/// Scalars of one Adafactor update (Shazeer and Stern 2018).
struct adafactor_params {
  bool applies = true;  ///< false: gradients were not finite, nothing changes
  float learning_rate = 0.0F;
  float beta2 = 0.0F;            ///< share of the second moment that is kept
  float one_minus_beta2 = 1.0F;  ///< rounded from double
  float epsilon = 1e-30F;        ///< added to squared gradients
  float clip_threshold = 1.0F;   ///< of the update's root mean square
  float weight_decay = 0.0F;     ///< of the tensors that decay
  float grad_multiplier = 1.0F;  ///< unscaling and clipping in one factor
};

}  // namespace t5zero
