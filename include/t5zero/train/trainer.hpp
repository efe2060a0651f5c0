// The training step: micro-batches in, updated weights out. All memory is planned; after construction nothing
// is allocated.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <iostream>
#include <optional>
#include <span>
#include <utility>
#include <variant>
#include <vector>

#include <t5zero/core/error.hpp>
#include <t5zero/core/integers.hpp>
#include <t5zero/model/activations.hpp>
#include <t5zero/model/check_batch.hpp>
#include <t5zero/model/dropout_sites.hpp>
#include <t5zero/model/generate.hpp>
#include <t5zero/model/t5.hpp>
#include <t5zero/optim/adafactor.hpp>
#include <t5zero/optim/adamw.hpp>
#include <t5zero/optim/loss_scaler.hpp>
#include <t5zero/optim/update_step.hpp>
#include <t5zero/plan/memory_plan.hpp>
#include <t5zero/plan/optimizer_state.hpp>
#include <t5zero/tensor/batch_view.hpp>
#include <t5zero/train/stepped_source.hpp>
#include <t5zero/train/trainer_memory.hpp>
#include <t5zero/train/trainer_options.hpp>
#include <t5zero/zero/sharding.hpp>

namespace t5zero {

/// Trains one model of type Run on one rank.
template <class Run>
class trainer {
 public:
  using element_type = typename Run::param_type;
  using backend = typename Run::backend;
  using operations = typename Run::operations;
  using generator = model::generator<operations, element_type, backend::search_steps>;
  using sharding = zero::sharding<typename Run::zero, typename Run::communicator, element_type>;
  using execution = typename backend::execution;

  /// Allocates everything. `shape`: Run::model's, with the vocabulary and the head of this checkpoint.
  /// `largest`: bounds every batch that will come. Weights are zero until `initialize` or `load`. Throws
  /// capacity_error if the memory is not to be had, contract_error if an argument makes no sense.
  trainer(const model_shape& shape, const batch_shape& largest, const trainer_options& options)
      : shape_(checked(shape)),
        options_(checked(options)),
        largest_(largest),
        largest_evaluation_(options.evaluation_batch.batch > 0 ? options.evaluation_batch : largest),
        plan_(Run::plan(shape_, largest_, plan_options_of(options_))),
        device_({.threads = options.threads,
                 .allows_tf32 = Run::precision::allows_tf32,
                 .overlaps_launches = options.overlaps_launches,
                 .graph_bytes = plan_.graph_bytes,
                 .matmul_workspace_bytes = Run::backend::matmul_workspace_bytes(shape_)}),
        memory_(plan_),
        staging_(memory_.template at<std::byte>(plan_.batch),
                 memory_.template on_host_at<std::byte>(plan_.host_batches),
                 largest_.covering(largest_evaluation_)),
        model_(shape_),
        source_(typename sharding::parameter_source(memory_.weights()), parameter_count(shape_),
                backend::least_optimizer_piece,
                [this](execution& on, parameter_range range) { step_adamw(on, range); }),
        sink_(
            shape_, memory_.template at<std::byte>(plan_.gradients), plan_.gradient_type,
            memory_.template at<float>(plan_.gradient_sums),
            [this](const float* from, void* to, dtype type, index_t count) {
              operations::convert(device_.main(), from, to, type, count);
            },
            [this](float* sums, index_t count) {
              operations::fill_zero(device_.main(), matrix_view<float>(sums, 1, count));
            },
            [this](parameter_range range) {
              if (takes_norm_in_backward()) add_squares(range);
            }),
        activations_(memory_.data(), plan_.training, shape_),
        evaluation_activations_(memory_.data(), plan_.evaluation, shape_),
        settings_(settings_of(options_)),
        table_(parameter_table(shape_)),
        result_losses_(static_cast<std::size_t>(options_.gradient_accumulation)) {
    device_.set_workspace(memory_.template at<std::byte>(plan_.workspace), plan_.workspace.bytes);
    if (options_.generation.generates()) {
      generator_.emplace(memory_.data(), memory_.template on_host_at<std::byte>(plan_.host_search),
                         plan_.generation, options_.generation, largest_evaluation_.batch, shape_);
    }
    step_state start;
    start.scaler = initial_state(options_.scaler);
    write_step_state(start);
    find_decay_boundaries();
  }
  ~trainer() {
    try {
      device_.wait();  // what is submitted uses the arenas
    } catch (const std::exception& e) {
      std::cerr << "t5zero: while a trainer ends: " << e.what() << "\n";
    }
  }
  trainer(const trainer&) = delete;
  trainer& operator=(const trainer&) = delete;

