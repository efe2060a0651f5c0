// A program that translates: translate<run<...>>(argc, argv).
#pragma once

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <iostream>
#include <numeric>
#include <optional>
#include <string>
#include <system_error>
#include <vector>

#include <t5zero/cli/find_model.hpp>
#include <t5zero/cli/find_tokenizer.hpp>
#include <t5zero/cli/generation_choice.hpp>
#include <t5zero/cli/options.hpp>
#include <t5zero/cli/program.hpp>
#include <t5zero/cli/translate_options.hpp>
#include <t5zero/core/error.hpp>
#include <t5zero/core/utf8.hpp>
#include <t5zero/data/batcher.hpp>
#include <t5zero/data/decoded_text.hpp>
#include <t5zero/data/tokenizer.hpp>
#include <t5zero/io/generation_config.hpp>
#include <t5zero/io/line_reader.hpp>
#include <t5zero/io/line_writer.hpp>
#include <t5zero/io/weights.hpp>
#include <t5zero/model/generation_options.hpp>
#include <t5zero/train/report.hpp>
#include <t5zero/train/run.hpp>
#include <t5zero/train/trainer.hpp>

namespace t5zero {

namespace cli {

/// Translates the lines of one batch; an empty line stays empty. What it is made of outlives it.
template <class Run>
class line_translator {
 public:
  line_translator(const model_files& files, const tokenizer& text, const translate_options& chosen,
                  const generation_options& how)
      : chosen_(&chosen),
        how_(how),
        text_(&text),
        cleans_up_(files.tokenizer_config.value("clean_up_tokenization_spaces", false)),
        trainer_(files.config.shape, largest_batch(chosen), settings(chosen, how_, files.config.shape)),
        batch_(largest_batch(chosen)) {
    const stored_weights weights(*files.weights, trainer_.parameters(), files.source);
    trainer_.load([&](const parameter_row& row, float* to) { weights.of(row).read(to); });
  }

  [[nodiscard]] static batch_shape largest_batch(const translate_options& chosen) {
    return batch_shape::of_lengths(chosen.batch_size, chosen.max_source_length, 1);
  }
  [[nodiscard]] static trainer_options settings(const translate_options& chosen,
                                                const generation_options& how, const model_shape& shape) {
    trainer_options options;
    options.trains = false;
    options.threads = chosen.threads > 0 ? static_cast<int>(chosen.threads) : Run::backend::default_threads();
    options.generation = how.shape(shape.vocab_size);
    return options;
  }

  /// first_line: of the whole input, from 0; what is sampled for a line depends on its number alone.
  [[nodiscard]] std::vector<std::string> translate(const std::vector<std::string>& lines,
                                                   index_t first_line) {
    std::vector<text_pair> pairs;
    std::vector<std::size_t> places;
    std::vector<std::uint32_t> rows;
    for (std::size_t i = 0; i < lines.size(); ++i) {
      if (stripped(lines[i]).empty()) continue;
      pairs.push_back({lines[i], ""});
      places.push_back(i);
      rows.push_back(static_cast<std::uint32_t>(first_line + static_cast<index_t>(i)));
    }
    std::vector<std::string> translations(lines.size());
    if (pairs.empty()) return translations;
    const tokenized_dataset data(pairs, *text_, chosen_->source_prefix, chosen_->max_source_length, 1, {});
    cut_ += data.statistics().truncated_sources;
    std::vector<index_t> order(pairs.size());
    std::iota(order.begin(), order.end(), index_t{0});
    batch_.fill(data, order, rows);
    const auto& result = trainer_.generate(batch_.view(), how_);
    for (std::size_t i = 0; i < places.size(); ++i) {
      std::string text = text_->decode(result.tokens(static_cast<index_t>(i)));
      if (cleans_up_) text = clean_up_tokenization(std::move(text));
      translations[places[i]] = stripped(text);
    }
    return translations;
  }
  /// Sentences longer than max_source_length so far.
  [[nodiscard]] index_t cut() const { return cut_; }

