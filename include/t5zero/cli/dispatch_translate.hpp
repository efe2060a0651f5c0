// Picks the model and precision that a `translate` command line asks for.
#pragma once

#include <iostream>
#include <span>
#include <string>

#include <t5zero/cli/dispatch.hpp>
#include <t5zero/cli/program.hpp>
#include <t5zero/cli/translate_options.hpp>
#include <t5zero/core/error.hpp>

namespace t5zero {

/// `runs`: of ZeRO stage 0. A model or precision that was not compiled is refused with the list of those that
/// were.
inline int dispatch_translate(std::span<const compiled_run> runs, int argc, char** argv) {
  return cli::report_errors(argc > 0 ? argv[0] : "translate", [&]() -> int {
    const translate_options chosen = parse_translate_options(argc, argv);
    if (!chosen.help_text.empty()) {
      std::cout << chosen.help_text;
      return 0;
    }
    options model;
    model.model_name_or_path = chosen.model_name_or_path;
    model.model_revision = chosen.model_revision;
    model.cache_dir = chosen.cache_dir;
    const std::string name = cli::model_name(model, runs);
    std::string compiled;
    const compiled_run* const run = cli::find_run(
        runs, chosen.use_cpu,
        [&](const compiled_run& one) { return one.model == name && one.precision == chosen.precision(); },
        compiled);
    if (run != nullptr) return run->entry(argc, argv);
    throw input_error(name + " in " + std::string(chosen.precision()) +
                      " was not compiled into this program. These were:" + compiled +
                      "\nAnother: t5zero_add_translate(NAME my_translate RUNS \"<model> <precision>\" ...)");
  });
}

}  // namespace t5zero
