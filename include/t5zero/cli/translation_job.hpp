// One translation run from options to saved files: the events of run_translation.py, in its order.
#pragma once

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <limits>
#include <memory>
#include <numeric>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <t5zero/cli/ds_overrides.hpp>
#include <t5zero/cli/options.hpp>
#include <t5zero/cli/result_files.hpp>
#include <t5zero/cli/run_constraints.hpp>
#include <t5zero/cli/translation_setup.hpp>
#include <t5zero/data/sampler.hpp>
#include <t5zero/io/model_directory.hpp>
#include <t5zero/optim/lr_schedule.hpp>
#include <t5zero/train/report.hpp>
#include <t5zero/train/run.hpp>
#include <t5zero/train/step_arithmetic.hpp>
#include <t5zero/train/trainer.hpp>
#include <t5zero/zero/ds_config.hpp>

namespace t5zero::cli {

/// Everything of one run of type Run.
template <class Run>
class translation_job {
 public:
  translation_job(options chosen, std::optional<ds_config> config)
      : chosen_(std::move(chosen)), ds_(std::move(config)), learning_rate_(chosen_.learning_rate) {}

  int run() {
    if (chosen_.save_dtype == save_dtype_choice::half && sizeof(typename Run::param_type) == 4) {
      throw input_error(
          "--save_dtype 16bit: this run holds fp32 weights; train with --fp16 or --bf16, or leave "
          "the flag out");
    }
    check_memory_of_model();
    if (!chosen_.do_train && !chosen_.do_eval && !chosen_.do_predict) {
      std::cerr << "There is nothing to do. Please pass `do_train`, `do_eval` and/or `do_predict`.\n";
      return 0;
    }
    check_output_directory(chosen_);
    read_inputs();
    build_trainer();
    check_output_space();
    summarise();
    if (chosen_.do_train) train();
    if (chosen_.do_eval) evaluate();
    if (chosen_.do_predict) {
      std::cerr << "--do_predict: generation is not available yet; nothing is predicted\n";
    }
    return 0;
  }

  /// The worst batch that the options allow.
  [[nodiscard]] static batch_shape longest_batch(const options& chosen) {
    const bool trains = chosen.do_train || !chosen.do_eval;
    const index_t target_length = std::max(chosen.max_target_length, chosen.evaluation_target_length());
    const target_padding padding = padding_of_labels(chosen, target_length);
    return batch_shape::of_lengths(
        trains ? chosen.per_device_train_batch_size : chosen.per_device_eval_batch_size,
        chosen.max_source_length, padding.counts_in_loss ? padding.padded(target_length) : target_length);
  }
  [[nodiscard]] static plan_options plan_options_of(const options& chosen) {
    return {.threads = threads_of(chosen),
            .accumulates_micro_batches = chosen.gradient_accumulation_steps > 1,
            .trains = chosen.do_train || !chosen.do_eval};
  }
  [[nodiscard]] static int threads_of(const options& chosen) {
    return chosen.threads > 0 ? static_cast<int>(chosen.threads) : Run::backend::default_threads();
  }

 private:
  using clock = std::chrono::steady_clock;
  static constexpr model_shape compiled = Run::model::shape;

  static double seconds_since(clock::time_point start) {
    return std::chrono::duration<double>(clock::now() - start).count();
  }

  /// Weights, moments and gradients alone: refused before any name is resolved or any text read.
  void check_memory_of_model() const {
    const index_t available = Run::backend::memory::available_bytes();
    const plan_options planned = plan_options_of(chosen_);
    const memory_plan plan = Run::plan(compiled, {}, planned);
    const index_t needed = plan.model_state_bytes();
    if (needed <= available) return;
    std::string fits = "none of the known models fits in this configuration";
    index_t best = 0;
    for_each_type(all_model_sizes{}, [&]<class Model>() {
      using other = t5zero::run<Model, typename Run::zero, typename Run::precision, typename Run::backend>;
      const index_t bytes = other::plan(Model::shape, {}, planned).model_state_bytes();
      if (bytes <= available && bytes > best) {
        best = bytes;
        fits = other::name() + " (" + human_bytes(bytes) + ") would fit";
      }
    });
    throw capacity_error(Run::name() + ": the model's states alone need " + with_thousands(needed) +
                         " bytes (" + human_bytes(needed) + "), " + with_thousands(available) +
                         " are available: " + with_thousands(needed - available) + " bytes (" +
                         human_bytes(needed - available) +
                         ") are missing. ZeRO does not help on one rank without offload; " + fits +
                         ". --plan prints the whole table.");
  }

