// From argc and argv to `options`: spelling first (spelling.hpp), then CLI11 for values and help
// (bind_options.hpp), then what must hold between options (check_options.hpp).
#pragma once

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>
#include <system_error>
#include <vector>

#include <CLI/CLI.hpp>

#include <t5zero/cli/apply_verdicts.hpp>
#include <t5zero/cli/argument_table.hpp>
#include <t5zero/cli/bind_options.hpp>
#include <t5zero/cli/check_options.hpp>
#include <t5zero/cli/option_binder.hpp>
#include <t5zero/cli/options.hpp>
#include <t5zero/cli/spelling.hpp>
#include <t5zero/core/error.hpp>
#include <t5zero/core/integers.hpp>

namespace t5zero {
namespace detail {

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

/// The file `<program>.args` beside the program, whose words stand before those of the command line, which
/// therefore win (transformers' HfArgumentParser does the same with `<script>.args`).
[[nodiscard]] inline std::filesystem::path args_file_of(const std::string& program) {
  std::filesystem::path path = program;
  std::error_code ignored;
  // A program that was found on PATH has its bare name as argv[0].
  if (!path.has_parent_path()) path = std::filesystem::read_symlink("/proc/self/exe", ignored);
  return path.replace_extension(".args");
}

/// Options from a program's arguments (argv[0] is the program). Throws input_error.
[[nodiscard]] inline options parse_options(int argc, const char* const* argv) {
  const std::string program = argc > 0 ? argv[0] : "run_translation";
  const std::vector<std::string> given(argv + std::min(argc, 1), argv + argc);
  const bool is_json_alone = given.size() == 1 && given.front().ends_with(".json");
  const std::filesystem::path args_file = args_file_of(program);
  std::vector<std::string> tokens;
  if (!is_json_alone) {
    std::ifstream file(args_file);
    for (std::string word; file >> word;) tokens.push_back(word);
  }
  const bool has_args_file = !tokens.empty();
  tokens.insert(tokens.end(), given.begin(), given.end());
  try {
    options chosen = make_options(resolve_spelling(tokens), program);
    if (has_args_file) chosen.args_file = args_file.string();
    return chosen;
  } catch (const input_error& wrong) {
    if (!has_args_file) throw;
    throw input_error(std::string(wrong.what()) + " (arguments of " + args_file.string() + " were read too)");
  }
}

}  // namespace t5zero
