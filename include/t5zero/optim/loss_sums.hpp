// Sums that become a batch's loss.
#pragma once

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

}  // namespace t5zero
