// The command line of `translate`.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <CLI/CLI.hpp>

#include <t5zero/cli/option_binder.hpp>
#include <t5zero/cli/spelling.hpp>
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
  std::optional<std::string> generation_config;  ///< in place of the model's
  index_t batch_size = 16;
  index_t max_source_length = 512;  ///< tokens
  index_t threads = 0;              ///< 0: all cores
  bool fp16 = false, bf16 = false;
  bool use_cpu = false;
  bool plan = false;
  generation_options generation;
  std::string help_text;  ///< not empty: print it and exit with 0
  std::string notice;     ///< given flags that change nothing, a line each; empty if there are none

  [[nodiscard]] std::string_view precision() const { return fp16 ? "fp16" : bf16 ? "bf16" : "fp32"; }
};

namespace detail {

/// A word that may follow a flag as its value; every other one could be the model's name.
[[nodiscard]] inline bool is_true_or_false(std::string_view word) {
  return word == "true" || word == "True" || word == "false" || word == "False";
}

/// The tokens with every flag as --its_name=value: both spellings, unique prefixes. Throws input_error for
/// flags that are unknown or ambiguous or lack their value.
[[nodiscard]] inline std::vector<std::string> with_full_names(const CLI::App& app,
                                                              const std::vector<std::string>& tokens) {
  std::vector<std::string_view> names;
  for (const CLI::Option* option : app.get_options())
    for (const std::string& name : option->get_lnames()) names.push_back(name);
  const auto full_name = [&](std::string name) -> std::string {
    std::replace(name.begin(), name.end(), '-', '_');
    std::vector<std::string_view> matches;
    for (const std::string_view known : names) {
      if (known == name) return name;
      if (!name.empty() && known.starts_with(name)) matches.push_back(known);
    }
    if (matches.size() == 1) return std::string(matches.front());
    if (matches.empty()) {
      const std::string nearest = nearest_name(name, names);
      throw input_error("unknown option --" + name +
                        (nearest.empty() ? std::string() : "; did you mean --" + nearest + "?") +
                        "; --help lists the flags");
    }
    std::string list;
    for (const std::string_view match : matches) list.append(list.empty() ? "--" : ", --").append(match);
    throw input_error("ambiguous option: --" + name + " could match " + list);
  };
  std::vector<std::string> all;
  for (std::size_t i = 0; i < tokens.size(); ++i) {
    const std::string& token = tokens[i];
    if (!token.starts_with("--") || token == "--") {
      if (token.size() > 1 && token.starts_with('-') && token != "-h")
        throw input_error("unknown option " + token + "; --help lists the flags");
      all.push_back(token);
      continue;
    }
    const std::size_t equals = token.find('=');
    const std::string name = full_name(token.substr(2, equals == std::string::npos ? equals : equals - 2));
    const bool takes_value = app.get_option("--" + name)->get_items_expected_max() > 0;
    if (!takes_value) {
      std::string value = equals == std::string::npos ? "true" : token.substr(equals + 1);
      if (name.starts_with("no_")) {
        if (equals != std::string::npos) throw input_error("--" + name + " takes no value");
      } else if (equals == std::string::npos && i + 1 < tokens.size() && is_true_or_false(tokens[i + 1])) {
        value = tokens[++i];
      }
      all.push_back("--" + name + (parse_boolean(name, value) ? "" : "=false"));
      continue;
    }
    if (equals == std::string::npos && i + 1 == tokens.size())
      throw input_error("--" + name + ": a value is needed after it");
    const std::string value = equals == std::string::npos ? tokens[++i] : token.substr(equals + 1);
    // CLI11 drops an empty value behind '='.
    if (value.empty()) {
      all.push_back("--" + name);
      all.emplace_back();
    } else {
      all.push_back("--" + name + "=" + value);
    }
  }
  return all;
}

/// One line for each given flag that changes nothing, and for lengths that contradict each other.
[[nodiscard]] inline std::string useless_flags(const generation_options& how,
                                               const std::set<std::string>& given) {
  std::string text;
  const auto note = [&](bool useless, const char* name, const char* reason) {
    if (!useless || !given.contains(name)) return;
    text.append(text.empty() ? "--" : "\n--").append(name).append(" has no effect ").append(reason);
  };
  for (const char* name : {"temperature", "top_k", "top_p", "seed"})
    note(!how.do_sample, name, "without --do_sample");
  for (const char* name : {"early_stopping", "length_penalty"})
    note(how.num_beams == 1, name, "with one beam (--num_beams)");
  if (how.min_length > how.max_length) {
    text += (text.empty() ? "" : "\n") + std::string("--min_length ") + std::to_string(how.min_length) +
            " is above --max_length " + std::to_string(how.max_length) +
            ": every translation is cut at the latter";
  }
  return text;
}

}  // namespace detail

