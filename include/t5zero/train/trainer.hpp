// The training step: micro-batches in, updated weights out. All memory is planned; after construction nothing
// is allocated.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <variant>
#include <vector>

#include <t5zero/core/error.hpp>
#include <t5zero/core/integers.hpp>
#include <t5zero/model/activations.hpp>
#include <t5zero/model/batch_view.hpp>
#include <t5zero/model/check_batch.hpp>
#include <t5zero/model/dropout_sites.hpp>
#include <t5zero/model/generate.hpp>
#include <t5zero/model/t5.hpp>
#include <t5zero/optim/adafactor.hpp>
#include <t5zero/optim/adamw.hpp>
#include <t5zero/optim/gradient_clip.hpp>
#include <t5zero/optim/loss_scaler.hpp>
#include <t5zero/plan/memory_plan.hpp>
#include <t5zero/plan/optimizer_state.hpp>
#include <t5zero/tensor/arena.hpp>
#include <t5zero/zero/sharding.hpp>

namespace t5zero {

/// AdamW, or T5's own Adafactor.
using optimizer_options = std::variant<adamw_options, adafactor_options>;

/// Run-time options of a trainer; the defaults are transformers'.
struct trainer_options {
  optimizer_options optimizer;
  double max_grad_norm = 1.0;  ///< 0: no clipping
  loss_scaler_options scaler;  ///< fp16 only
  float label_smoothing = 0.0F;
  float dropout_rate = 0.1F;
  std::uint32_t seed = 42;            ///< of dropout
  index_t gradient_accumulation = 1;  ///< micro-batches of an update
  int threads = 1;
  bool recomputes_activations = false;  ///< gradient checkpointing: the same bits, less memory, more time
  bool trains = true;  ///< false: no gradients, no optimizer state; only `evaluate` may be called
  batch_shape evaluation_batch{.batch = 0};  ///< bounds evaluation's batches; batch 0: as in training
  generation_shape generation;  ///< bounds `generate`, for sentences of an evaluation batch; default: none
};

/// What one update did.
struct update_result {
  double grad_norm = 0.0;  ///< global L2 norm before clipping, unscaled
  bool skipped = false;    ///< a 16-bit gradient was not finite: weights, moments and schedule stay
};

/// What a trainer counts; with its tensors (for_each_state) and the options, all that the next updates depend
/// on.
struct trainer_counters {
  index_t applied_updates = 0;
  std::uint32_t micro_step = 0;  ///< dropout's
  loss_scaler_state scaler;
};

/// Trains one model of type Run on one rank.
template <class Run>
class trainer {
 public:
  using element_type = typename Run::param_type;
  using backend = typename Run::backend;
  using operations = typename Run::operations;
  using sharding = zero::sharding<typename Run::zero, typename Run::communicator, element_type>;

  /// Allocates everything. `shape`: Run::model's, with the vocabulary and the head of this checkpoint.
  /// `largest`: bounds every batch that will come. Weights are zero until `initialize` or `load`. Throws
  /// capacity_error if the memory is not to be had, contract_error if an argument makes no sense.
  trainer(const model_shape& shape, const batch_shape& largest, const trainer_options& options)
      : shape_(checked(shape)),
        options_(checked(options)),
        largest_(largest),
        largest_evaluation_(options.evaluation_batch.batch > 0 ? options.evaluation_batch : largest),
        plan_(Run::plan(shape_, largest_, plan_options_of(options_))),
        arena_(plan_.total_bytes),
        device_(options.threads),
        execution_(device_.execution(arena_.template at<std::byte>(plan_.workspace), plan_.workspace.bytes)),
        model_(shape_),
        source_(arena_.template at<element_type>(plan_.weights)),
        sink_(shape_, arena_.template at<std::byte>(plan_.gradients), plan_.gradient_type,
              arena_.template at<float>(plan_.gradient_sums),
              [this](const float* from, void* to, dtype type, index_t count) {
                operations::convert(execution_, from, to, type, count);
              }),
        activations_(arena_.data(), plan_.training, shape_),
        evaluation_activations_(arena_.data(), plan_.evaluation, shape_),
        scaler_(options.scaler),
        table_(parameter_table(shape_)) {
    if (options_.generation.generates()) {
      generator_.emplace(arena_.data(), plan_.generation, options_.generation, largest_evaluation_, shape_);
    }
    find_decay_ranges();
  }
  trainer(const trainer&) = delete;
  trainer& operator=(const trainer&) = delete;

