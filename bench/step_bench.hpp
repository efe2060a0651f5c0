// Time of a training step (forward, backward, clip, AdamW, dropout 0.1) on the first sentences of a file:
//   step_bench <train.jsonl> <spiece.model> <model> <fp32|tf32|fp16|bf16> <batch> [steps] [threads] [prefix]
//   [graphs|launches]
// One JSON line on stdout: milliseconds from result to result (median, minimum), tokens, the floor of the
// mean step where the device's ceilings are known, bytes: planned, taken by the driver's context (or the
// process) when the trainer was made, in use at the end. Updates are submitted as the training loop submits
// them.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <numeric>
#include <string>
#include <vector>

#include <t5zero/cli/program.hpp>
#include <t5zero/data/batcher.hpp>
#include <t5zero/data/tokenizer.hpp>
#include <t5zero/data/translation_pairs.hpp>
#include <t5zero/t5zero.hpp>

#include "arguments.hpp"
#include "floor.hpp"
#include "machine.hpp"

namespace t5zero_bench {

using t5zero::index_t;

struct step_work {
  std::string pairs, spiece, model, precision;
  index_t batch = 1;
  index_t steps = 20;
  int threads = 1;
  std::string prefix = "translate English to Romanian: ";
  bool uses_graphs = true;
};

template <class Run, measured_machine Machine>
void measure(const t5zero::tokenized_dataset& data, const step_work& work, const Machine& machine) {
  t5zero::trainer_options options;
  options.threads = work.threads;
  options.uses_graphs = work.uses_graphs;
  const auto examples_of = [&](index_t step) {
    std::vector<index_t> examples(static_cast<std::size_t>(work.batch));
    std::iota(examples.begin(), examples.end(),
              step % work.steps * work.batch % (data.size() - work.batch + 1));
    return examples;
  };
  t5zero::batch_shape largest;
  for (index_t step = 0; step < work.steps; ++step)
    largest = largest.covering(data.shape_of(examples_of(step)));
  t5zero::trainer<Run> trainer(Run::model::shape, largest, options);
  const index_t context = context_bytes(machine, trainer);
  trainer.initialize(0);
  t5zero::micro_batch batch(largest);
  std::vector<double> milliseconds;
  index_t source_tokens = 0;
  index_t target_tokens = 0;
  double loss = 0.0;
  // Every shape is seen twice before anything is timed: a graph is captured at its second use.
  const index_t warm_up = 2 * work.steps;
  auto last = std::chrono::steady_clock::now();
  index_t results = 0;
  const auto read_result = [&] {
    loss = trainer.next_result().losses.front();
    const auto now = std::chrono::steady_clock::now();
    if (results++ >= warm_up)
      milliseconds.push_back(std::chrono::duration<double, std::milli>(now - last).count());
    last = now;
  };
  // Behind each timed step as many are in flight as the backend allows, behind the last one too.
  const index_t timed_end = warm_up + work.steps;
  for (index_t step = 0; step < timed_end + trainer.updates_in_flight - 1; ++step) {
    batch.fill(data, examples_of(step), 0);
    if (step >= warm_up && step < timed_end) {
      source_tokens += batch.view().source.tokens;
      target_tokens += batch.view().target.tokens;
    }
    trainer.submit_micro_batch(batch.view(), 1);
    trainer.submit_update([](index_t) { return 5e-5; });
    while (trainer.outstanding() >= trainer.updates_in_flight) read_result();
  }
  while (trainer.outstanding() > 0) (void)trainer.next_result();
  std::sort(milliseconds.begin(), milliseconds.end());
  const double all = std::accumulate(milliseconds.begin(), milliseconds.end(), 0.0);
  const auto steps = static_cast<double>(work.steps);
  const double source = static_cast<double>(source_tokens) / steps;
  const double target = static_cast<double>(target_tokens) / steps;
  std::string floor = "null";
  if (const auto known = ceilings_of(machine.name())) {
    floor = std::to_string(step_floor<typename Run::precision>(*known, Run::model::shape, source, target));
  }
  std::printf(
      "{\"work\": \"%s %s b%lld\", \"backend\": \"%s\", \"device\": \"%s\", \"ms_median\": %.4f, "
      "\"ms_mean\": %.4f, \"ms_min\": %.4f, \"floor_ms\": %s, \"steps\": %zu, \"tokens_per_step\": %.1f, "
      "\"last_loss\": %.4f, \"planned_bytes\": %lld, \"context_bytes\": %lld, "
      "\"peak_bytes\": %lld}\n",
      std::string(Run::model::name).c_str(), work.precision.c_str(), static_cast<long long>(work.batch),
      std::string(Run::backend::name).c_str(), std::string(machine.name()).c_str(),
      milliseconds[milliseconds.size() / 2], all / static_cast<double>(milliseconds.size()),
      milliseconds.front(), floor.c_str(), milliseconds.size(), source + target, loss,
      static_cast<long long>(trainer.plan().total_bytes), static_cast<long long>(context),
      static_cast<long long>(machine.used_bytes()));
  std::fflush(stdout);
}

/// Runs what the arguments ask for with this backend; the exit code.
template <class Backend, measured_machine Machine>
int run_step_bench(int argc, char** argv, const Machine& machine) {
  using namespace t5zero;  // NOLINT(google-build-using-namespace)
  return cli::report_errors(argv[0], [&] {
    const arguments given(argc, argv, 6,
                          "<train.jsonl> <spiece.model> <t5-small|t5-base|t5-large|t5-3b> "
                          "<fp32|tf32|fp16|bf16> <batch> [steps] [threads] [prefix] [graphs|launches]");
    require_device<Backend>();
    step_work work{given.text(1), given.text(2), given.model(3),
                   given.one_of(4, "precision", {"fp32", "tf32", "fp16", "bf16"}),
                   given.positive(5, "batch")};
    work.steps = given.positive_or(6, "steps", work.steps);
    work.threads = static_cast<int>(given.positive_or(7, "threads", Backend::default_threads()));
    if (given.has(8)) work.prefix = given.text(8);
    work.uses_graphs = !given.has(9) || given.one_of(9, "how", {"graphs", "launches"}) == "graphs";
    const auto pairs = read_translation_pairs(work.pairs, {"en", "ro", 500});
    const auto text = tokenizer::from_file(work.spiece);
    const tokenized_dataset data(pairs, text, work.prefix, 1024, 128, {});
    bool found = false;
    for_each_type(type_list<t5_small, t5_base, t5_large, t5_3b>{}, [&]<class Model>() {
      for_each_type(all_precisions{}, [&]<class Precision>() {
        if constexpr (backend_for<Backend, Precision>) {
          if (work.model != Model::name || work.precision != Precision::name) return;
          found = true;
          measure<run<Model, zero_2, Precision, Backend>>(data, work, machine);
        }
      });
    });
    if (!found) throw input_error("<precision> is '" + work.precision + "', which the CPU has not");
    return 0;
  });
}

}  // namespace t5zero_bench
