// Time of generation, t5-small with random weights, on the first sentences of a file; every sentence gets
// exactly `tokens` new tokens:
//   generation_bench <train.jsonl> <spiece.model> <fp32|fp16|bf16> <batch> <beams> <tokens> [rounds]
//   [threads]
// One JSON line on stdout: milliseconds of one step of the whole batch (median, minimum over rounds; the
// encoder's share included), planned bytes, peak resident bytes.
#include <sys/resource.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <iostream>
#include <numeric>
#include <string>
#include <vector>

#include <t5zero/cpu.hpp>
#include <t5zero/data/batcher.hpp>
#include <t5zero/data/tokenizer.hpp>
#include <t5zero/data/translation_pairs.hpp>

namespace {

using t5zero::index_t;

struct measurement {
  index_t batch = 4, beams = 1, tokens = 64, rounds = 4;
  int threads = 1;
};

template <class Precision>
void measure(const t5zero::tokenized_dataset& data, const measurement& asked) {
  using run = t5zero::run<t5zero::t5_small, t5zero::zero_0, Precision, t5zero::cpu::backend>;
  t5zero::generation_options generation;
  generation.num_beams = asked.beams;
  generation.max_length = asked.tokens + 1;
  generation.min_length = generation.max_length;
  t5zero::trainer_options options;
  options.threads = asked.threads;
  options.trains = false;
  options.generation = generation.shape(t5zero::t5_small::shape.vocab_size);
  const t5zero::batch_shape largest = data.largest_batch(asked.batch);
  t5zero::trainer<run> trainer(t5zero::t5_small::shape, largest, options);
  trainer.initialize(0);
  t5zero::micro_batch batch(largest);
  std::vector<double> milliseconds;
  std::vector<index_t> examples(static_cast<std::size_t>(asked.batch));
  long long checksum = 0;
  for (index_t round = 0; round < asked.rounds + 1; ++round) {  // one to warm up
    std::iota(examples.begin(), examples.end(), round * asked.batch % (data.size() - asked.batch + 1));
    batch.fill(data, examples, 0);
    const auto start = std::chrono::steady_clock::now();
    const auto& result = trainer.generate(batch.view(), generation);
    const std::chrono::duration<double, std::milli> taken = std::chrono::steady_clock::now() - start;
    for (const std::int32_t id : result.tokens(0)) checksum += id;
    if (round > 0) milliseconds.push_back(taken.count() / static_cast<double>(asked.tokens));
  }
  std::sort(milliseconds.begin(), milliseconds.end());
  struct rusage usage {};
  ::getrusage(RUSAGE_SELF, &usage);
  std::printf(
      "{\"work\": \"generate t5-small %s b%lld beams%lld\", \"ms_median\": %.2f, \"ms_min\": %.2f, "
      "\"rounds\": %zu, \"tokens\": %lld, \"threads\": %d, \"checksum\": %lld, \"planned_bytes\": %lld, "
      "\"peak_bytes\": %lld}\n",
      std::string(Precision::name).c_str(), static_cast<long long>(asked.batch),
      static_cast<long long>(asked.beams), milliseconds[milliseconds.size() / 2], milliseconds.front(),
      milliseconds.size(), static_cast<long long>(asked.tokens), asked.threads, checksum,
      static_cast<long long>(trainer.plan().total_bytes), static_cast<long long>(usage.ru_maxrss) * 1024);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 7) {
    std::cerr << "usage: generation_bench <train.jsonl> <spiece.model> <fp32|fp16|bf16> <batch> <beams> "
                 "<tokens> [rounds] [threads]\n";
    return 2;
  }
  try {
    const auto pairs = t5zero::read_translation_pairs(argv[1], {"en", "ro", 500});
    const auto text = t5zero::tokenizer::from_file(argv[2]);
    const t5zero::tokenized_dataset data(pairs, text, "translate English to Romanian: ", 1024, 128, {});
    const std::string precision = argv[3];
    const measurement asked{std::atoll(argv[4]), std::atoll(argv[5]), std::atoll(argv[6]),
                            argc > 7 ? std::atoll(argv[7]) : 4,
                            argc > 8 ? std::atoi(argv[8]) : t5zero::cpu::backend::default_threads()};
    if (precision == "fp16")
      measure<t5zero::fp16>(data, asked);
    else if (precision == "bf16")
      measure<t5zero::bf16>(data, asked);
    else
      measure<t5zero::fp32>(data, asked);
  } catch (const t5zero::error& e) {
    std::cerr << "generation_bench: " << e.what() << "\n";
    return e.exit_code();
  }
}
