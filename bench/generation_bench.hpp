// Time of generation, t5-small with random weights, on the first sentences of a file; every sentence gets
// exactly `tokens` new tokens:
//   generation_bench <train.jsonl> <spiece.model> <fp32|fp16|bf16> <batch> <beams> <tokens> [rounds]
//   [threads]
// One JSON line on stdout: milliseconds of one step of the whole batch (median, minimum over rounds; the
// encoder's share included), its floor where the device's ceilings are known, planned bytes, bytes in use.
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

struct generation_work {
  index_t batch = 4, beams = 1, tokens = 64, rounds = 4;
  int threads = 1;
};

template <class Precision, class Backend, measured_machine Machine>
void measure_generation(const t5zero::tokenized_dataset& data, const generation_work& asked,
                        const Machine& machine) {
  using run = t5zero::run<t5zero::t5_small, t5zero::zero_0, Precision, Backend>;
  t5zero::generation_options generation;
  generation.num_beams = asked.beams;
  generation.max_length = asked.tokens + 1;
  generation.min_length = generation.max_length;
  t5zero::trainer_options options;
  options.threads = asked.threads;
  options.trains = Precision::has_master_weights;  // a 16-bit evaluation cannot draw weights
  options.generation = generation.shape(t5zero::t5_small::shape.vocab_size);
  const t5zero::batch_shape largest = data.largest_batch(asked.batch);
  t5zero::trainer<run> trainer(t5zero::t5_small::shape, largest, options);
  const index_t context = context_bytes(machine, trainer);
  trainer.initialize(0);
  t5zero::micro_batch batch(largest);
  std::vector<double> milliseconds;
  std::vector<index_t> examples(static_cast<std::size_t>(asked.batch));
  long long checksum = 0;
  for (index_t round = 0; round < 3 * asked.rounds; ++round) {  // every shape is seen twice before
    std::iota(examples.begin(), examples.end(),
              round % asked.rounds * asked.batch % (data.size() - asked.batch + 1));
    batch.fill(data, examples, 0);
    const auto start = std::chrono::steady_clock::now();
    const auto& result = trainer.generate(batch.view(), generation);
    const std::chrono::duration<double, std::milli> taken = std::chrono::steady_clock::now() - start;
    for (const std::int32_t id : result.tokens(0)) checksum += id;
    if (round >= 2 * asked.rounds) milliseconds.push_back(taken.count() / static_cast<double>(asked.tokens));
  }
  std::sort(milliseconds.begin(), milliseconds.end());
  std::string floor = "null";
  if (const auto known = ceilings_of(machine.name()))
    floor = std::to_string(token_floor<Precision>(*known, t5zero::t5_small::shape));
  std::printf(
      "{\"work\": \"generate t5-small %s b%lld beams%lld\", \"backend\": \"%s\", \"device\": \"%s\", "
      "\"ms_median\": %.4f, "
      "\"ms_min\": %.4f, \"floor_ms\": %s, "
      "\"rounds\": %zu, \"tokens\": %lld, \"threads\": %d, \"checksum\": %lld, \"planned_bytes\": %lld, "
      "\"context_bytes\": %lld, \"peak_bytes\": %lld}\n",
      std::string(Precision::name).c_str(), static_cast<long long>(asked.batch),
      static_cast<long long>(asked.beams), std::string(Backend::name).c_str(),
      std::string(machine.name()).c_str(), milliseconds[milliseconds.size() / 2], milliseconds.front(),
      floor.c_str(), milliseconds.size(), static_cast<long long>(asked.tokens), asked.threads, checksum,
      static_cast<long long>(trainer.plan().total_bytes), static_cast<long long>(context),
      static_cast<long long>(machine.used_bytes()));
}

/// Runs what the arguments ask for with this backend; the exit code.
template <class Backend, measured_machine Machine>
int run_generation_bench(int argc, char** argv, const Machine& machine) {
  return t5zero::cli::report_errors(argv[0], [&] {
    const arguments given(
        argc, argv, 7,
        "<train.jsonl> <spiece.model> <fp32|fp16|bf16> <batch> <beams> <tokens> [rounds] [threads]");
    require_device<Backend>();
    const std::string precision = given.one_of(3, "precision", {"fp32", "fp16", "bf16"});
    const generation_work asked{
        given.positive(4, "batch"), given.positive(5, "beams"), given.positive(6, "tokens"),
        given.positive_or(7, "rounds", 4),
        static_cast<int>(given.positive_or(8, "threads", Backend::default_threads()))};
    const auto pairs = t5zero::read_translation_pairs(given.text(1), {"en", "ro", 500});
    const auto text = t5zero::tokenizer::from_file(given.text(2));
    const t5zero::tokenized_dataset data(pairs, text, "translate English to Romanian: ", 1024, 128, {});
    if (precision == "fp16")
      measure_generation<t5zero::fp16, Backend>(data, asked, machine);
    else if (precision == "bf16")
      measure_generation<t5zero::bf16, Backend>(data, asked, machine);
    else
      measure_generation<t5zero::fp32, Backend>(data, asked, machine);
    return 0;
  });
}

}  // namespace t5zero_bench
