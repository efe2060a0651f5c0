// Time of a training step (forward, backward, clip, AdamW, dropout 0.1) of t5-small on the first sentences of
// a file:
//   step_bench <train.jsonl> <spiece.model> <fp32|fp16|bf16> <batch> [steps] [threads]
// One JSON line on stdout: milliseconds (median, minimum), tokens, planned bytes, peak resident bytes.
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

template <class Precision>
void measure(const t5zero::tokenized_dataset& data, index_t batch_size, index_t steps, int threads) {
  using run = t5zero::run<t5zero::t5_small, t5zero::zero_2, Precision, t5zero::cpu::backend>;
  t5zero::trainer_options options;
  options.threads = threads;
  t5zero::batch_shape largest = data.largest_batch(batch_size);
  t5zero::trainer<run> trainer(t5zero::t5_small::shape, largest, options);
  trainer.initialize(0);
  t5zero::micro_batch batch(largest);
  std::vector<double> milliseconds;
  std::vector<index_t> examples(static_cast<std::size_t>(batch_size));
  double loss = 0.0;
  index_t tokens = 0;
  for (index_t step = 0; step < steps + 2; ++step) {  // two to warm up
    std::iota(examples.begin(), examples.end(), step * batch_size % (data.size() - batch_size + 1));
    batch.fill(data, examples, 0);
    const auto start = std::chrono::steady_clock::now();
    loss = trainer.train_micro_batch(batch.view());
    trainer.update(5e-5);
    const std::chrono::duration<double, std::milli> taken = std::chrono::steady_clock::now() - start;
    if (step < 2) continue;
    milliseconds.push_back(taken.count());
    tokens += batch.view().source.tokens + batch.view().target.tokens;
  }
  std::sort(milliseconds.begin(), milliseconds.end());
  struct rusage usage {};
  ::getrusage(RUSAGE_SELF, &usage);
  std::printf(
      "{\"work\": \"t5-small %s b%lld\", \"ms_median\": %.1f, \"ms_min\": %.1f, \"steps\": %zu, "
      "\"tokens\": %lld, \"threads\": %d, \"last_loss\": %.4f, \"planned_bytes\": %lld, \"peak_bytes\": "
      "%lld}\n",
      std::string(Precision::name).c_str(), static_cast<long long>(batch_size),
      milliseconds[milliseconds.size() / 2], milliseconds.front(), milliseconds.size(),
      static_cast<long long>(tokens), threads, loss, static_cast<long long>(trainer.plan().total_bytes),
      static_cast<long long>(usage.ru_maxrss) * 1024);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 5) {
    std::cerr
        << "usage: step_bench <train.jsonl> <spiece.model> <fp32|fp16|bf16> <batch> [steps] [threads]\n";
    return 2;
  }
  try {
    const auto pairs = t5zero::read_translation_pairs(argv[1], {"en", "ro", 500});
    const auto text = t5zero::tokenizer::from_file(argv[2]);
    const t5zero::tokenized_dataset data(pairs, text, "translate English to Romanian: ", 1024, 128, {});
    const std::string precision = argv[3];
    const index_t batch = std::atoll(argv[4]);
    const index_t steps = argc > 5 ? std::atoll(argv[5]) : 20;
    const int threads = argc > 6 ? std::atoi(argv[6]) : t5zero::cpu::backend::default_threads();
    if (precision == "fp16")
      measure<t5zero::fp16>(data, batch, steps, threads);
    else if (precision == "bf16")
      measure<t5zero::bf16>(data, batch, steps, threads);
    else
      measure<t5zero::fp32>(data, batch, steps, threads);
  } catch (const t5zero::error& e) {
    std::cerr << "step_bench: " << e.what() << "\n";
    return e.exit_code();
  }
}
