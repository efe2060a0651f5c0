// --lr_scheduler_type and --lr_scheduler_kwargs as a schedule, with transformers' names, defaults and checks.
#pragma once

#include <algorithm>
#include <cmath>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <nlohmann/json.hpp>

#include <t5zero/cli/options.hpp>
#include <t5zero/core/error.hpp>
#include <t5zero/core/integers.hpp>
#include <t5zero/io/strict_json.hpp>
#include <t5zero/optim/lr_schedule.hpp>

namespace t5zero {

namespace detail {

/// The keys of --lr_scheduler_kwargs, each read once; what is left over is refused.
class lr_scheduler_kwargs {
 public:
  lr_scheduler_kwargs(const std::string& text, lr_schedule_kind kind) : text_(text), kind_(kind) {
    if (text.empty()) return;
    json_ = parse_strict_json(text, "--lr_scheduler_kwargs");
    if (!json_.is_object()) fail("a JSON object such as '{\"num_cycles\": 1}' is needed");
  }

  [[nodiscard]] std::optional<double> number(const char* key, double low) {
    known_.emplace_back(key);
    if (!json_.contains(key) || json_[key].is_null()) return {};
    if (!json_[key].is_number() || !(json_[key].get<double>() >= low) ||
        !std::isfinite(json_[key].get<double>()))
      fail(std::string(key) + " is " + shown(json_[key]) + "; a number of at least " +
           shown(nlohmann::json(low)) + " is needed");
    return json_[key].get<double>();
  }
  [[nodiscard]] std::optional<index_t> steps(const char* key) {
    const std::optional<double> value = number(key, 0.0);
    if (!value) return {};
    if (std::trunc(*value) != *value || *value > 1e12)
      fail(std::string(key) + " is " + shown(json_[key]) + "; a whole number of updates is needed");
    return static_cast<index_t>(*value);
  }
  [[nodiscard]] lr_curve curve(const char* key, lr_curve fallback) {
    known_.emplace_back(key);
    if (!json_.contains(key)) return fallback;
    if (json_[key] == "linear") return lr_curve::linear;
    if (json_[key] == "cosine") return lr_curve::cosine;
    if (json_[key] == "1-sqrt") return lr_curve::one_minus_sqrt;
    fail(std::string(key) + " is " + shown(json_[key]) + "; linear, cosine or 1-sqrt is needed");
  }
  void finish() const {
    for (const auto& [key, value] : json_.items()) {
      if (std::find(known_.begin(), known_.end(), key) != known_.end()) continue;
      std::string names;
      for (const std::string& name : known_) names.append(names.empty() ? "" : ", ").append(name);
      fail(std::string(to_string(kind_)) + " has no " + key + "; " +
           (names.empty() ? "it takes no keys" : "it takes " + names));
    }
  }
  [[noreturn]] void fail(const std::string& what) const {
    if (text_.empty()) {
      throw input_error("--lr_scheduler_type " + std::string(to_string(kind_)) +
                        " without --lr_scheduler_kwargs: " + what);
    }
    throw input_error("--lr_scheduler_kwargs " + text_ + ": " + what);
  }

 private:
  std::string text_;
  lr_schedule_kind kind_;
  nlohmann::json json_ = nlohmann::json::object();
  std::vector<std::string> known_;
};

/// min_lr or min_lr_rate, one of them, as a share of the peak.
[[nodiscard]] inline double least_share(lr_scheduler_kwargs& kwargs, double learning_rate) {
  const std::optional<double> rate = kwargs.number("min_lr", 0.0);
  const std::optional<double> share = kwargs.number("min_lr_rate", 0.0);
  if (rate.has_value() == share.has_value())
    kwargs.fail("one of min_lr and min_lr_rate is needed, e.g. '{\"min_lr_rate\": 0.1}'");
  return share ? *share : learning_rate > 0 ? *rate / learning_rate : 0.0;
}

}  // namespace detail

/// learning_rate: the peak; total_steps: updates of the run. Throws input_error naming the key.
[[nodiscard]] inline lr_schedule make_lr_schedule(const options& chosen, double learning_rate,
                                                  index_t total_steps) {
  lr_schedule schedule;
  schedule.kind = chosen.lr_scheduler_type;
  schedule.learning_rate = learning_rate;
  schedule.total_steps = total_steps;
  schedule.warmup_steps = chosen.warmup_updates(total_steps);
  detail::lr_scheduler_kwargs kwargs(chosen.lr_scheduler_kwargs.value_or(""), schedule.kind);
  lr_schedule_shape& shape = schedule.shape;
  switch (schedule.kind) {
    case lr_schedule_kind::cosine:
    case lr_schedule_kind::cosine_with_restarts:
      shape.num_cycles = kwargs.number("num_cycles", 0.0);
      break;
    case lr_schedule_kind::polynomial: {
      const double end = kwargs.number("lr_end", 0.0).value_or(1e-7);
      if (!(learning_rate > end)) {
        kwargs.fail("lr_end (" + shown(nlohmann::json(end)) + ") must be smaller than initial lr (" +
                    shown(nlohmann::json(learning_rate)) + "); give a smaller one");
      }
      shape.minimum = end / learning_rate;
      shape.power = kwargs.number("power", 0.0).value_or(1.0);
      break;
    }
    case lr_schedule_kind::inverse_sqrt:
      shape.timescale = kwargs.number("timescale", 1.0);
      break;
    case lr_schedule_kind::cosine_warmup_with_min_lr:
      shape.warmup_minimum = kwargs.number("warmup_lr_rate", 0.0);
      [[fallthrough]];
    case lr_schedule_kind::cosine_with_min_lr:
      shape.minimum = detail::least_share(kwargs, learning_rate);
      shape.num_cycles = kwargs.number("num_cycles", 0.0);
      break;
    case lr_schedule_kind::warmup_stable_decay: {
      const std::optional<index_t> decay = kwargs.steps("num_decay_steps");
      if (!decay) kwargs.fail("warmup_stable_decay needs num_decay_steps");
      shape.decay_steps = *decay;
      shape.stable_steps = kwargs.steps("num_stable_steps")
                               .value_or(std::max<index_t>(0, total_steps - schedule.warmup_steps - *decay));
      shape.minimum = kwargs.number("min_lr_ratio", 0.0).value_or(0.0);
      shape.num_cycles = kwargs.number("num_cycles", 0.0);
      shape.warmup_curve = kwargs.curve("warmup_type", lr_curve::linear);
      shape.decay_curve = kwargs.curve("decay_type", lr_curve::cosine);
      break;
    }
    case lr_schedule_kind::linear:
    case lr_schedule_kind::constant:
    case lr_schedule_kind::constant_with_warmup:
      break;
  }
  kwargs.finish();
  return schedule;
}

}  // namespace t5zero
