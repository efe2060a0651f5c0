// What a checkpoint holds beside the model directory: t5zero_state.safetensors (fp32 slices of weights and
// moments) and t5zero_checkpoint.json, the manifest. A slice is named by kind, tensor and first element, so
// that another number of ranks or another ZeRO stage can gather its own part later. The manifest holds a
// checksum of each slice. The records of the updates are a tensor among the slices: their number grows with
// the run, and every checkpoint holds all of them.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <system_error>
#include <type_traits>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>

#include <t5zero/core/checksum.hpp>
#include <t5zero/core/error.hpp>
#include <t5zero/core/integers.hpp>
#include <t5zero/io/atomic_save.hpp>
#include <t5zero/io/safetensors.hpp>
#include <t5zero/io/strict_json.hpp>
#include <t5zero/train/checkpoint_history.hpp>
#include <t5zero/train/data_fingerprint.hpp>
#include <t5zero/train/loop_state.hpp>
#include <t5zero/train/manifest_reader.hpp>
#include <t5zero/train/model_saving.hpp>
#include <t5zero/train/trainer.hpp>

namespace t5zero {

namespace detail {

inline constexpr const char* manifest_file = "t5zero_checkpoint.json";
inline constexpr const char* state_file = "t5zero_state.safetensors";
inline constexpr index_t checkpoint_version = 2;

[[nodiscard]] inline const char* optimizer_name(optimizer_kind kind) {
  return kind == optimizer_kind::adamw ? "adamw" : "adafactor";
}

/// How a checkpoint in `from` names another: by its name alone where both lie in the same directory, which
/// may then move.
[[nodiscard]] inline std::string reference_to(const std::filesystem::path& checkpoint,
                                              const std::filesystem::path& from) {
  std::error_code gone;
  const bool is_beside =
      std::filesystem::equivalent(checkpoint.parent_path(), from, gone) || checkpoint.parent_path() == from;
  return is_beside ? checkpoint.filename().string() : std::filesystem::absolute(checkpoint).string();
}

[[nodiscard]] inline std::string slice_name(std::string_view kind, const parameter_row& row, index_t first) {
  return std::string(kind) + "/" + checkpoint_name(row) + "/" + std::to_string(first);
}

}  // namespace detail

/// Adds the state files to a save. weights_are_in_model: the model directory beside them holds the fp32
/// weights, so they are not written twice.
template <class Run>
void add_training_state(atomic_save& save, const trainer<Run>& trained, bool weights_are_in_model,
                        const loop_state& state, const data_fingerprint& data) {
  std::vector<tensor_to_save> tensors;
  nlohmann::json checksums = nlohmann::json::object();
  trained.for_each_state([&](std::string_view kind, const parameter_row& row, const float* values,
                             index_t count) {
    tensor_to_save tensor;
    tensor.name = detail::slice_name(kind, row, 0);
    trained.read_on_host(
        values, count, [&](const float* on_host) { checksums[tensor.name] = checksum(on_host, count * 4); });
    if (kind == "weights" && weights_are_in_model) return;
    tensor.shape = {count};
    tensor.write = [&trained, values, count](atomic_save& to) {
      trained.read_on_host(values, count, [&](const float* on_host) { to.write(on_host, count * 4); });
    };
    tensors.push_back(std::move(tensor));
  });
  const std::vector<float> updates = detail::floats_of(state.history.updates);
  const auto updates_bytes = static_cast<index_t>(updates.size() * sizeof(float));
  checksums[detail::updates_tensor] = checksum(updates.data(), updates_bytes);
  tensors.push_back({detail::updates_tensor,
                     {static_cast<index_t>(state.history.updates.size()), detail::update_columns},
                     dtype::f32,
                     [&](atomic_save& to) { to.write(updates.data(), updates_bytes); }});
  detail::write_safetensors(save, detail::state_file, tensors);
  const model_shape& shape = trained.shape();
  const trainer_counters counters = trained.counters();
  const loss_scaler_state& scaler = counters.scaler;
  nlohmann::json best;
  if (state.best) best = {{"metric", detail::exact_number(state.best->metric)}, {"step", state.best->step}};
  nlohmann::json best_saved;
  if (state.best_saved) {
    best_saved = {
        {"metric", detail::exact_number(state.best_saved->of.metric)},
        {"step", state.best_saved->of.step},
        {"directory", detail::reference_to(state.best_saved->directory, save.directory().parent_path())}};
  }
  const nlohmann::json manifest = {{"format", "t5zero checkpoint"},
                                   {"version", detail::checkpoint_version},
                                   {"run",
                                    {{"model", Run::model::name},
                                     {"zero", Run::zero::name},
                                     {"precision", Run::precision::name},
                                     {"backend", Run::backend::name},
                                     {"world_size", 1}}},
                                   {"shape",
                                    {{"d_model", shape.d_model},
                                     {"d_kv", shape.d_kv},
                                     {"d_ff", shape.d_ff},
                                     {"n_heads", shape.n_heads},
                                     {"n_encoder_layers", shape.n_encoder_layers},
                                     {"n_decoder_layers", shape.n_decoder_layers},
                                     {"vocab_size", shape.vocab_size}}},
                                   {"optimizer", detail::optimizer_name(trained.optimizer())},
                                   {"checksums", std::move(checksums)},
                                   {"weights_in", weights_are_in_model ? "model" : detail::state_file},
                                   {"counters",
                                    {{"applied_updates", counters.applied_updates},
                                     {"micro_step", counters.micro_step},
                                     {"loss_scale", scaler.scale},
                                     {"hysteresis", scaler.hysteresis},
                                     {"scaler_iteration", scaler.iteration},
                                     {"last_overflow", scaler.last_overflow},
                                     {"clean_updates", scaler.clean}}},
                                   {"data",
                                    {{"examples", data.examples},
                                     {"per_device_train_batch_size", data.batch_size},
                                     {"gradient_accumulation_steps", data.gradient_accumulation},
                                     {"data_seed", data.order_seed},
                                     {"dataloader_drop_last", data.drops_last},
                                     {"group_by_length", data.groups_by_length}}},
                                   {"loop",
                                    {{"global_step", state.global_step},
                                     {"epoch", state.epoch},
                                     {"batch", state.batch},
                                     {"epochs_done", state.epochs_done},
                                     {"total_loss", detail::exact_number(state.total_loss)},
                                     {"window_loss", detail::exact_number(state.window_loss)},
                                     {"window_updates", state.window_updates},
                                     {"total_flos", state.total_flos},
                                     {"run_number", state.run_number},
                                     {"diverged_at", state.diverged_at},
                                     {"owes_evaluation", state.owes_evaluation},
                                     {"best", best},
                                     {"best_saved", best_saved}}},
                                   {"history", detail::to_json(state.history)}};
  save.add(detail::manifest_file,
           manifest.dump(1, ' ', false, nlohmann::json::error_handler_t::replace) + "\n");
}

/// A checkpoint that was read and checked; nothing is in a trainer yet.
class training_checkpoint {
 public:
  /// Throws input_error: no checkpoint of t5zero, damaged (file and key), of another version.
  explicit training_checkpoint(std::filesystem::path directory)
      : directory_(std::move(directory)), manifest_(read_manifest(directory_)) {
    const auto wrong = [&](const std::string& what) {
      throw input_error((directory_ / detail::manifest_file).string() + ": " + what);
    };
    if (manifest_.text("format") != "t5zero checkpoint") wrong("not a checkpoint of t5zero");
    if (manifest_.integer("version") != detail::checkpoint_version) {
      wrong("version " + std::to_string(manifest_.integer("version")) + "; version " +
            std::to_string(detail::checkpoint_version) + " is known: use the t5zero that wrote it");
    }
    const detail::manifest_reader loop = manifest_.at("loop");
    state_.global_step = loop.integer("global_step");
    state_.epoch = loop.integer("epoch");
    state_.batch = loop.integer("batch");
    state_.epochs_done = loop.number("epochs_done");
    state_.total_loss = loop.number("total_loss");
    state_.window_loss = loop.number("window_loss");
    state_.window_updates = loop.integer("window_updates");
    state_.total_flos = loop.number("total_flos");
    state_.run_number = loop.has("run_number") ? loop.integer("run_number") : 0;
    state_.diverged_at = loop.integer("diverged_at");
    state_.owes_evaluation = loop.has("owes_evaluation") && loop.boolean("owes_evaluation");
    if (loop.has("best"))
      state_.best = best_evaluation{loop.at("best").number("metric"), loop.at("best").integer("step")};
    if (loop.has("best_saved")) {
      const detail::manifest_reader best = loop.at("best_saved");
      state_.best_saved =
          best_checkpoint{{best.number("metric"), best.integer("step")}, best.text("directory")};
      std::filesystem::path& named = state_.best_saved->directory;
      if (!named.has_parent_path()) named = directory_.parent_path() / named;
    }
    state_.history = detail::history_of(manifest_.at("history"));
    const detail::manifest_reader data = manifest_.at("data");
    data_ = {data.integer("examples", 1),
             data.integer("per_device_train_batch_size", 1),
             data.integer("gradient_accumulation_steps", 1),
             static_cast<std::uint32_t>(data.integer("data_seed")),
             data.boolean("dataloader_drop_last"),
             data.boolean("group_by_length")};
    if (state_.batch >= data_.batches_per_epoch())
      loop.damaged("batch", "is more than an epoch of this data has");
    state_.history.updates = read_updates();
  }