  /// How a trainer with these options plans its memory.
  [[nodiscard]] static plan_options plan_options_of(const trainer_options& options) {
    return {.threads = options.threads,
            .micro_batches = options.gradient_accumulation,
            .trains = options.trains,
            .optimizer = kind_of(options.optimizer),
            .recomputes_activations = options.recomputes_activations,
            .evaluation = options.evaluation_batch,
            .generation = options.generation,
            .uses_graphs = options.uses_graphs};
  }

  [[nodiscard]] static optimizer_kind kind_of(const optimizer_options& options) {
    return std::holds_alternative<adamw_options>(options) ? optimizer_kind::adamw : optimizer_kind::adafactor;
  }

  [[nodiscard]] const model_shape& shape() const { return shape_; }
  [[nodiscard]] optimizer_kind optimizer() const { return kind_of(options_.optimizer); }
  [[nodiscard]] const memory_plan& plan() const { return plan_; }
  [[nodiscard]] index_t allocated_bytes() const { return memory_.bytes(); }
  [[nodiscard]] const typename backend::device& device() const { return device_; }
  [[nodiscard]] const std::vector<parameter_row>& parameters() const { return table_; }
  /// After the last update whose result was read.
  [[nodiscard]] double loss_scale() const { return settings_.scales_loss ? known_scale_ : 1.0; }
  [[nodiscard]] index_t applied_updates() const { return known_applied_; }

  /// T5's random initialisation, a function of the seed and each element's place alone.
  void initialize(std::uint32_t seed, double initializer_factor = 1.0) {
    settle();
    require(memory_.wide_weights() != nullptr,
            "trainer: a 16-bit evaluation has no weights to initialise; load some");
    for (const parameter_row& row : table_) {
      operations::initialize(device_.main(), {memory_.wide_weights() + row.offset, row.count()}, row.init_std,
                             initializer_factor, seed, static_cast<std::uint64_t>(row.offset));
    }
    publish_weights();
  }

  /// Calls fill(row, float* values [row.count()]) for each tensor: the way weights come in.
  template <class Fill>
  void load(const Fill& fill) {
    settle();
    for (const parameter_row& row : table_) {
      if (float* wide = memory_.wide_weights()) {
        write_from_host(wide + row.offset, row.count(), [&](float* values) { fill(row, values); });
      } else {
        write_from_host(memory_.weights() + row.offset, row.count(), [&](element_type* values) {
          std::vector<float> wide_values(static_cast<std::size_t>(row.count()));
          fill(row, wide_values.data());
          std::transform(wide_values.begin(), wide_values.end(), values,
                         [](float value) { return static_cast<element_type>(value); });
        });
      }
    }
    if (memory_.wide_weights() != nullptr) publish_weights();
  }

