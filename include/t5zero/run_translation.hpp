// The command line around a run: run_translation<run<...>>(argc, argv) is a whole program.
#pragma once

#include <filesystem>
#include <iostream>
#include <optional>
#include <string>
#include <utility>

#include <t5zero/cli/options.hpp>
#include <t5zero/cli/parse_options.hpp>
#include <t5zero/cli/program.hpp>
#include <t5zero/cli/run_constraints.hpp>
#include <t5zero/cli/trainer_settings.hpp>
#include <t5zero/cli/translation_job.hpp>
#include <t5zero/core/error.hpp>
#include <t5zero/train/report.hpp>
#include <t5zero/train/run.hpp>
#include <t5zero/zero/read_ds_config.hpp>

namespace t5zero {

/// Parses the command line and trains, evaluates or plans. Returns the exit code: 0, 1 (failed), 2 (wrong
/// input).
template <class Run>
int run_translation(int argc, char** argv) {
  return cli::report_errors(argc > 0 ? argv[0] : "run_translation", [&] {
    cli::check_one_rank();
    options chosen = parse_options(argc, argv);
    if (!chosen.help_text.empty()) {
      std::cout << chosen.help_text;
      return 0;
    }
    std::optional<ds_config> config = cli::read_deepspeed(chosen);
    if (config) cli::tell_place_of(*config, chosen);
    const std::string executable = std::filesystem::path(argc > 0 ? argv[0] : "").filename().string();
    check_run_constraints(chosen, config ? &*config : nullptr,
                          {executable, Run::model::name, Run::zero::stage, Run::precision::name});
    if (chosen.use_cpu && Run::backend::name != "cpu") {
      throw input_error(
          "--use_cpu, and this run is for a GPU: use run_translation, which holds every compiled run, or "
          "leave the flag out");
    }
    if (config) {
      if (const std::string notice = ds_config_notice(*config); !notice.empty()) std::cerr << notice << "\n";
    }
    if (chosen.plan) {
      const batch_shape batch = cli::longest_batch(chosen);
      std::cout << plan_table(
          Run::name(), batch, parameter_count<typename Run::model>(),
          Run::plan(Run::model::shape, batch,
                    cli::plan_options_of<typename Run::backend>(chosen, Run::model::shape.vocab_size)));
      if (Run::zero::shards_optimizer) {
        std::cout << "One rank without offload: " << Run::zero::name << " saves nothing here.\n";
      }
      return 0;
    }
    if (const std::string why = Run::backend::why_unavailable(); !why.empty()) {
      throw input_error("this run is for a GPU, and there is none that CUDA can use (" + why +
                        "): use run_translation, which holds runs for the CPU too, or the programs of the "
                        "preset cpu");
    }
    if (!chosen.args_file.empty())
      std::cerr << "arguments of " << chosen.args_file << " stand before those of the command line\n";
    if (!chosen.notice.empty()) std::cerr << chosen.notice << "\n";
    return cli::translation_job<Run>(std::move(chosen), std::move(config)).run();
  });
}

}  // namespace t5zero