  [[nodiscard]] const std::filesystem::path& directory() const { return directory_; }
  [[nodiscard]] const loop_state& state() const { return state_; }

  /// Throws input_error naming both values if the run's data differs.
  void check(const data_fingerprint& now) const {
    const auto compare = [&](const char* flag, auto then, auto today, const char* repair) {
      if (then == today) return;
      const auto text = [](auto value) {
        if constexpr (std::is_same_v<decltype(value), bool>)
          return std::string(value ? "true" : "false");
        else
          return std::to_string(value);
      };
      throw input_error(directory_.string() + ": " + flag + " was " + text(then) +
                        " when this checkpoint was written and is " + text(today) +
                        " now, so the run cannot go on from the same place; " + repair +
                        ", or start a new run from its weights with --model_name_or_path " +
                        directory_.string());
    };
    compare("the number of training examples", data_.examples, now.examples,
            "give the same data (and --max_train_samples)");
    compare("--per_device_train_batch_size", data_.batch_size, now.batch_size, "give the same");
    compare("--gradient_accumulation_steps", data_.gradient_accumulation, now.gradient_accumulation,
            "give the same");
    compare("the seed of the order (--data_seed or --seed)", data_.order_seed, now.order_seed,
            "give the same");
    compare("--dataloader_drop_last", data_.drops_last, now.drops_last, "give the same");
    compare("--group_by_length", data_.groups_by_length, now.groups_by_length, "give the same");
  }