  /// Refuses, before the first update, a place that cannot take the model at the end.
  void check_output_space() const {
    const atomic_save probe(chosen_.output_dir);  // makes the directory, or fails; takes it away again
    if (!chosen_.do_train) return;
    index_t needed = 0;
    for (const parameter_row& row : trainer_->parameters()) {
      needed += row.count() * (saves_16_bit() ? index_t{2} : index_t{4});
    }
    std::error_code unknown;
    const std::filesystem::space_info space = std::filesystem::space(chosen_.output_dir, unknown);
    if (unknown || space.available >= static_cast<std::uintmax_t>(needed)) return;
    throw capacity_error("--output_dir " + chosen_.output_dir + ": the model's weights need " +
                         with_thousands(needed) + " bytes, " +
                         with_thousands(static_cast<index_t>(space.available)) +
                         " are free there; free some space or name another directory");
  }

  [[nodiscard]] bool saves_16_bit() const {
    return sizeof(typename Run::param_type) < 4 &&
           (chosen_.save_dtype == save_dtype_choice::half ||
            (chosen_.save_dtype == save_dtype_choice::automatic && ds_));
  }

  void read_inputs() {
    files_ = find_model(chosen_, compiled, Run::model::name, Run::name());
    std::vector<text_pair> train_pairs;
    std::vector<text_pair> validation_pairs;
    if (chosen_.do_train) {
      train_pairs =
          read_split(chosen_, "train", chosen_.train_file, "--train_file", chosen_.max_train_samples);
    }
    if (chosen_.do_eval) {
      validation_pairs = read_split(chosen_, "validation", chosen_.validation_file, "--validation_file",
                                    chosen_.max_eval_samples);
    }
    const bool trains_tokenizer = !files_.tokenizer_file;
    if (trains_tokenizer && train_pairs.empty()) {
      throw input_error(
          "--from_scratch without --do_train has no text to train a tokenizer on: give --tokenizer_name");
    }
    text_.emplace(make_tokenizer(files_, train_pairs, chosen_.source_prefix.value_or("")));
    // Made now, so that a tokenizer that could not be saved is refused before training.
    tokenizer_files_.emplace(text_->model(), files_.tokenizer_config);
    model_shape& shape = files_.config.shape;
    if (trains_tokenizer) {
      // An own vocabulary, rounded up as the published one is (32100 to 32128).
      shape.vocab_size = round_up(text_->vocab_size(), 64);
    }
    if (text_->vocab_size() > shape.vocab_size) {
      throw input_error("the tokenizer has " + std::to_string(text_->vocab_size()) + " ids, the model " +
                        std::to_string(shape.vocab_size) + " embedding rows: they do not belong together");
    }
    if (chosen_.do_train) {
      train_data_.emplace(tokenize(train_pairs, *text_, chosen_, chosen_.max_target_length, "train"));
      steps_.emplace(train_data_->size(),
                     step_options{.batch_size = chosen_.per_device_train_batch_size,
                                  .gradient_accumulation_steps = chosen_.gradient_accumulation_steps,
                                  .drop_last = chosen_.dataloader_drop_last,
                                  .max_steps = chosen_.max_steps,
                                  .epochs = chosen_.num_train_epochs});
    }
    if (chosen_.do_eval) {
      validation_data_.emplace(
          tokenize(validation_pairs, *text_, chosen_, chosen_.evaluation_target_length(), "validation"));
    }
  }

