// The command line of `translate`.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include <CLI/CLI.hpp>

#include <t5zero/core/error.hpp>
#include <t5zero/core/integers.hpp>
#include <t5zero/io/generation_config.hpp>
#include <t5zero/model/generation_options.hpp>

namespace t5zero {

struct translate_options {
  std::string model_name_or_path;
  std::string input = "-";   ///< "-": standard input
  std::string output = "-";  ///< "-": standard output
  std::string source_prefix;
  std::string model_revision = "main";
  std::optional<std::string> cache_dir;
  index_t batch_size = 16;
  index_t max_source_length = 512;  ///< tokens
  index_t threads = 0;              ///< 0: all cores
  bool fp16 = false, bf16 = false;
  bool plan = false;
  generation_options generation;
  std::string help_text;  ///< not empty: print it and exit with 0

  [[nodiscard]] std::string_view precision() const { return fp16 ? "fp16" : bf16 ? "bf16" : "fp32"; }
};

/// model: what holds where no flag is given, the model's generation_config. Throws input_error naming the
/// flag, its value and the repair.
[[nodiscard]] inline translate_options parse_translate_options(int argc, const char* const* argv,
                                                               const generation_config& model = {}) {
  translate_options chosen;
  generation_options& generation = chosen.generation;
  generation = model.options;
  // A model that says nothing about lengths would stop in the middle of most sentences.
  if (!model.says_length) generation.max_length = 128;
  std::string early_stopping = generation.early_stopping == early_stopping_rule::when_full ? "true"
                               : generation.early_stopping == early_stopping_rule::never   ? "never"
                                                                                           : "false";
  CLI::App app("Translates lines of text with a saved T5: one line in, one line out.", "translate");
  // Every name also with dashes, as Hugging Face's parsers have it.
  const auto name = [](std::string text) {
    std::string dashed = text;
    for (std::size_t i = 2; i < dashed.size(); ++i) dashed[i] = dashed[i] == '_' ? '-' : dashed[i];
    return dashed == text ? text : text + "," + dashed;
  };
  const auto positive = CLI::Range(index_t{1}, index_t{1} << 24);
  app.add_option("model,--model_name_or_path,--model-name-or-path", chosen.model_name_or_path,
                 "directory or Hub name of the model")
      ->required();
  app.add_option("--input", chosen.input, "text file, one sentence a line; - is standard input")
      ->capture_default_str();
  app.add_option(
         "--output", chosen.output,
         "the file for the translations, written whole at the end; - is standard output, as they come")
      ->capture_default_str();
  app.add_option(name("--source_prefix"), chosen.source_prefix,
                 "text before every sentence, as in training, e.g. 'translate English to Romanian: '");
  app.add_option(name("--model_revision"), chosen.model_revision, "branch, tag or commit in the Hub cache")
      ->capture_default_str();
  app.add_option(name("--cache_dir"), chosen.cache_dir, "the Hub cache to read instead of HF_HUB_CACHE");
  app.add_option(name("--batch_size"), chosen.batch_size, "sentences at a time")
      ->check(positive)
      ->capture_default_str();
  app.add_option(name("--max_source_length"), chosen.max_source_length, "tokens; longer sentences are cut")
      ->check(positive)
      ->capture_default_str();
  app.add_option(name("--max_length"), generation.max_length, "tokens of a translation, start token included")
      ->check(CLI::Range(index_t{2}, index_t{1} << 20))
      ->capture_default_str();
  app.add_option(name("--min_length"), generation.min_length, "tokens of a translation at least")
      ->check(CLI::Range(index_t{0}, index_t{1} << 20))
      ->capture_default_str();
  app.add_option(name("--num_beams"), generation.num_beams, "beams; 1 is greedy search")
      ->check(CLI::Range(index_t{1}, index_t{1024}))
      ->capture_default_str();
  app.add_option(name("--length_penalty"), generation.length_penalty, "exponent of a hypothesis's length")
      ->capture_default_str();
  app.add_option(name("--early_stopping"), early_stopping, "true, false or never")
      ->check(CLI::IsMember({"true", "false", "never"}, CLI::ignore_case))
      ->capture_default_str();
  app.add_option(name("--no_repeat_ngram_size"), generation.no_repeat_ngram_size,
                 "forbid n-grams of this size to come twice; 0: off")
      ->check(CLI::Range(index_t{0}, index_t{1} << 20))
      ->capture_default_str();
  app.add_option(name("--repetition_penalty"), generation.repetition_penalty, "above 1: fewer repetitions")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  app.add_flag(name("--do_sample"), generation.do_sample, "sample instead of taking the best");
  app.add_option("--temperature", generation.temperature, "of sampling")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  app.add_option(name("--top_k"), generation.top_k, "sample from the best k tokens; 0: from all")
      ->check(CLI::Range(index_t{0}, index_t{1} << 24))
      ->capture_default_str();
  app.add_option(name("--top_p"), generation.top_p, "sample from the best tokens of this probability")
      ->check(CLI::Range(1e-6, 1.0))
      ->capture_default_str();
  app.add_option("--seed", generation.seed, "of sampling")->capture_default_str();
  app.add_option("--threads", chosen.threads, "CPU threads; 0: all cores")
      ->check(CLI::Range(index_t{0}, index_t{4096}))
      ->capture_default_str();
  auto* fp16 = app.add_flag("--fp16", chosen.fp16, "weights in float16");
  app.add_flag("--bf16", chosen.bf16, "weights in bfloat16")->excludes(fp16);
  app.add_flag("--plan", chosen.plan, "print the memory plan and exit");
  try {
    app.parse(argc, argv);
  } catch (const CLI::CallForHelp&) {
    chosen.help_text = app.help();
    return chosen;
  } catch (const CLI::ParseError& e) {
    throw input_error(std::string(e.what()) + "; --help lists the flags");
  }
  if (generation.do_sample && generation.num_beams > 1) {
    throw input_error("--do_sample with --num_beams " + std::to_string(generation.num_beams) +
                      ": sampling goes with one beam; leave one of them out");
  }
  generation.early_stopping = early_stopping == "true"    ? early_stopping_rule::when_full
                              : early_stopping == "never" ? early_stopping_rule::never
                                                          : early_stopping_rule::heuristic;
  return chosen;
}

}  // namespace t5zero