 private:
  const translate_options* chosen_;
  generation_options how_;
  const tokenizer* text_;
  bool cleans_up_;
  trainer<Run> trainer_;
  micro_batch batch_;
  index_t cut_ = 0;
};

/// The options of find_model that translate has.
[[nodiscard]] inline options setup_options(const translate_options& chosen) {
  options setup;
  setup.model_name_or_path = chosen.model_name_or_path;
  setup.model_revision = chosen.model_revision;
  setup.cache_dir = chosen.cache_dir;
  setup.generation_config = chosen.generation_config;
  return setup;
}

/// Refuses what the generation would refuse. Throws input_error.
inline void check_generation(const generation_options& how, const generation_config& model,
                             index_t vocab_size) {
  if (how.num_beams > vocab_size) {
    throw input_error("--num_beams " + std::to_string(how.num_beams) + ": the model has only " +
                      std::to_string(vocab_size) + " tokens; give fewer");
  }
  check_forced_tokens(model, vocab_size);
  check_generation_options(how, vocab_size);
}

/// Drops the first line that is not UTF-8 and those after it; what is wrong with it, if there is one.
/// first_line: of the whole input, from 0.
[[nodiscard]] inline std::optional<input_error> cut_at_wrong_line(std::vector<std::string>& lines,
                                                                  const std::string& input,
                                                                  index_t first_line) {
  for (std::size_t i = 0; i < lines.size(); ++i) {
    try {
      check_utf8(lines[i], input + ":" + std::to_string(first_line + 1 + static_cast<index_t>(i)));
    } catch (const input_error& wrong) {
      lines.resize(i);
      return wrong;
    }
  }
  return std::nullopt;
}

/// Throws input_error if the translations would take the place of what is translated.
inline void check_distinct_files(const translate_options& chosen) {
  if (chosen.input == "-" || chosen.output == "-") return;
  std::error_code missing;
  if (!std::filesystem::equivalent(chosen.input, chosen.output, missing) ||
      !std::filesystem::is_regular_file(chosen.input, missing))
    return;
  throw input_error("--output " + chosen.output + ": is the file of --input; name another file");
}

}  // namespace cli

/// Reads lines, translates them in batches of what is ready, writes them in order. Returns the exit code: 0,
/// 1 (failed), 2 (wrong input).
template <class Run>
int translate(int argc, char** argv) {
  return cli::report_errors(argc > 0 ? argv[0] : "translate", [&] {
    translate_options chosen = parse_translate_options(argc, argv);
    if (!chosen.help_text.empty()) {
      std::cout << chosen.help_text;
      return 0;
    }
    const cli::model_files files =
        cli::find_model(cli::setup_options(chosen), Run::model::shape, Run::model::name, Run::name());
    // Once more: where no flag is given, the model's generation_config holds.
    chosen = parse_translate_options(argc, argv, files.generation);
    const generation_options& how = chosen.generation;
    using translator = cli::line_translator<Run>;
    const batch_shape largest = translator::largest_batch(chosen);
    const model_shape& shape = files.config.shape;
    cli::check_generation(how, files.generation, shape.vocab_size);
    const memory_plan plan =
        Run::plan(shape, largest, trainer<Run>::plan_options_of(translator::settings(chosen, how, shape)));
    if (chosen.use_cpu && Run::backend::name != "cpu") {
      throw input_error(
          "--use_cpu, and this program's run is for a GPU: use translate, which holds every compiled run, or "
          "leave the flag out");
    }
    if (chosen.plan) {
      std::cout << plan_table(Run::name(), largest, parameter_count(shape), plan);
      return 0;
    }
    const index_t available = Run::backend::memory::available_bytes();
    if (plan.total_bytes > available) {
      throw capacity_error(Run::name() + ": translating needs " + with_thousands(plan.total_bytes) +
                           " bytes, " + with_thousands(available) +
                           " are available; lower --batch_size, --num_beams, --max_source_length or "
                           "--max_length, or use --bf16");
    }
    const tokenizer text = tokenizer::from_file(*files.tokenizer_file);
    cli::check_tokenizer_fits(files, text.vocab_size(), "");
    cli::check_distinct_files(chosen);
    if (!chosen.notice.empty()) std::cerr << chosen.notice << "\n";
    line_reader input(chosen.input);
    line_writer output(chosen.output, "--output");
    translator translates(files, text, chosen, how);
    for (;;) {
      const index_t first = input.count();
      std::vector<std::string> lines = input.next(chosen.batch_size);
      if (lines.empty()) break;
      const std::optional<input_error> wrong = cli::cut_at_wrong_line(lines, input.name(), first);
      for (const std::string& line : translates.translate(lines, first)) output.add(line);
      output.flush();
      if (wrong) throw *wrong;
    }
    output.finish();
    if (translates.cut() > 0) {
      std::cerr << translates.cut() << " sentences were cut to " << chosen.max_source_length
                << " tokens; --max_source_length allows more\n";
    }
    return 0;
  });
}

}  // namespace t5zero