  /// Calls use(kind, row, float* values, count) for each fp32 array of the state: "weights" (masters where
  /// there are any); under AdamW "first_moments", "second_moments"; under Adafactor "second_moments" of a
  /// vector, "second_moment_rows" and "second_moment_columns" of a matrix. `values` is the backend's memory:
  /// read_on_host and write_from_host reach it. Call `restored` after writing. Between two updates only.
  template <class Use>
  void for_each_state(const Use& use) const {
    require(options_.trains && submitted_micro_batches_ == 0,
            "trainer: its state is whole between two updates only");
    settle();
    for (const parameter_row& row : table_)
      use("weights", row, memory_.wide_weights() + row.offset, row.count());
    if (optimizer() == optimizer_kind::adamw) {
      for (const parameter_row& row : table_) {
        use("first_moments", row, memory_.first_moments() + row.offset, row.count());
        use("second_moments", row, memory_.second_moments() + row.offset, row.count());
      }
      return;
    }
    for_each_factored_moment(shape_, [&](const parameter_row& row, factored_moment at) {
      if (!row.is_vector()) use("second_moment_rows", row, memory_.second_moments() + at.rows, row.rows);
      use(row.is_vector() ? "second_moments" : "second_moment_columns", row,
          memory_.second_moments() + at.columns, row.cols);
    });
  }
  /// Waits for what was submitted, then calls use(const U* values) with `count` elements of the backend's
  /// memory as the program can read them.
  template <class U, class Use>
  void read_on_host(const U* from, index_t count, const Use& use) const {
    device_.wait();
    if constexpr (backend::memory::is_host) {
      use(from);
    } else {
      std::vector<U> copy(static_cast<std::size_t>(count));
      backend::memory::to_host(from, copy.data(), count * static_cast<index_t>(sizeof(U)));
      use(static_cast<const U*>(copy.data()));
    }
  }
  /// The other way: fill(U* values) writes `count` elements.
  template <class U, class Fill>
  void write_from_host(U* to, index_t count, const Fill& fill) const {
    device_.wait();
    if constexpr (backend::memory::is_host) {
      fill(to);
    } else {
      std::vector<U> values(static_cast<std::size_t>(count));
      fill(values.data());
      backend::memory::from_host(values.data(), to, count * static_cast<index_t>(sizeof(U)));
    }
  }
  [[nodiscard]] trainer_counters counters() const {
    const step_state state = read_step_state();
    return {state.applied_updates, state.micro_step, state.scaler};
  }
  /// After for_each_state has written the tensors: goes on from there.
  void restored(const trainer_counters& counters) {
    step_state state;
    state.applied_updates = known_applied_ = counters.applied_updates;
    state.micro_step = counters.micro_step;
    state.scaler = counters.scaler;
    known_scale_ = counters.scaler.scale;
    write_step_state(state);
    publish_weights();
  }

  /// The fp32 values of a tensor: masters where there are any. to: [row.count()].
  void read(const parameter_row& row, float* to) const {
    settle();
    const auto copy = [&](const auto* from) {
      std::transform(from, from + row.count(), to, [](auto value) { return static_cast<float>(value); });
    };
    if (const float* wide = memory_.wide_weights())
      read_on_host(wide + row.offset, row.count(), copy);
    else
      read_on_host(memory_.weights() + row.offset, row.count(), copy);
  }
  /// Calls use(const element_type*) with the stored (perhaps 16-bit) values of a tensor.
  template <class Use>
  void read_stored(const parameter_row& row, const Use& use) const {
    settle();
    read_on_host(static_cast<const element_type*>(memory_.weights()) + row.offset, row.count(), use);
  }
  /// The gradient of a tensor after the last micro-batches, unscaled. to: [row.count()].
  void read_gradient(const parameter_row& row, float* to) const {
    require(options_.trains, "trainer: built for evaluation only (trainer_options::trains is false)");
    const auto factor = static_cast<float>(1.0 / read_step_state().loss_scale);
    visit(plan_.gradient_type, [&](auto zero) {
      using stored_type = decltype(zero);
      read_on_host(memory_.template at<const stored_type>(plan_.gradients) + row.offset, row.count(),
                   [&](const stored_type* from) {
                     for (index_t i = 0; i < row.count(); ++i) to[i] = static_cast<float>(from[i]) * factor;
                   });
    });
  }

