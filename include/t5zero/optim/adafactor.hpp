// Adafactor's scalars for one update (Shazeer and Stern 2018), with an external learning rate: transformers'
// Adafactor(scale_parameter=False, relative_step=False), as its Trainer makes it.
#pragma once

#include <cmath>

#include <t5zero/core/config.hpp>
#include <t5zero/core/integers.hpp>
#include <t5zero/optim/weight_decay.hpp>

namespace t5zero {

/// Defaults of transformers. There is no first moment.
struct adafactor_options {
  double epsilon = 1e-30;       ///< added to squared gradients
  double clip_threshold = 1.0;  ///< of the root mean square of a tensor's update
  double decay_rate = -0.8;     ///< update t keeps 1 - t^decay_rate of the second moment
  double weight_decay = 0.0;
  weight_decay_scope decay_scope = weight_decay_scope::hugging_face;
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

/// update: 1 for the first applied one. grad_multiplier: unscaling times clipping.
[[nodiscard]] T5ZERO_HOST_DEVICE inline adafactor_params adafactor_update(const adafactor_options& options,
                                                                          double learning_rate,
                                                                          index_t update,
                                                                          double grad_multiplier) {
  const double added = std::pow(static_cast<double>(update), options.decay_rate);
  adafactor_params params;
  params.learning_rate = static_cast<float>(learning_rate);
  params.beta2 = static_cast<float>(1.0 - added);
  params.one_minus_beta2 = static_cast<float>(added);
  params.epsilon = static_cast<float>(options.epsilon);
  params.clip_threshold = static_cast<float>(options.clip_threshold);
  params.weight_decay = static_cast<float>(options.weight_decay);
  params.grad_multiplier = static_cast<float>(grad_multiplier);
  return params;
}

}  // namespace t5zero