  /// How a trainer with these options plans its memory.
  [[nodiscard]] static plan_options plan_options_of(const trainer_options& options) {
    return {.threads = options.threads,
            .accumulates_micro_batches = options.gradient_accumulation > 1,
            .trains = options.trains,
            .optimizer = kind_of(options.optimizer),
            .recomputes_activations = options.recomputes_activations,
            .evaluation = options.evaluation_batch,
            .generation = options.generation};
  }

  [[nodiscard]] static optimizer_kind kind_of(const optimizer_options& options) {
    return std::holds_alternative<adamw_options>(options) ? optimizer_kind::adamw : optimizer_kind::adafactor;
  }

  [[nodiscard]] const model_shape& shape() const { return shape_; }
  [[nodiscard]] optimizer_kind optimizer() const { return kind_of(options_.optimizer); }
  [[nodiscard]] const memory_plan& plan() const { return plan_; }
  [[nodiscard]] index_t allocated_bytes() const { return arena_.bytes(); }
  [[nodiscard]] const std::vector<parameter_row>& parameters() const { return table_; }
  [[nodiscard]] double loss_scale() const { return Run::precision::needs_loss_scale ? scaler_.scale() : 1.0; }
  [[nodiscard]] index_t applied_updates() const { return applied_updates_; }

  /// T5's random initialisation, a function of the seed and each element's place alone.
  void initialize(std::uint32_t seed, double initializer_factor = 1.0) {
    load([&](const parameter_row& row, float* to) {
      operations::initialize(execution_, {to, row.count()}, row.init_std, initializer_factor, seed,
                             static_cast<std::uint64_t>(row.offset));
    });
  }

  /// Calls fill(row, float* values [row.count()]) for each tensor: the way weights come in.
  template <class Fill>
  void load(const Fill& fill) {
    std::vector<float> narrow;
    for (const parameter_row& row : table_) {
      if (float* wide = wide_weights()) {
        fill(row, wide + row.offset);
      } else {
        narrow.resize(static_cast<std::size_t>(row.count()));
        fill(row, narrow.data());
        element_type* to = weights() + row.offset;
        for (index_t i = 0; i < row.count(); ++i)
          to[i] = static_cast<element_type>(narrow[static_cast<std::size_t>(i)]);
      }
    }
    if (wide_weights() != nullptr) publish_weights();
  }

  /// Calls use(kind, row, float* values, count) for each fp32 array of the state: "weights" (masters where
  /// there are any); under AdamW "first_moments", "second_moments"; under Adafactor "second_moments" of a
  /// vector, "second_moment_rows" and "second_moment_columns" of a matrix. What `use` writes is the state;
  /// call `restored` after it. Between two updates only.
  template <class Use>
  void for_each_state(const Use& use) const {
    require(options_.trains && micro_batches_ == 0, "trainer: its state is whole between two updates only");
    for (const parameter_row& row : table_) use("weights", row, wide_weights() + row.offset, row.count());
    if (optimizer() == optimizer_kind::adamw) {
      for (const parameter_row& row : table_) {
        use("first_moments", row, first_moments() + row.offset, row.count());
        use("second_moments", row, second_moments() + row.offset, row.count());
      }
      return;
    }
    for_each_factored_moment(shape_, [&](const parameter_row& row, factored_moment at) {
      if (!row.is_vector()) use("second_moment_rows", row, second_moments() + at.rows, row.rows);
      use(row.is_vector() ? "second_moments" : "second_moment_columns", row, second_moments() + at.columns,
          row.cols);
    });
  }
  [[nodiscard]] trainer_counters counters() const { return {applied_updates_, micro_step_, scaler_.state()}; }
  /// After for_each_state has written the tensors: goes on from there.
  void restored(const trainer_counters& counters) {
    applied_updates_ = counters.applied_updates;
    micro_step_ = counters.micro_step;
    scaler_.restore(counters.scaler);
    publish_weights();
  }

  /// The fp32 values of a tensor: masters where there are any. to: [row.count()].
  void read(const parameter_row& row, float* to) const {
    if (const float* wide = wide_weights()) {
      std::copy_n(wide + row.offset, row.count(), to);
    } else {
      const element_type* from = weights() + row.offset;
      for (index_t i = 0; i < row.count(); ++i) to[i] = static_cast<float>(from[i]);
    }
  }
  /// The stored (perhaps 16-bit) values of a tensor.
  [[nodiscard]] const element_type* stored(const parameter_row& row) const { return weights() + row.offset; }
  /// The gradient of a tensor after the last micro-batches, unscaled. to: [row.count()].
  void read_gradient(const parameter_row& row, float* to) const {
    require(options_.trains, "trainer: built for evaluation only (trainer_options::trains is false)");
    const auto factor = static_cast<float>(1.0 / gradient_scale_);
    visit(plan_.gradient_type, [&](auto zero) {
      using stored_type = decltype(zero);
      const auto* from = arena_.template at<const stored_type>(plan_.gradients) + row.offset;
      for (index_t i = 0; i < row.count(); ++i) to[i] = static_cast<float>(from[i]) * factor;
    });
  }