  void build_trainer() {
    batch_shape evaluation{.batch = 0};
    if (validation_data_) {
      evaluation = validation_data_->largest_batch(
          chosen_.per_device_eval_batch_size, padding_of_labels(chosen_, chosen_.evaluation_target_length()));
    }
    largest_ = evaluation;
    if (train_data_) {
      largest_ = train_data_->largest_batch(chosen_.per_device_train_batch_size,
                                            padding_of_labels(chosen_, chosen_.max_target_length));
    }

    trainer_options settings;
    settings.trains = chosen_.do_train;
    settings.evaluation_batch = evaluation;
    settings.threads = threads_of(chosen_);
    settings.gradient_accumulation = chosen_.gradient_accumulation_steps;
    settings.max_grad_norm = chosen_.max_grad_norm;
    settings.label_smoothing = static_cast<float>(chosen_.label_smoothing_factor);
    settings.dropout_rate = static_cast<float>(files_.config.dropout_rate);
    settings.seed = static_cast<std::uint32_t>(chosen_.seed);
    settings.optimizer = {chosen_.adam_beta1, chosen_.adam_beta2, chosen_.adam_epsilon, chosen_.weight_decay,
                          weight_decay_scope::hugging_face};
    settings.scaler = loss_scaler_options::grad_scaler();
    if (ds_ && steps_) {
      const ds_overrides decided = apply_ds_config(*ds_, chosen_, compiled.d_model, steps_->max_steps);
      settings.optimizer = decided.optimizer;
      settings.max_grad_norm = decided.max_grad_norm;
      settings.scaler = decided.scaler;
      learning_rate_ = decided.learning_rate;
      ds_schedule_ = decided.schedule;
      if (const std::string notice = overrides_notice(*ds_, chosen_, decided); !notice.empty()) {
        std::cerr << notice << "\n";
      }
    }
    const memory_plan plan =
        Run::plan(files_.config.shape, largest_, trainer<Run>::plan_options_of(settings));
    const index_t available = Run::backend::memory::available_bytes();
    if (plan.total_bytes > available) {
      throw capacity_error(
          Run::name() + ": this data needs " + with_thousands(plan.total_bytes) + " bytes, " +
          with_thousands(available) + " are available: " + with_thousands(plan.total_bytes - available) +
          " bytes are missing. Lower --per_device_train_batch_size, --per_device_eval_batch_size or "
          "--max_source_length");
    }
    trainer_ = std::make_unique<trainer<Run>>(files_.config.shape, largest_, settings);
    const clock::time_point start = clock::now();
    if (files_.weights) {
      const stored_weights weights(*files_.weights, trainer_->parameters(), files_.source);
      trainer_->load([&](const parameter_row& row, float* to) { weights.of(row).read(to); });
    } else {
      trainer_->initialize(static_cast<std::uint32_t>(chosen_.seed), files_.config.initializer_factor);
    }
    files_.weights.reset();
    preparation_time_ = seconds_since(start);
  }

  [[nodiscard]] double learning_rate(index_t applied_updates) const {
    if (ds_schedule_) return (*ds_schedule_)(applied_updates);
    lr_schedule schedule;
    schedule.kind = chosen_.lr_scheduler_type;
    schedule.learning_rate = learning_rate_;
    schedule.total_steps = steps_->max_steps;
    schedule.warmup_steps = chosen_.warmup_updates(steps_->max_steps);
    return schedule(applied_updates);
  }

  void summarise() const {
    std::cerr << "Run: " << Run::name() << "; weights from " << files_.source << "\n"
              << plan_table(Run::name(), largest_, parameter_count(files_.config.shape), trainer_->plan());
    if (!chosen_.source_prefix && !files_.config.shape.gated() && chosen_.do_train) {
      std::cerr << "warning: You're running a t5 model but didn't provide a source prefix, which is the "
                   "expected, e.g. "
                   "with `--source_prefix 'translate English to Romanian: '`\n";
    }
    if (!steps_) return;
    const index_t save_every = chosen_.save_steps.steps(steps_->max_steps);
    if (chosen_.save_strategy == interval_strategy::epoch ||
        (chosen_.save_strategy != interval_strategy::no && steps_->max_steps >= save_every)) {
      std::cerr
          << "warning: no checkpoints are written yet (--save_strategy, --save_steps): the model is saved "
             "at the end of training only\n";
    }
    std::cerr << "***** Running training *****\n  Num examples = " << with_thousands(train_data_->size())
              << "\n  Num Epochs = " << with_thousands(steps_->epochs)
              << "\n  Instantaneous batch size per device = "
              << with_thousands(chosen_.per_device_train_batch_size)
              << "\n  Total train batch size (w. parallel, distributed & accumulation) = "
              << with_thousands(chosen_.per_device_train_batch_size * chosen_.gradient_accumulation_steps)
              << "\n  Gradient Accumulation steps = " << chosen_.gradient_accumulation_steps
              << "\n  Total optimization steps = " << with_thousands(steps_->max_steps)
              << "\n  Number of trainable parameters = "
              << with_thousands(parameter_count(files_.config.shape)) << "\n";
  }

  /// Losses of the updates since the last log line.
  struct loss_window {
    double sum = 0.0;
    index_t updates = 0;
  };

