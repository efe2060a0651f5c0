// AdamW's scalars for one update; the arithmetic over the elements is a backend operation.
#pragma once

#include <cmath>

#include <t5zero/core/config.hpp>
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

/// Scalars of one AdamW update (Loshchilov and Hutter 2019), the same for all elements.
struct adamw_params {
  bool applies = false;  ///< true for one update whose gradients are finite; else nothing changes
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

/// update: 1 for the first applied one. grad_multiplier: unscaling times clipping.
[[nodiscard]] T5ZERO_HOST_DEVICE inline adamw_params adamw_update(const adamw_options& options,
                                                                  double learning_rate, index_t update,
                                                                  double grad_multiplier) {
  adamw_params params;
  params.applies = true;
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