  /// Submits forward and backward of one micro-batch. `loss_divisor`: the micro-batches whose losses are
  /// averaged, usually options.gradient_accumulation. The batch may change when the call returns.
  void submit_micro_batch(const batch_view& batch, index_t loss_divisor) {
    require(options_.trains, "trainer: built for evaluation only (trainer_options::trains is false)");
    require(submitted_micro_batches_ < options_.gradient_accumulation,
            "trainer: more micro-batches than trainer_options::gradient_accumulation; call update()");
    require(loss_divisor > 0, "trainer: the loss is divided by the number of micro-batches, at least 1");
    const index_t labels = check_batch(batch, largest_, shape_.vocab_size);
    const batch_view staged = staging_.stage(device_.main(), batch);
    operations::begin_micro_batch(device_.main(), settings_, memory_.state(), labels, loss_divisor);
    const bool accumulates = submitted_micro_batches_ > 0;
    device_.replay(accumulates ? step_kind::train_accumulating : step_kind::train, staged, [&] {
      if (!accumulates && leaves_steps()) begin_step(staged);
      square_parts_ = squared_elements_ = 0;
      unsquared_ = {};
      sink_.begin_micro_batch(accumulates);
      const dropout_state dropout{options_.dropout_rate, options_.seed, &memory_.state()->micro_step};
      model_.forward_backward(device_.main(), source_, sink_, staged, dropout, loss_options_of(),
                              activations_);
      require(source_.is_stepped(), "trainer: the forward left weights unread");
      if (takes_norm_in_backward()) sum_squares();
      operations::finish_micro_batch(device_.main(), memory_.state(), memory_.losses());
    });
    step_is_due_ = false;
    ++submitted_micro_batches_;
  }
  /// The same, and waits for its loss (mean over its labels that count).
  double train_micro_batch(const batch_view& batch, index_t loss_divisor) {
    submit_micro_batch(batch, loss_divisor);
    double loss = 0.0;
    read_on_host(memory_.losses() + submitted_micro_batches_ - 1, 1,
                 [&](const loss_sums* sums) { loss = mean(*sums); });
    return loss;
  }
  double train_micro_batch(const batch_view& batch) {
    return train_micro_batch(batch, options_.gradient_accumulation);
  }

  /// Submits the update: clips, steps the optimizer, publishes the weights; the next micro-batch starts new
  /// gradients. Where the backend overlaps them, AdamW's step is left to the next forward, or to what reads
  /// the weights before. At most updates_in_flight results may be outstanding.
  void submit_update(const learning_rate_function& learning_rate) {
    require(submitted_micro_batches_ > 0, "trainer: an update needs at least one micro-batch");
    require(submitted_updates_ - read_updates_ < updates_in_flight,
            "trainer: as many updates as may be are in flight; read a result first");
    update_rates rates;
    rates.first_applied = known_applied_;
    for (index_t i = 0; i <= submitted_updates_ - read_updates_; ++i)
      rates.rates[i] = learning_rate(known_applied_ + i);
    execution& main = device_.main();
    if (!takes_norm_in_backward()) {
      square_parts_ = squared_elements_ = 0;
      submit_squares(main, {0, parameter_count(shape_)});
      sum_squares();
    }
    const index_t slot = submitted_updates_ % updates_in_flight;
    operations::finish_update(main, settings_, rates, memory_.state(), memory_.losses(),
                              submitted_micro_batches_, memory_.outcome(slot), memory_.outcome_losses(slot));
    device_.mark(slot);
    if (settings_.optimizer == optimizer_kind::adafactor)
      step_adafactor();
    else if (leaves_steps())
      step_is_due_ = true;
    else
      step_adamw(main, {0, parameter_count(shape_)});
    in_flight_[static_cast<std::size_t>(slot)] = {submitted_micro_batches_, rates};
    submitted_micro_batches_ = 0;
    ++submitted_updates_;
  }
  /// Waits for the oldest update whose result was not read. Throws numeric_error if fp16's loss scale cannot
  /// be lowered any further.
  update_result next_result() {
    require(read_updates_ < submitted_updates_, "trainer: no update is in flight");
    const index_t slot = read_updates_ % updates_in_flight;
    device_.wait_for(slot);
    ++read_updates_;
    const update_outcome& done = *memory_.outcome(slot);
    const auto& [micro_batches, rates] = in_flight_[static_cast<std::size_t>(slot)];
    if (done.scale_exhausted) throw_scale_exhausted();
    update_result result;
    result.grad_norm = done.grad_norm;
    result.loss_scale = known_scale_ = done.loss_scale;
    result.learning_rate = rates.rates[known_applied_ - rates.first_applied];
    result.skipped = done.skipped;
    result.applied_updates = known_applied_ = done.applied_updates;
    for (index_t i = 0; i < micro_batches; ++i)
      result_losses_[static_cast<std::size_t>(i)] = mean(memory_.outcome_losses(slot)[i]);
    result.losses = std::span(result_losses_).first(static_cast<std::size_t>(micro_batches));
    return result;
  }
  /// Updates submitted whose result was not read.
  [[nodiscard]] index_t outstanding() const { return submitted_updates_ - read_updates_; }
  static constexpr index_t updates_in_flight = backend::updates_in_flight;
  static_assert(updates_in_flight >= 1 && updates_in_flight <= max_updates_in_flight);