  void train() {
    const clock::time_point start = clock::now();
    const step_arithmetic& steps = *steps_;
    const index_t accumulation = chosen_.gradient_accumulation_steps;
    const index_t batch_size = chosen_.per_device_train_batch_size;
    const auto order_seed = static_cast<std::uint32_t>(chosen_.data_seed.value_or(chosen_.seed));
    const index_t every = std::max<index_t>(1, chosen_.logging_steps.steps(steps.max_steps));
    micro_batch batch(largest_);
    progress_bar bar("", steps.max_steps, bar_mode(chosen_));
    loss_window window;
    double total_loss = 0.0;
    double flops = 0.0;
    double epoch_at_end = 0.0;
    index_t global_step = 0;
    for (index_t epoch = 0; global_step < steps.max_steps; ++epoch) {
      const std::vector<index_t> order =
          epoch_order(train_data_->size(), order_seed, static_cast<std::uint32_t>(epoch));
      index_t in_update = 0;
      double update_loss = 0.0;
      for (index_t b = 0; b < steps.batches_per_epoch && global_step < steps.max_steps; ++b) {
        const index_t first = b * batch_size;
        const index_t count = std::min(batch_size, train_data_->size() - first);
        batch.fill(*train_data_,
                   std::span(order).subspan(static_cast<std::size_t>(first), static_cast<std::size_t>(count)),
                   static_cast<std::uint32_t>(in_update * batch_size), files_.config.decoder_start_token_id,
                   padding_of_labels(chosen_, chosen_.max_target_length));
        const batch_view view = batch.view();
        // The short group at the end of an epoch is a mean over its own micro-batches (transformers 4.55).
        const index_t group = std::min(accumulation, steps.batches_per_epoch - (b - in_update));
        double loss = trainer_->train_micro_batch(view, group) / static_cast<double>(group);
        if (!std::isfinite(loss) && chosen_.logging_nan_inf_filter) {
          loss = (window.sum + update_loss) / static_cast<double>(1 + window.updates);
        }
        update_loss += loss;
        flops += 6.0 * static_cast<double>(padded_source_length(view.source.max_length) * view.source.batch) *
                 static_cast<double>(matmul_parameters());
        if (++in_update < accumulation && b + 1 < steps.batches_per_epoch) continue;
        const double rate = learning_rate(trainer_->applied_updates());
        const update_result result = trainer_->update(rate);
        ++global_step;
        in_update = 0;
        total_loss += update_loss;
        window.sum += update_loss;
        ++window.updates;
        update_loss = 0.0;
        epoch_at_end = static_cast<double>(epoch) +
                       static_cast<double>(b + 1) / static_cast<double>(steps.batches_per_epoch);
        bar.advance();
        if (result.skipped) {
          bar.print_above(
              Run::precision::needs_loss_scale
                  ? "OVERFLOW! Skipping step. The loss scale is now " + python_repr(trainer_->loss_scale())
                  : std::string("The gradients are not finite: skipping step"),
              std::cerr);
        }
        const bool logs = chosen_.logging_strategy == interval_strategy::steps &&
                          (global_step % every == 0 || (global_step == 1 && chosen_.logging_first_step));
        const bool ends_epoch = b + 1 == steps.batches_per_epoch || global_step == steps.max_steps;
        if (logs || (chosen_.logging_strategy == interval_strategy::epoch && ends_epoch)) {
          bar.print_above(python_dict(
              {{"loss", python_repr(python_round(window.sum / static_cast<double>(window.updates), 4))},
               {"grad_norm", python_repr(result.grad_norm)},
               {"learning_rate", python_repr(learning_rate(trainer_->applied_updates()))},
               {"epoch", python_repr(python_round(epoch_at_end, 2))}}));
          window = {};
        }
      }
    }
    const double runtime = seconds_since(start);
    metrics result;
    result.set("epoch", epoch_at_end);
    // With --disable_tqdm Hugging Face's plain printer takes it out of the results.
    if (!chosen_.disable_tqdm.value_or(false)) result.set("total_flos", flops);
    result.set("train_loss", total_loss / static_cast<double>(global_step));
    result.set("train_runtime", python_round(runtime, 4));
    result.set_count("train_samples", train_data_->size());
    const double samples = chosen_.max_steps > 0
                               ? static_cast<double>(steps.max_steps * batch_size * accumulation)
                               : static_cast<double>(train_data_->size()) * chosen_.num_train_epochs;
    result.set("train_samples_per_second", python_round(samples / runtime, 3));
    result.set("train_steps_per_second", python_round(static_cast<double>(steps.max_steps) / runtime, 3));
    bar.print_above(
        python_dict({{"train_runtime", python_repr(python_round(runtime, 4))},
                     {"train_samples_per_second", python_repr(python_round(samples / runtime, 3))},
                     {"train_steps_per_second",
                      python_repr(python_round(static_cast<double>(steps.max_steps) / runtime, 3))},
                     {"train_loss", python_repr(total_loss / static_cast<double>(global_step))},
                     {"epoch", python_repr(python_round(epoch_at_end, 2))}}));
    bar.close();
    epoch_ = epoch_at_end;
    save_model(result);
    std::cout << result.table("train") << std::flush;
  }