  /// Throws input_error if it is the checkpoint of another model, precision or optimizer.
  template <class Run>
  void check_run(const trainer<Run>& trained) const {
    compare_run<Run>(trained.shape());
    if (manifest_.text("optimizer") == detail::optimizer_name(trained.optimizer())) return;
    throw input_error(directory_.string() + ": --optim was " + manifest_.text("optimizer") +
                      " when this checkpoint was written and is " +
                      detail::optimizer_name(trained.optimizer()) +
                      " now; give the same, or start a new run from its weights with --model_name_or_path " +
                      directory_.string());
  }

  /// Loads weights, moments and counters into a trainer that check_run lets pass. Throws input_error if
  /// something is damaged: names, sizes and counters are checked before anything is written, checksums after
  /// it; the trainer's state is then of no use.
  template <class Run>
  void load(trainer<Run>& trained) const {
    tensor_archive state;
    state.add(directory_ / detail::state_file);
    const bool weights_in_model = manifest_.text("weights_in") == "model";
    std::optional<tensor_archive> model;
    if (weights_in_model) model.emplace(tensor_archive::open_model(directory_));
    const auto find = [&](std::string_view kind, const parameter_row& row,
                          index_t count) -> const stored_tensor& {
      const bool in_model = kind == "weights" && weights_in_model;
      const std::string name = in_model ? checkpoint_name(row) : detail::slice_name(kind, row, 0);
      const stored_tensor* tensor = in_model ? model->find(name) : state.find(name);
      if (tensor == nullptr || tensor->count() != count || tensor->type != dtype::f32) {
        throw input_error(directory_.string() + ": " + name +
                          (tensor == nullptr ? " is missing" : " has another size or type") +
                          "; the checkpoint is damaged or of another model");
      }
      return *tensor;
    };
    trained.for_each_state([&](std::string_view kind, const parameter_row& row, const float*, index_t count) {
      (void)find(kind, row, count);
    });
    const detail::manifest_reader counters = manifest_.at("counters");
    trainer_counters restored;
    restored.applied_updates = counters.integer("applied_updates");
    restored.micro_step = static_cast<std::uint32_t>(counters.integer("micro_step"));
    restored.scaler = {counters.number("loss_scale"), static_cast<int>(counters.integer("hysteresis")),
                       counters.integer("scaler_iteration"), counters.integer("last_overflow", -1),
                       counters.integer("clean_updates")};
    const detail::manifest_reader checksums = manifest_.at("checksums");
    trained.for_each_state(
        [&](std::string_view kind, const parameter_row& row, float* values, index_t count) {
          const stored_tensor& tensor = find(kind, row, count);
          const std::string name = detail::slice_name(kind, row, 0);
          trained.write_from_host(values, count, [&](float* on_host) {
            tensor.read(on_host);
            if (checksum(on_host, count * 4) == checksums.unsigned_integer(name.c_str())) return;
            throw input_error(directory_.string() + ": " + name +
                              " is not what was written (its checksum differs); the checkpoint is damaged");
          });
        });
    trained.restored(restored);
  }