  /// Submits an update and waits for what it did.
  update_result update(double learning_rate) {
    submit_update([&](index_t) { return learning_rate; });
    return next_result();
  }

  /// Loss of a batch without dropout or gradients (mean over its labels that count).
  double evaluate(const batch_view& batch) {
    check_batch(batch, largest_evaluation_, shape_.vocab_size);
    settle();
    const batch_view staged = staging_.stage(device_.main(), batch);
    device_.replay(step_kind::evaluate, staged, [&] {
      model_.forward(device_.main(), source_, staged, dropout_state{}, loss_options_of(),
                     evaluation_activations_);
    });
    return mean(read_step_state().sums);
  }

  /// Generates for the sources of a batch; its targets are not read. The result is read from the generator
  /// returned, until the next call. Throws contract_error if trainer_options::generation does not allow it.
  const generator& generate(const batch_view& batch, const generation_options& options) {
    require(generator_.has_value(), "trainer: generate() needs trainer_options::generation");
    check_sources(batch, largest_evaluation_, shape_.vocab_size);
    settle();
    generator_->generate(device_, model_, source_, batch, staging_.stage(device_.main(), sources_of(batch)),
                         options);
    return *generator_;
  }

  /// After `evaluate`: the encoder's output [source tokens, d_model], row-major.
  [[nodiscard]] std::vector<element_type> encoder_output(index_t tokens) const {
    std::vector<element_type> result;
    read_on_host(static_cast<const element_type*>(evaluation_activations_.encoder_output(tokens).data),
                 tokens * shape_.d_model,
                 [&](const element_type* from) { result.assign(from, from + tokens * shape_.d_model); });
    return result;
  }
  /// After `evaluate`: its logits [target tokens, vocab_size], row-major.
  [[nodiscard]] std::vector<float> logits(index_t target_tokens) {
    std::vector<float> result;
    model_.logits(device_.main(), source_, target_tokens, evaluation_activations_,
                  [&](index_t, matrix_view<float> chunk) {
                    read_on_host(static_cast<const float*>(chunk.data), chunk.size(), [&](const float* from) {
                      result.insert(result.end(), from, from + chunk.size());
                    });
                  });
    return result;
  }

 private:
  /// A batch without its targets.
  static batch_view sources_of(batch_view batch) {
    batch.target = {};
    batch.decoder_ids = batch.labels = nullptr;
    return batch;
  }

  struct submitted_update {
    index_t micro_batches = 0;
    update_rates rates;
  };

