// From argc and argv to `options`: spelling first (spelling.hpp), then CLI11 for values and help, then what
// must hold between options.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <limits>
#include <optional>
#include <sstream>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <CLI/CLI.hpp>

#include <t5zero/cli/argument_table.hpp>
#include <t5zero/cli/lr_schedule_options.hpp>
#include <t5zero/cli/option_binder.hpp>
#include <t5zero/cli/options.hpp>
#include <t5zero/cli/spelling.hpp>
#include <t5zero/core/error.hpp>
#include <t5zero/core/integers.hpp>

namespace t5zero {
namespace detail {

// Within these no size of a memory plan leaves 64 bits.
inline constexpr index_t longest_sequence = index_t{1} << 20;  // tokens
inline constexpr index_t largest_batch = index_t{1} << 16;     // sentences
inline constexpr index_t most_beams = 1024;
inline constexpr index_t most_threads = 1024;

inline void bind_model_and_data(option_binder& bind, options& to) {
  bind.text("model_name_or_path", to.model_name_or_path);
  bind.text("config_name", to.config_name);
  bind.text("tokenizer_name", to.tokenizer_name);
  bind.text("cache_dir", to.cache_dir);
  bind.text("model_revision", to.model_revision);
  bind.boolean("from_scratch", to.from_scratch);
  bind.text("source_lang", to.source_lang);
  bind.text("target_lang", to.target_lang);
  bind.text("dataset_name", to.dataset_name);
  bind.text("dataset_config_name", to.dataset_config_name);
  bind.text("train_file", to.train_file);
  bind.text("validation_file", to.validation_file);
  bind.text("test_file", to.test_file);
  bind.integer("max_source_length", to.max_source_length, 1, "a number of tokens of at least 1",
               longest_sequence);
  bind.integer("max_target_length", to.max_target_length, 1, "a number of tokens of at least 1",
               longest_sequence);
  bind.integer("val_max_target_length", to.val_max_target_length, 1, "a number of tokens of at least 1",
               longest_sequence);
  bind.boolean("pad_to_max_length", to.pad_to_max_length);
  bind.integer("max_train_samples", to.max_train_samples, 1, "a number of rows of at least 1");
  bind.integer("max_eval_samples", to.max_eval_samples, 1, "a number of rows of at least 1");
  bind.integer("max_predict_samples", to.max_predict_samples, 1, "a number of rows of at least 1");
  bind.boolean("ignore_pad_token_for_loss", to.ignore_pad_token_for_loss);
  bind.text("source_prefix", to.source_prefix);
  bind.integer("num_beams", to.num_beams, 1, "a number of beams of at least 1", most_beams);
  bind.boolean("predict_with_generate", to.predict_with_generate);
  bind.boolean("prediction_loss_only", to.prediction_loss_only);
  bind.text("generation_config", to.generation_config);
  bind.integer("generation_max_length", to.generation_max_length, 1, "a number of tokens of at least 1",
               longest_sequence);
  bind.integer("generation_num_beams", to.generation_num_beams, 1, "a number of beams of at least 1",
               most_beams);
}

inline void bind_training(option_binder& bind, options& to) {
  bind.text("output_dir", to.output_dir);
  bind.boolean("overwrite_output_dir", to.overwrite_output_dir);
  bind.boolean("do_train", to.do_train);
  bind.boolean("do_eval", to.do_eval);
  bind.boolean("do_predict", to.do_predict);
  bind.boolean("plan", to.plan);
  bind.text("resume_from_checkpoint", to.resume_from_checkpoint);
  bind.integer("per_device_train_batch_size", to.per_device_train_batch_size, 1,
               "a batch of at least 1 sentence", largest_batch);
  bind.integer("per_device_eval_batch_size", to.per_device_eval_batch_size, 1,
               "a batch of at least 1 sentence", largest_batch);
  bind.integer("gradient_accumulation_steps", to.gradient_accumulation_steps, 1,
               "a number of micro-batches of at least 1", largest_batch);
  bind.number("num_train_epochs", to.num_train_epochs, {0, 1e9, "a number of epochs of at least 0"});
  // As in Hugging Face, nothing below 1 is a number of updates.
  bind.integer("max_steps", to.max_steps, -largest_count, "a number of updates, or -1 for none,");
  bind.boolean("dataloader_drop_last", to.dataloader_drop_last);
  bind.boolean("group_by_length", to.group_by_length);
  bind.choice("train_sampling_strategy", to.group_by_length, {{"random", false}, {"group_by_length", true}});
  bind.seed("seed", [&to](std::uint64_t seed) { to.seed = seed; });
  bind.seed("data_seed", [&to](std::uint64_t seed) { to.data_seed = seed; });
  const double infinity = std::numeric_limits<double>::infinity();
  bind.number("learning_rate", to.learning_rate, {0, infinity, "a rate of at least 0"});
  bind.number("weight_decay", to.weight_decay, {0, infinity, "a number of at least 0"});
  bind.number("adam_beta1", to.adam_beta1, {0, 1, "a number in [0,1)", /*open_high=*/true});
  bind.number("adam_beta2", to.adam_beta2, {0, 1, "a number in [0,1)", /*open_high=*/true});
  bind.number("adam_epsilon", to.adam_epsilon, {0, infinity, "a number of at least 0"});
  bind.number("max_grad_norm", to.max_grad_norm, {0, infinity, "a norm, or 0 for no clipping,"});
  bind.choice<lr_schedule_kind>("lr_scheduler_type", to.lr_scheduler_type,
                                {lr_schedule_names.begin(), lr_schedule_names.end()});
  bind.text("lr_scheduler_kwargs", to.lr_scheduler_kwargs);
  bind.number("warmup_ratio", to.warmup_ratio, {0, 1, "a share in [0,1]"});
  bind.steps("warmup_steps", to.warmup_steps, 0);
  bind.number("label_smoothing_factor", to.label_smoothing_factor,
              {0, 1, "a number in [0,1)", /*open_high=*/true});
  bind.choice<std::string>("optim", to.optim,
                           {{"adamw_torch", "adamw_torch"},
                            {"adamw_torch_fused", "adamw_torch_fused"},
                            {"adafactor", "adafactor"}},
                           "; in place of adamw_hf use adamw_torch");
  bind.boolean("adafactor", to.adafactor);
}

inline void bind_running(option_binder& bind, options& to) {
  const std::vector<std::pair<std::string_view, interval_strategy>> when = {
      {"no", interval_strategy::no},
      {"steps", interval_strategy::steps},
      {"epoch", interval_strategy::epoch}};
  bind.choice("logging_strategy", to.logging_strategy, when);
  bind.steps("logging_steps", to.logging_steps, 0);
  bind.boolean("logging_first_step", to.logging_first_step);
  bind.boolean("logging_nan_inf_filter", to.logging_nan_inf_filter);
  bind.choice("eval_strategy", to.eval_strategy, when);
  bind.choice("evaluation_strategy", to.eval_strategy, when);
  bind.steps("eval_steps", to.eval_steps, 1);
  bind.number("eval_delay", to.eval_delay, {0, 1e18, "a number of updates or epochs of at least 0"});
  bind.boolean("eval_on_start", to.eval_on_start);
  bind.boolean("load_best_model_at_end", to.load_best_model_at_end);
  bind.text("metric_for_best_model", to.metric_for_best_model);
  bind.boolean("greater_is_better", to.greater_is_better);
  bind.boolean("save_only_model", to.save_only_model);
  bind.boolean("ignore_data_skip", to.ignore_data_skip);
  auto when_saving = when;
  when_saving.emplace_back("best", interval_strategy::best);
  bind.choice("save_strategy", to.save_strategy, when_saving);
  bind.steps("save_steps", to.save_steps, 1);
  // As in Hugging Face, nothing below 1 is a limit.
  bind.integer("save_total_limit", to.save_total_limit, -largest_count,
               "a number of checkpoints, or 0 for all,");
  bind.choice<save_dtype_choice>("save_dtype", to.save_dtype,
                                 {{"auto", save_dtype_choice::automatic},
                                  {"fp32", save_dtype_choice::fp32},
                                  {"16bit", save_dtype_choice::half}});
  bind.boolean("disable_tqdm", to.disable_tqdm);
  bind.text("report_to", to.report_to);
  bind.text("logging_dir", to.logging_dir);
  bind.boolean("fp16", to.fp16);
  bind.boolean("bf16", to.bf16);
  bind.boolean("fp16_full_eval", to.fp16_full_eval);
  bind.boolean("bf16_full_eval", to.bf16_full_eval);
  bind.boolean("tf32", to.tf32);
  bind.boolean("use_cpu", to.use_cpu);
  bind.boolean("no_cuda", to.use_cpu);
  bind.integer("threads", to.threads, 0, "a number of threads, or 0 for all cores,", most_threads);
  bind.integer("num_gpus", to.num_gpus, 1, "a number of ranks of at least 1");
  bind.integer("local_rank", to.local_rank, -1, "a rank, or -1 for none,");
  bind.text("deepspeed", to.deepspeed);
  bind.boolean("gradient_checkpointing", to.gradient_checkpointing);
  bind.boolean("activation_checkpointing", to.gradient_checkpointing);
}

/// The given value as one text, lists joined by blanks.
inline std::string joined(const std::vector<std::string>& values) {
  std::string text;
  for (const std::string& value : values) text.append(text.empty() ? "" : " ").append(value);
  return text;
}

/// Whether a value says what would hold without it.
inline bool is_default(const argument_verdict& row, const std::string& value) {
  if (value.empty() || value == row.fallback) return true;
  if (row.fallback.empty())
    return value == "None" || (row.kind == argument_kind::optional_flag && value == "False");
  return false;
}

/// Refuses what is refused; returns the one notice about what is accepted without effect.
inline std::string apply_verdicts(const given_arguments& given) {
  std::string notice;
  for (const argument_verdict& row : argument_table()) {
    const auto found = given.find(row.name);
    if (found == given.end() || row.outcome == verdict::honoured) continue;
    const std::string value = joined(found->second);
    if (is_default(row, value)) continue;
    std::string name("--");
    name.append(row.name);
    if (row.outcome == verdict::refused)
      throw input_error(name + " " + value + ": refused: " + std::string(row.text));
    notice.append(notice.empty() ? "accepted without effect: " : "; ")
        .append(name)
        .append(" (")
        .append(row.text)
        .append(")");
  }
  return notice;
}

/// Refuses what transformers has no integration of.
inline void check_tracker(const std::string& name) {
  constexpr std::array<std::string_view, 13> known = {
      "azure_ml", "clearml", "codecarbon", "comet_ml", "dagshub", "dvclive",    "flyte",
      "mlflow",   "neptune", "swanlab",    "trackio",  "wandb",   "tensorboard"};
  if (std::find(known.begin(), known.end(), name) != known.end()) return;
  std::string list;
  for (const std::string_view one : known) list.append(one).append(", ");
  throw input_error("--report_to " + name + ": no such tracker; known are " + list + "all and none");
}

inline void check_file(std::string_view flag, const std::optional<std::string>& file) {
  if (!file) return;
  constexpr std::array<std::string_view, 4> readable = {".json", ".jsonl", ".csv", ".tsv"};
  const bool known =
      std::any_of(readable.begin(), readable.end(), [&](auto end) { return file->ends_with(end); });
  if (!known) {
    throw input_error("--" + std::string(flag) + " " + *file +
                      ": the file's name must end in .json, .jsonl, .csv or .tsv");
  }
}

/// What must hold between evaluation, checkpoints and the best model.
inline void check_evaluation(const options& chosen) {
  if (chosen.generation_max_length.value_or(2) < 2) {
    throw input_error(
        "--generation_max_length 1: it counts the start token, so nothing would be generated; "
        "give at least 2");
  }
  if (chosen.eval_strategy == interval_strategy::steps &&
      chosen.eval_steps.value_or(chosen.logging_steps).value <= 0) {
    throw input_error(
        "--eval_strategy steps needs an interval, and --logging_steps 0 would be it; give --eval_steps");
  }
  const bool chooses = chosen.load_best_model_at_end || chosen.save_strategy == interval_strategy::best;
  if (!chooses && !chosen.metric_for_best_model) return;
  const std::string metric = chosen.best_metric();
  constexpr std::array<std::string_view, 3> known = {"loss", "bleu", "gen_len"};
  if (std::find(known.begin(), known.end(), metric) == known.end()) {
    throw input_error("--metric_for_best_model " + *chosen.metric_for_best_model +
                      ": no such metric; loss, bleu and gen_len are known");
  }
  if (metric != "loss" && !chosen.predict_with_generate) {
    throw input_error("--metric_for_best_model " + *chosen.metric_for_best_model +
                      (chosen.prediction_loss_only
                           ? " needs texts; leave --prediction_loss_only out, or choose loss"
                           : " needs --predict_with_generate; give it, or choose loss"));
  }
  if (!chooses) return;
  const char* flag = chosen.load_best_model_at_end ? "--load_best_model_at_end" : "--save_strategy best";
  if (chosen.eval_strategy == interval_strategy::no) {
    throw input_error(std::string(flag) +
                      " needs evaluations during training: give --eval_strategy steps or "
                      "epoch");
  }
  if (!chosen.load_best_model_at_end || chosen.save_strategy == interval_strategy::best) return;
  if (chosen.eval_strategy != chosen.save_strategy) {
    throw input_error(
        "--load_best_model_at_end requires the save and eval strategy to match; give "
        "--eval_strategy and --save_strategy the same value");
  }
  if (chosen.eval_strategy == interval_strategy::steps) {
    const double evaluates = chosen.eval_steps.value_or(chosen.logging_steps).value;
    const double rest = std::fmod(chosen.save_steps.value, evaluates);
    // Shares of the updates are binary fractions: 0.2 is no exact multiple of 0.1.
    if (std::min(rest, evaluates - rest) > 1e-9 * evaluates) {
      throw input_error("--load_best_model_at_end requires --save_steps to be a multiple of --eval_steps");
    }
  }
}

inline void check_options(const options& chosen) {
  if (chosen.fp16 && chosen.bf16) {
    throw input_error("--fp16 --bf16: At most one of fp16 and bf16 can be True, but not both; remove one");
  }
  if (chosen.model_name_or_path.empty() && !(chosen.from_scratch && chosen.config_name)) {
    throw input_error(
        "the following arguments are required: --model_name_or_path (or --config_name with --from_scratch)");
  }
  if (!chosen.dataset_name && !chosen.train_file && !chosen.validation_file &&
      !(chosen.test_file && chosen.do_predict && !chosen.do_train && !chosen.do_eval)) {
    throw input_error(
        "Need either a dataset name or a training/validation file. Give --dataset_name, or --train_file and "
        "--validation_file");
  }
  if (chosen.source_lang.empty() || chosen.target_lang.empty()) {
    throw input_error(
        "Need to specify the source language and the target language. Give --source_lang and "
        "--target_lang, e.g. en and ro");
  }
  check_file("train_file", chosen.train_file);
  check_file("validation_file", chosen.validation_file);
  check_file("test_file", chosen.test_file);
  if (chosen.output_dir.empty()) throw input_error("--output_dir '': the name of a directory is needed");
  if (chosen.logging_strategy == interval_strategy::steps && chosen.logging_steps.value == 0) {
    throw input_error(
        "--logging_steps 0: --logging_strategy steps needs at least 1; or give --logging_strategy no");
  }
  if (chosen.do_train && chosen.max_steps <= 0 && chosen.num_train_epochs == 0) {
    throw input_error(
        "--num_train_epochs 0: --do_train would train nothing; give more epochs or --max_steps, or leave "
        "--do_train out");
  }
  // Throws for keys and values that the schedule does not know.
  static_cast<void>(make_lr_schedule(chosen, chosen.learning_rate, std::max<index_t>(1, chosen.max_steps)));
  check_evaluation(chosen);
  if (chosen.num_gpus > 1) {
    throw input_error("--num_gpus " + std::to_string(chosen.num_gpus) +
                      ": one rank is supported for now; give 1");
  }
  if (chosen.local_rank > 0) {
    throw input_error("--local_rank " + std::to_string(chosen.local_rank) +
                      ": one rank is supported for now; give 0 or -1");
  }
}

/// Hands the resolved arguments to CLI11, which calls the setters; returns the help text if that was asked
/// for.
inline std::string run_parser(const given_arguments& given, const option_binder& bind,
                              const std::string& program) {
  CLI::App app("Fine-tunes T5 for translation. --a_b and --a-b are one; unique prefixes are enough.",
               program);
  app.set_help_flag();  // help is a row like the others
  app.option_defaults()->multi_option_policy(CLI::MultiOptionPolicy::TakeLast);
  for (const argument_verdict& row : argument_table()) {
    const std::string name(row.name);
    const option_binder::setter* set = bind.find(name);
    std::string description(row.text);
    if (!row.fallback.empty()) description.append(" [").append(row.fallback).append("]");
    CLI::Option* option = app.add_option_function<std::string>(
        "--" + name,
        [set](const std::string& value) {
          if (set != nullptr) (*set)(value);
        },
        description);
    // Hidden ones are in --help-all.
    option->group(row.outcome == verdict::honoured ? "Options" : "");
  }
  const auto asked = [&given](const char* name) {
    const auto found = given.find(name);
    return found != given.end() && found->second.front() == "True";
  };
  if (asked("help_all")) return argument_table_text();
  if (asked("help")) return app.help();
  std::vector<std::string> tokens;
  for (const auto& [name, values] : given) {
    // One token, so that a value that starts with dashes stays a value; CLI11 drops an empty one behind '='.
    const std::string value = joined(values);
    if (value.empty()) {
      tokens.push_back("--" + name);
      tokens.push_back(value);
    } else {
      tokens.push_back("--" + name + "=" + value);
    }
  }
  std::reverse(tokens.begin(), tokens.end());  // CLI11 reads this vector from its end
  try {
    app.parse(tokens);
  } catch (const CLI::ParseError& failure) {
    throw input_error(failure.what());
  }
  return {};
}

}  // namespace detail

/// Options from resolved arguments. Throws input_error naming flag, value and repair.
[[nodiscard]] inline options make_options(const given_arguments& given, const std::string& program) {
  options chosen;
  option_binder bind;
  detail::bind_model_and_data(bind, chosen);
  detail::bind_training(bind, chosen);
  detail::bind_running(bind, chosen);
  chosen.help_text = detail::run_parser(given, bind, program);
  if (!chosen.help_text.empty()) return chosen;
  chosen.notice = detail::apply_verdicts(given);
  std::istringstream trackers(chosen.report_to);
  for (std::string tracker; trackers >> tracker;) {
    if (tracker == "none" || tracker == "all" || tracker == "tensorboard") continue;
    detail::check_tracker(tracker);
    chosen.notice.append(chosen.notice.empty() ? "accepted without effect: " : "; ")
        .append("--report_to " + tracker + " (tensorboard is the one tracker that is written)");
  }
  if (chosen.prediction_loss_only && chosen.predict_with_generate) {
    if (chosen.do_predict) {
      throw input_error(
          "--prediction_loss_only --predict_with_generate: --do_predict would write no texts; leave one of "
          "the "
          "two out");
    }
    chosen.predict_with_generate = false;
  }
  if (chosen.max_steps < 1) chosen.max_steps = -1;
  if (chosen.save_total_limit.value_or(1) < 1) chosen.save_total_limit.reset();
  detail::check_options(chosen);
  // As in Hugging Face: whoever evaluates during training also evaluates at its end.
  if (chosen.eval_strategy != interval_strategy::no) chosen.do_eval = true;
  return chosen;
}

/// Words of `<program>.args` beside the program, if that file exists: they stand before those of the command
/// line, which therefore win (transformers' HfArgumentParser does the same with `<script>.args`).
[[nodiscard]] inline std::vector<std::string> words_of_args_file(const std::string& program) {
  std::filesystem::path path = program;
  path.replace_extension(".args");
  std::ifstream file(path);
  std::vector<std::string> words;
  for (std::string word; file >> word;) words.push_back(word);
  return words;
}

/// Options from a program's arguments (argv[0] is the program). Throws input_error.
[[nodiscard]] inline options parse_options(int argc, const char* const* argv) {
  const std::string program = argc > 0 ? argv[0] : "run_translation";
  const std::vector<std::string> given(argv + std::min(argc, 1), argv + argc);
  const bool is_json_alone = given.size() == 1 && given.front().ends_with(".json");
  std::vector<std::string> tokens = is_json_alone ? std::vector<std::string>() : words_of_args_file(program);
  tokens.insert(tokens.end(), given.begin(), given.end());
  return make_options(resolve_spelling(tokens), program);
}

}  // namespace t5zero