  /// Forward and backward of one micro-batch; returns its loss (mean over its labels that count).
  /// `loss_divisor`: the micro-batches whose losses are averaged, usually options.gradient_accumulation.
  double train_micro_batch(const batch_view& batch, index_t loss_divisor) {
    require(options_.trains, "trainer: built for evaluation only (trainer_options::trains is false)");
    require(micro_batches_ < options_.gradient_accumulation,
            "trainer: more micro-batches than trainer_options::gradient_accumulation; call update()");
    require(loss_divisor > 0, "trainer: the loss is divided by the number of micro-batches, at least 1");
    const index_t labels = check_batch(batch, largest_, shape_.vocab_size);
    sink_.begin_micro_batch(micro_batches_ > 0);
    gradient_scale_ = loss_scale();
    nn::loss_options loss;
    loss.label_smoothing = options_.label_smoothing;
    loss.gradient_scale =
        labels == 0 ? 0.0 : gradient_scale_ / static_cast<double>(labels) / static_cast<double>(loss_divisor);
    const dropout_state dropout{options_.dropout_rate, options_.seed, &micro_step_};
    const loss_sums sums =
        model_.forward_backward(execution_, source_, sink_, batch, dropout, loss, activations_);
    ++micro_batches_;
    ++micro_step_;
    return sums.mean(options_.label_smoothing, shape_.vocab_size);
  }
  double train_micro_batch(const batch_view& batch) {
    return train_micro_batch(batch, options_.gradient_accumulation);
  }

  /// Clips, steps the optimizer, publishes the weights; the next micro-batch starts new gradients. Throws
  /// numeric_error if fp16's loss scale cannot be lowered any further.
  update_result update(double learning_rate) {
    require(micro_batches_ > 0, "trainer: update() needs at least one micro-batch");
    micro_batches_ = 0;
    const double scale = gradient_scale_;
    const double squares =
        operations::sum_of_squares(execution_, gradients(), plan_.gradient_type, parameter_count(shape_));
    update_result result;
    result.grad_norm = std::sqrt(squares) / scale;
    result.skipped = Run::precision::has_master_weights && !std::isfinite(squares);
    if constexpr (Run::precision::needs_loss_scale) scaler_.update(result.skipped);
    if (result.skipped) return result;
    ++applied_updates_;
    const double multiplier = clip_factor(result.grad_norm, options_.max_grad_norm) / scale;
    std::visit([&](const auto& options) { step(options, learning_rate, multiplier); }, options_.optimizer);
    return result;
  }

  /// Loss of a batch without dropout or gradients (mean over its labels that count).
  double evaluate(const batch_view& batch) {
    check_batch(batch, largest_evaluation_, shape_.vocab_size);
    nn::loss_options loss;
    loss.label_smoothing = options_.label_smoothing;
    return model_.forward(execution_, source_, batch, dropout_state{}, loss, evaluation_activations_)
        .mean(options_.label_smoothing, shape_.vocab_size);
  }

  /// Generates for the sources of a batch; its targets are not read. The result is read from the generator
  /// returned, until the next call. Throws contract_error if trainer_options::generation does not allow it.
  const model::generator<operations, element_type>& generate(const batch_view& batch,
                                                             const generation_options& options) {
    require(generator_.has_value(), "trainer: generate() needs trainer_options::generation");
    check_sources(batch, largest_evaluation_, shape_.vocab_size);
    generator_->generate(execution_, model_, source_, batch, options);
    return *generator_;
  }

  /// After `evaluate`: the encoder's output [source tokens, d_model].
  [[nodiscard]] matrix_view<const element_type> encoder_output(index_t tokens) const {
    return evaluation_activations_.encoder_output(tokens);
  }
  /// After `evaluate`: calls use(first target token, logits [chunk, vocab_size]).
  template <class Use>
  void logits(index_t target_tokens, const Use& use) {
    model_.logits(execution_, source_, target_tokens, evaluation_activations_, use);
  }

 private:
  struct decay_range {
    parameter_range range;
    bool decays = true;
  };