  void step_adamw(execution& on, parameter_range range) const {
    operations::adamw(on, &memory_.state()->adamw, decay_boundaries_, memory_.wide_weights(),
                      memory_.first_moments(), memory_.second_moments(), memory_.gradients(),
                      plan_.gradient_type, memory_.published(0), range);
  }
  /// The forward that follows steps the weights before it reads them. Of 16-bit copies the rows of the
  /// embedding that it gathers are stepped apart, since the table, which the head reads, takes long.
  void begin_step(const batch_view& batch) {
    if constexpr (backend::overlaps_optimizer && Run::precision::has_master_weights) {
      const parameter_row embedding =
          find_parameter(shape_, parameter_stack::shared, 0, parameter_role::embedding);
      source_.begin_step(device_.main(), embedding.offset + embedding.count(), [&] {
        operations::adamw_rows(device_.main(), &memory_.state()->adamw, decay_boundaries_,
                               memory_.wide_weights(), memory_.first_moments(), memory_.second_moments(),
                               memory_.gradients(), plan_.gradient_type, memory_.weights(), embedding.range(),
                               embedding.cols, {batch.source_ids, batch.source.tokens},
                               {batch.decoder_ids, batch.target.tokens});
      });
    } else {
      source_.begin_step(device_.main(), 0, [] {});
    }
  }
  /// Is the gradients' norm taken piece by piece, beside the backward of the layers before?
  [[nodiscard]] bool takes_norm_in_backward() const {
    return backend::overlaps_optimizer && options_.gradient_accumulation == 1;
  }
  /// Backward completes the flat buffer from its end, but for the embedding and a head of its own. Sums
  /// squares as soon as that is worth a launch, since some of the gradients are then still in the cache.
  void add_squares(parameter_range range) {
    if (range.first + range.count != unsquared_.first) submit_unsquared();
    unsquared_ = {range.first, range.count + unsquared_.count};
    if (unsquared_.count * byte_size(plan_.gradient_type) >= backend::least_squares_bytes) submit_unsquared();
  }
  void submit_unsquared() {
    if (unsquared_.count > 0)
      submit_squares(device_.main().fork_behind_branches(branch_of::optimizer), unsquared_);
    unsquared_ = {};
  }
  void submit_squares(execution& on, parameter_range range) {
    const index_t parts = backend::square_parts(range.count);
    require((square_parts_ + parts) * 8 <= plan_.squares.bytes,
            "trainer: more sums of squares than were planned");
    operations::partial_squares(on, memory_.gradients(), plan_.gradient_type, range,
                                {memory_.squares() + square_parts_, parts});
    square_parts_ += parts;
    squared_elements_ += range.count;
  }
  void sum_squares() {
    submit_unsquared();
    require(squared_elements_ == parameter_count(shape_), "trainer: backward left gradients incomplete");
    device_.main().join(branch_of::optimizer);
    operations::sum_parts(device_.main(), {memory_.squares(), square_parts_}, &memory_.state()->squares);
  }
  /// Is AdamW's step left to the next forward?
  [[nodiscard]] bool leaves_steps() const {
    return backend::overlaps_optimizer && settings_.optimizer == optimizer_kind::adamw;
  }
  /// Before the weights are read by anything but a training's forward.
  void settle() const {
    require(source_.is_stepped(),
            "trainer: a step failed after its update had begun; its weights are lost, load a checkpoint");
    if (!std::exchange(step_is_due_, false)) return;
    step_adamw(device_.main(), {0, parameter_count(shape_)});
    operations::end_update(device_.main(), memory_.state());
  }
  void step_adafactor() {
    for_each_factored_moment(shape_, [&](const parameter_row& row, factored_moment at) {
      operations::adafactor(device_.main(), &memory_.state()->adafactor,
                            decays(row, settings_.adafactor.decay_scope), row.is_vector(), row.rows, row.cols,
                            memory_.wide_weights() + row.offset, memory_.second_moments() + at.rows,
                            memory_.second_moments() + at.columns, memory_.gradients(row.offset),
                            plan_.gradient_type, memory_.published(row.offset));
    });
  }