 private:
  static detail::manifest_reader read_manifest(const std::filesystem::path& directory) {
    const std::filesystem::path file = directory / detail::manifest_file;
    if (!std::filesystem::is_directory(directory)) {
      throw input_error("Can't find a valid checkpoint at " + directory.string() +
                        "; give a directory such as output_dir/checkpoint-500");
    }
    if (!std::filesystem::exists(file)) {
      throw input_error("Can't find a valid checkpoint at " + directory.string() + ": it has no " +
                        detail::manifest_file +
                        " (another program's, or --save_only_model); start a new run from its weights with "
                        "--model_name_or_path");
    }
    return {read_strict_json(file), file.string()};
  }

  [[nodiscard]] std::vector<update_record> read_updates() const {
    tensor_archive archive;
    archive.add(directory_ / detail::state_file);
    const stored_tensor* tensor = archive.find(detail::updates_tensor);
    const bool fits = tensor != nullptr && tensor->type == dtype::f32 && tensor->shape.size() == 2 &&
                      tensor->shape[1] == detail::update_columns;
    std::vector<float> values(fits ? static_cast<std::size_t>(tensor->count()) : 0);
    if (fits) tensor->read(values.data());
    if (!fits || checksum(values.data(), static_cast<index_t>(values.size() * sizeof(float))) !=
                     manifest_.at("checksums").unsigned_integer(detail::updates_tensor)) {
      throw input_error(directory_.string() + ": " + detail::updates_tensor +
                        " is not what was written; the checkpoint is damaged");
    }
    return detail::updates_of(values);
  }

  template <class Run>
  void compare_run(const model_shape& now) const {
    const detail::manifest_reader shape = manifest_.at("shape");
    const auto compare = [&](const char* name, index_t value) {
      if (shape.integer(name) == value) return;
      throw input_error(directory_.string() + ": a checkpoint of another model: its " + name + " is " +
                        std::to_string(shape.integer(name)) + ", this run's is " + std::to_string(value));
    };
    compare("d_model", now.d_model);
    compare("d_kv", now.d_kv);
    compare("d_ff", now.d_ff);
    compare("n_heads", now.n_heads);
    compare("n_encoder_layers", now.n_encoder_layers);
    compare("n_decoder_layers", now.n_decoder_layers);
    compare("vocab_size", now.vocab_size);
    const std::string precision = manifest_.at("run").text("precision");
    if (precision != Run::precision::name) {
      throw input_error(directory_.string() + ": a checkpoint of a run in " + precision +
                        ", this one is in " + std::string(Run::precision::name) +
                        "; give the same precision, or start a new run from its weights with "
                        "--model_name_or_path " +
                        directory_.string());
    }
  }

  std::filesystem::path directory_;
  detail::manifest_reader manifest_;
  loop_state state_;
  data_fingerprint data_;
};

}  // namespace t5zero
