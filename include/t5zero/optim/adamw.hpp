// AdamW's scalars for one update; the arithmetic over the elements is a backend operation.
#pragma once

#include <cmath>

#include <t5zero/backend/backend.hpp>
#include <t5zero/core/integers.hpp>
#include <t5zero/optim/weight_decay.hpp>

namespace t5zero {

/// Loshchilov and Hutter 2019; defaults of transformers.
struct adamw_options {
  double beta1 = 0.9;
  double beta2 = 0.999;
  double epsilon = 1e-8;
  double weight_decay = 0.0;
  weight_decay_scope decay_scope = weight_decay_scope::hugging_face;
};

/// update: 1 for the first applied one. grad_multiplier: unscaling times clipping.
[[nodiscard]] inline adamw_params adamw_update(const adamw_options& options, double learning_rate,
                                               index_t update, double grad_multiplier) {
  adamw_params params;
  params.learning_rate = static_cast<float>(learning_rate);
  params.beta1 = static_cast<float>(options.beta1);
  params.beta2 = static_cast<float>(options.beta2);
  params.one_minus_beta1 = static_cast<float>(1.0 - options.beta1);
  params.one_minus_beta2 = static_cast<float>(1.0 - options.beta2);
  params.epsilon = static_cast<float>(options.epsilon);
  params.weight_decay = static_cast<float>(options.weight_decay);
  params.bias_correction1 = static_cast<float>(1.0 - std::pow(options.beta1, static_cast<double>(update)));
  params.bias_correction2_sqrt =
      static_cast<float>(std::sqrt(1.0 - std::pow(options.beta2, static_cast<double>(update))));
  params.grad_multiplier = static_cast<float>(grad_multiplier);
  return params;
}

}  // namespace t5zero