  [[nodiscard]] step_state read_step_state() const {
    step_state result;
    read_on_host(memory_.state(), 1, [&](const step_state* from) { result = *from; });
    return result;
  }
  void write_step_state(const step_state& from) {
    write_from_host(memory_.state(), 1, [&](step_state* to) { *to = from; });
  }
  [[nodiscard]] nn::loss_options loss_options_of() const {
    return {.label_smoothing = options_.label_smoothing,
            .gradient_scale = &memory_.state()->loss_multiplier,
            .sums = &memory_.state()->sums};
  }
  [[nodiscard]] double mean(const loss_sums& sums) const {
    return sums.mean(options_.label_smoothing, shape_.vocab_size);
  }
  static update_settings settings_of(const trainer_options& options) {
    update_settings settings;
    settings.optimizer = kind_of(options.optimizer);
    if (const auto* adamw = std::get_if<adamw_options>(&options.optimizer)) settings.adamw = *adamw;
    if (const auto* adafactor = std::get_if<adafactor_options>(&options.optimizer))
      settings.adafactor = *adafactor;
    settings.max_grad_norm = options.max_grad_norm;
    settings.scaler = options.scaler;
    settings.scales_loss = Run::precision::needs_loss_scale;
    settings.skips_overflow = Run::precision::has_master_weights;
    return settings;
  }

  void publish_weights() {
    if constexpr (Run::precision::has_master_weights) {
      operations::convert(device_.main(), memory_.wide_weights(), memory_.weights(), dtype_of<element_type>,
                          parameter_count(shape_));
    }
  }

  /// For AdamW: the elements at which weight decay begins and ends.
  void find_decay_boundaries() {
    if (!options_.trains || settings_.optimizer != optimizer_kind::adamw ||
        settings_.adamw.weight_decay == 0.0)
      return;
    std::vector<index_t> boundaries;
    for (const parameter_row& row : table_) {
      const bool was_decaying = boundaries.size() % 2 == 1;
      if (decays(row, settings_.adamw.decay_scope) != was_decaying) boundaries.push_back(row.offset);
    }
    index_t* const to = memory_.template at<index_t>(plan_.decay_boundaries);
    const auto count = static_cast<index_t>(boundaries.size());
    write_from_host(to, count,
                    [&](index_t* values) { std::copy(boundaries.begin(), boundaries.end(), values); });
    decay_boundaries_ = {to, count};
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
  mutable typename backend::device device_;  ///< waiting for it changes nothing that a caller sees
  trainer_memory<Run> memory_;
  typename backend::batch_staging staging_;
  model::t5<typename Run::sublayers, element_type> model_;
  mutable stepped_source<typename sharding::parameter_source, execution> source_;
  typename sharding::gradient_sink sink_;
  model::activations<element_type> activations_;
  model::activations<element_type> evaluation_activations_;
  std::optional<generator> generator_;
  update_settings settings_;
  std::vector<parameter_row> table_;
  vector_view<const index_t> decay_boundaries_;  ///< in the backend's memory
  mutable bool step_is_due_ = false;             ///< of an update that was submitted
  index_t square_parts_ = 0;                     ///< of the sum of squares at hand
  index_t squared_elements_ = 0;
  parameter_range unsquared_;            ///< complete gradients whose squares were not submitted
  index_t submitted_micro_batches_ = 0;  ///< of the update at hand
  index_t submitted_updates_ = 0;
  index_t read_updates_ = 0;
  std::array<submitted_update, static_cast<std::size_t>(updates_in_flight)> in_flight_;
  std::vector<double> result_losses_;  ///< [gradient_accumulation]
  // As of the last result that was read.
  index_t known_applied_ = 0;
  double known_scale_ = options_.scaler.initial_scale;
};

}  // namespace t5zero