  /// The length to which Hugging Face's collator pads sources; total_flos counts its padding.
  [[nodiscard]] index_t padded_source_length(index_t longest) const {
    if (chosen_.pad_to_max_length) return chosen_.max_source_length;
    return chosen_.fp16 ? round_up(longest, 8) : longest;
  }

  /// Parameters that take part in matmuls: all but embeddings and bias tables (an untied head counts).
  [[nodiscard]] index_t matmul_parameters() const {
    index_t count = 0;
    for (const parameter_row& row : trainer_->parameters()) {
      if (row.role != parameter_role::embedding && row.role != parameter_role::relative_bias)
        count += row.count();
    }
    return count;
  }

  void save_model(const metrics& results) {
    using stored = typename Run::param_type;
    const bool narrow = saves_16_bit();
    std::vector<tensor_to_save> tensors;
    for (const parameter_row& row : trainer_->parameters()) {
      tensor_to_save tensor;
      tensor.name = checkpoint_name(row);
      tensor.shape =
          row.is_vector() ? std::vector<index_t>{row.cols} : std::vector<index_t>{row.rows, row.cols};
      tensor.type = narrow ? dtype_of<stored> : dtype::f32;
      tensor.write = [this, row, narrow](atomic_save& save) {
        if (narrow) {
          save.write(trainer_->stored(row), row.count() * static_cast<index_t>(sizeof(stored)));
          return;
        }
        std::vector<float> values(static_cast<std::size_t>(row.count()));
        trainer_->read(row, values.data());
        save.write(values.data(), row.count() * 4);
      };
      tensors.push_back(std::move(tensor));
    }
    const char* type = !narrow ? "float32" : dtype_of<stored> == dtype::f16 ? "float16" : "bfloat16";
    atomic_save save(chosen_.output_dir);
    add_model_directory(save, files_.config, std::move(tensors), type, *tokenizer_files_);
    add_results(save, "train", results);
    save.commit();
    std::cerr << "Model saved in " << chosen_.output_dir << " (" << type << ")\n";
  }

  void evaluate() {
    const clock::time_point start = clock::now();
    const index_t batch_size = chosen_.per_device_eval_batch_size;
    const index_t n = validation_data_->size();
    std::cerr << "***** Running Evaluation *****\n  Num examples = " << n << "\n  Batch size = " << batch_size
              << "\n";
    std::vector<index_t> order(static_cast<std::size_t>(n));
    std::iota(order.begin(), order.end(), index_t{0});
    micro_batch batch(validation_data_->largest_batch(
        batch_size, padding_of_labels(chosen_, chosen_.evaluation_target_length())));
    const index_t batches = ceil_div(n, batch_size);
    progress_bar bar("Evaluating", batches, bar_mode(chosen_));
    double loss = 0.0;
    for (index_t b = 0; b < batches; ++b) {
      const index_t first = b * batch_size;
      batch.fill(*validation_data_,
                 std::span(order).subspan(static_cast<std::size_t>(first),
                                          static_cast<std::size_t>(std::min(batch_size, n - first))),
                 0, files_.config.decoder_start_token_id,
                 padding_of_labels(chosen_, chosen_.evaluation_target_length()));
      loss += trainer_->evaluate(batch.view());
      bar.advance();
    }
    bar.close();
    const double runtime = seconds_since(start);
    metrics result;
    if (chosen_.do_train) {
      result.set("epoch", epoch_);
    } else {
      result.set("eval_model_preparation_time", python_round(preparation_time_, 4));
    }
    result.set("eval_loss", loss / static_cast<double>(batches));
    result.set("eval_runtime", python_round(runtime, 4));
    result.set_count("eval_samples", n);
    result.set("eval_samples_per_second", python_round(static_cast<double>(n) / runtime, 3));
    result.set("eval_steps_per_second", python_round(static_cast<double>(batches) / runtime, 3));
    atomic_save save(chosen_.output_dir);
    add_results(save, "eval", result);
    save.commit();
    std::cout << result.table("eval") << std::flush;
  }

  options chosen_;
  std::optional<ds_config> ds_;
  model_files files_;
  std::optional<tokenizer> text_;
  std::optional<tokenizer_to_save> tokenizer_files_;
  std::optional<tokenized_dataset> train_data_;
  std::optional<tokenized_dataset> validation_data_;
  std::optional<step_arithmetic> steps_;
  std::optional<warmup_lr_schedule> ds_schedule_;
  double learning_rate_;  ///< peak
  batch_shape largest_;
  std::unique_ptr<trainer<Run>> trainer_;
  double epoch_ = 0.0;
  double preparation_time_ = 0.0;  ///< seconds to fill the trainer with weights
};

}  // namespace t5zero::cli