/// model: what holds where no flag is given, the model's generation_config. Throws input_error naming the
/// flag, its value and the repair.
[[nodiscard]] inline translate_options parse_translate_options(int argc, const char* const* argv,
                                                               const generation_config& model = {}) {
  translate_options chosen;
  generation_options& generation = chosen.generation;
  generation = model.options;
  // A model that says nothing about lengths would stop in the middle of most sentences.
  if (!model.says_length) generation.max_length = 128;
  double repetition_penalty = generation.repetition_penalty;
  double temperature = generation.temperature;
  double top_p = generation.top_p;

  constexpr index_t longest = index_t{1} << 20;
  option_binder bind;
  bind.text("model_name_or_path", chosen.model_name_or_path);
  bind.text("input", chosen.input);
  bind.text("output", chosen.output);
  bind.text("source_prefix", chosen.source_prefix);
  bind.text("model_revision", chosen.model_revision);
  bind.text("cache_dir", chosen.cache_dir);
  bind.text("generation_config", chosen.generation_config);
  bind.integer("batch_size", chosen.batch_size, 1, "a number of sentences of at least 1", index_t{1} << 16);
  bind.integer("max_source_length", chosen.max_source_length, 1, "a number of tokens of at least 1", longest);
  bind.integer("max_length", generation.max_length, 2, "a number of tokens of at least 2", longest);
  bind.integer("min_length", generation.min_length, 0, "a number of tokens of at least 0", longest);
  bind.integer("num_beams", generation.num_beams, 1, "a number of beams of at least 1", 1024);
  bind.number("length_penalty", generation.length_penalty, {-1e6, 1e6, "a number"});
  bind.choice<early_stopping_rule>("early_stopping", generation.early_stopping,
                                   {{"true", early_stopping_rule::when_full},
                                    {"True", early_stopping_rule::when_full},
                                    {"false", early_stopping_rule::heuristic},
                                    {"False", early_stopping_rule::heuristic},
                                    {"never", early_stopping_rule::never}});
  bind.integer("no_repeat_ngram_size", generation.no_repeat_ngram_size, 0,
               "a number of tokens, or 0 for none,", longest);
  bind.number("repetition_penalty", repetition_penalty, {1e-6, 1e6, "a number above 0"});
  bind.number("temperature", temperature, {1e-6, 1e6, "a number above 0"});
  bind.integer("top_k", generation.top_k, 0, "a number of tokens, or 0 for all,", index_t{1} << 24);
  bind.number("top_p", top_p, {1e-6, 1, "a share above 0 and at most 1"});
  bind.seed("seed", [&](std::uint64_t seed) { generation.seed = static_cast<std::uint32_t>(seed); });
  bind.integer("threads", chosen.threads, 0, "a number of threads, or 0 for all cores,", 1024);

  CLI::App app(
      "Translates lines of text with a saved T5: one line in, one line out. --a_b and --a-b are one; unique "
      "prefixes are enough. Of how sentences are generated, what no flag says is taken from the model's "
      "generation_config.json, if it has one.",
      "translate");
  app.option_defaults()->multi_option_policy(CLI::MultiOptionPolicy::TakeLast);
  std::set<std::string> given;
  // fallback: what holds without the flag, where no model says otherwise.
  const auto option = [&](const std::string& name, const std::string& text,
                          const std::string& fallback = {}) {
    const option_binder::setter* set = bind.find(name);
    app.add_option_function<std::string>(
        "--" + name,
        [&given, name, set](const std::string& value) {
          given.insert(name);
          (*set)(value);
        },
        fallback.empty() ? text : text + " [" + fallback + "]");
  };
  std::string positional;
  app.add_option("model", positional, "directory or Hub name of the model")
      ->multi_option_policy(CLI::MultiOptionPolicy::Throw);
  option("model_name_or_path", "the same as a flag");
  option("input", "text file, one sentence a line; - is standard input", "-");
  option("output",
         "the file for the translations, written whole at the end; - is standard output, as they come", "-");
  option("source_prefix",
         "text before every sentence, as in training, e.g. 'translate English to Romanian: '");
  option("model_revision", "branch, tag or commit in the Hub cache", "main");
  option("cache_dir", "the Hub cache to read instead of HF_HUB_CACHE");
  option("generation_config",
         "file, directory or Hub name of a generation_config.json, in place of the model's");
  option("batch_size", "sentences at a time", "16");
  option("max_source_length", "tokens; longer sentences are cut", "512");
  option("max_length", "tokens of a translation, start token included", "the model's, else 128");
  option("min_length", "tokens of a translation at least", "the model's, else 0");
  option("num_beams", "beams; 1 is greedy search", "the model's, else 1");
  option("length_penalty", "exponent of a hypothesis's length, with beams", "the model's, else 1");
  option("early_stopping", "true, false or never, with beams", "the model's, else false");
  option("no_repeat_ngram_size", "forbid n-grams of this size to come twice; 0: off", "the model's, else 0");
  option("repetition_penalty", "above 1: fewer repetitions", "the model's, else 1");
  app.add_flag("--do_sample,!--no_do_sample", generation.do_sample,
               "sample instead of taking the best; --do_sample=false: not [the model's]");
  option("temperature", "of sampling", "the model's, else 1");
  option("top_k", "sample from the best k tokens; 0: from all", "the model's, else 50");
  option("top_p", "sample from the best tokens of this probability", "the model's, else 1");
  option("seed", "of sampling", "42");
  option("threads", "CPU threads; 0: all cores", "0");
  app.add_flag("--fp16", chosen.fp16, "weights in float16");
  app.add_flag("--bf16", chosen.bf16, "weights in bfloat16");
  app.add_flag("--use_cpu", chosen.use_cpu, "do not use a GPU");
  app.add_flag("--plan", chosen.plan, "print the memory plan and exit");
  try {
    std::vector<std::string> tokens = detail::with_full_names(app, {argv + std::min(argc, 1), argv + argc});
    std::reverse(tokens.begin(), tokens.end());  // CLI11 reads this vector from its end
    app.parse(tokens);
  } catch (const CLI::CallForHelp&) {
    chosen.help_text = app.help();
    return chosen;
  } catch (const CLI::ParseError& e) {
    throw input_error(std::string(e.what()) + "; --help lists the flags");
  }
  if (!positional.empty()) {
    if (!chosen.model_name_or_path.empty()) {
      throw input_error("the model is named twice, " + positional + " and --model_name_or_path " +
                        chosen.model_name_or_path + "; leave one out");
    }
    chosen.model_name_or_path = positional;
  }
  if (chosen.model_name_or_path.empty())
    throw input_error("no model: give its directory or Hub name, as in: translate output_dir");
  if (chosen.fp16 && chosen.bf16) throw input_error("--fp16 --bf16: a model has one of them; leave one out");
  generation.repetition_penalty = static_cast<float>(repetition_penalty);
  generation.temperature = static_cast<float>(temperature);
  generation.top_p = static_cast<float>(top_p);
  if (generation.do_sample && generation.num_beams > 1 && model.options.do_sample) {
    throw input_error((given.contains("num_beams") ? "--num_beams " : model.file + ": \"num_beams\" is ") +
                      std::to_string(generation.num_beams) + ", and " + model.file +
                      " has \"do_sample\": true: sampling goes with one beam; give --do_sample=false, or "
                      "--num_beams 1");
  }
  if (generation.do_sample && generation.num_beams > 1) {
    throw input_error("--do_sample with --num_beams " + std::to_string(generation.num_beams) +
                      ": sampling goes with one beam; leave one of them out");
  }
  chosen.notice = detail::useless_flags(generation, given);
  return chosen;
}

}  // namespace t5zero