  [[nodiscard]] element_type* weights() const { return arena_.template at<element_type>(plan_.weights); }
  /// The fp32 weights that the optimizer steps: masters, or the weights themselves; null in a 16-bit
  /// evaluation.
  [[nodiscard]] float* wide_weights() const {
    if constexpr (Run::precision::has_master_weights)
      return arena_.template at<float>(plan_.master_weights);
    else
      return weights();
  }
  [[nodiscard]] float* first_moments() const { return arena_.template at<float>(plan_.first_moments); }
  [[nodiscard]] float* second_moments() const { return arena_.template at<float>(plan_.second_moments); }
  [[nodiscard]] const std::byte* gradients() const { return arena_.template at<std::byte>(plan_.gradients); }

  /// 16-bit copies that an optimizer writes back, from `row` elements on; null where weights are fp32.
  [[nodiscard]] element_type* published(index_t first) const {
    return Run::precision::has_master_weights ? weights() + first : nullptr;
  }
  [[nodiscard]] const std::byte* gradients(index_t first) const {
    return gradients() + first * byte_size(plan_.gradient_type);
  }

  void step(const adamw_options& options, double learning_rate, double grad_multiplier) {
    adamw_params params = adamw_update(options, learning_rate, applied_updates_, grad_multiplier);
    const float decay = params.weight_decay;
    for (const decay_range& range : decay_ranges_) {
      const auto [first, count] = range.range;
      params.weight_decay = range.decays ? decay : 0.0F;
      operations::adamw(execution_, params, wide_weights() + first, first_moments() + first,
                        second_moments() + first, gradients(first), plan_.gradient_type, published(first),
                        count);
    }
  }
  void step(const adafactor_options& options, double learning_rate, double grad_multiplier) {
    adafactor_params params = adafactor_update(options, learning_rate, applied_updates_, grad_multiplier);
    const float decay = params.weight_decay;
    for_each_factored_moment(shape_, [&](const parameter_row& row, factored_moment at) {
      params.weight_decay = decays(row, options.decay_scope) ? decay : 0.0F;
      operations::adafactor(execution_, params, row.is_vector(), row.rows, row.cols,
                            wide_weights() + row.offset, second_moments() + at.rows,
                            second_moments() + at.columns, gradients(row.offset), plan_.gradient_type,
                            published(row.offset));
    });
  }

  void publish_weights() {
    if constexpr (Run::precision::has_master_weights) {
      operations::convert(execution_, wide_weights(), weights(), dtype_of<element_type>,
                          parameter_count(shape_));
    }
  }

  /// For AdamW: neighbours that decay alike are one range; fewer, longer passes.
  void find_decay_ranges() {
    const auto* options = std::get_if<adamw_options>(&options_.optimizer);
    if (options == nullptr) return;
    for (const parameter_row& row : table_) {
      const bool decaying = decays(row, options->decay_scope);
      if (!decay_ranges_.empty() &&
          (decay_ranges_.back().decays == decaying || options->weight_decay == 0.0)) {
        decay_ranges_.back().range.count += row.count();
      } else {
        decay_ranges_.push_back({row.range(), decaying});
      }
    }
  }

  static const model_shape& checked(const model_shape& shape) {
    require(Run::model::shape.same_dimensions(shape) && shape.vocab_size > 0,
            "trainer: the shape is not that of Run::model (vocabulary, ties and output scale may differ)");
    return shape;
  }
  static const trainer_options& checked(const trainer_options& options) {
    require(options.threads >= 1 && options.gradient_accumulation >= 1,
            "trainer_options: threads and gradient_accumulation are at least 1");
    require(options.dropout_rate >= 0.0F && options.dropout_rate < 1.0F && options.label_smoothing >= 0.0F &&
                options.label_smoothing < 1.0F,
            "trainer_options: dropout_rate and label_smoothing are in [0, 1)");
    return options;
  }

  model_shape shape_;
  trainer_options options_;
  batch_shape largest_;
  batch_shape largest_evaluation_;
  memory_plan plan_;
  arena<typename backend::memory> arena_;
  typename backend::device device_;
  typename backend::execution execution_;
  model::t5<typename Run::sublayers, element_type> model_;
  typename sharding::parameter_source source_;
  typename sharding::gradient_sink sink_;
  model::activations<element_type> activations_;
  model::activations<element_type> evaluation_activations_;
  std::optional<model::generator<operations, element_type>> generator_;
  loss_scaler scaler_;
  std::vector<parameter_row> table_;
  std::vector<decay_range> decay_ranges_;
  double gradient_scale_ = 1.0;  ///< loss scale that the gradients at hand carry
  index_t micro_batches_ = 0;    ///< of the update at hand
  std::uint32_t micro_step_ = 0;
  index_t applied_updates_ = 0;
};

}  // namespace t5zero
