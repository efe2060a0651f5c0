#include <t5zero/train/coming_batches.hpp>

#include <t5zero/data/train_sentencepiece.hpp>

#include <algorithm>
#include <numeric>
#include <string>
#include <vector>

#include "catch.hpp"

namespace {

using t5zero::batch_shape;
using t5zero::index_t;

// 40 pairs, of 1 to 40 words, the targets' lengths the other way around.
t5zero::tokenized_dataset make_data() {
  const t5zero::tokenizer text{t5zero::train_sentencepiece({"a dog runs home", "a cat sleeps here"}, 40),
                               "test"};
  std::vector<t5zero::text_pair> pairs;
  const auto words = [](int count) {
    std::string line = "dog";
    for (int i = 1; i < count; ++i) line += i % 3 == 0 ? " cat" : " dog";
    return line;
  };
  for (int i = 0; i < 40; ++i) pairs.push_back({words(1 + i), words(40 - i)});
  return {pairs, text, "", 512, 512, {}};
}

// What the loop does, batch by batch: the shapes of the batches of `updates` updates.
batch_shape seen(const t5zero::tokenized_dataset& data, const t5zero::loop_options& options,
                 index_t per_epoch, index_t epoch, index_t updates) {
  batch_shape largest;
  for (index_t batch = 0, update = 0; update < updates; ++update) {
    const std::vector<index_t> order = order_of_epoch(data, options, epoch);
    for (index_t i = 0; i < options.gradient_accumulation && batch < per_epoch; ++i, ++batch) {
      const index_t first = batch * options.batch_size;
      const std::vector<index_t> examples(order.begin() + first,
                                          order.begin() + std::min(first + options.batch_size, data.size()));
      largest = largest.covering(data.shape_of(examples));
    }
    if (batch == per_epoch) {
      batch = 0;
      ++epoch;
    }
  }
  return largest;
}

void check_same(const batch_shape& a, const batch_shape& b) {
  CHECK(a.batch == b.batch);
  CHECK(a.source_tokens == b.source_tokens);
  CHECK(a.target_tokens == b.target_tokens);
  CHECK(a.max_source_length == b.max_source_length);
  CHECK(a.max_target_length == b.max_target_length);
}

}  // namespace

TEST_CASE("the largest coming batch is that of the updates to come, not of all orders") {
  const t5zero::tokenized_dataset data = make_data();
  t5zero::loop_options options;
  options.batch_size = 3;
  options.gradient_accumulation = 2;
  const t5zero::step_arithmetic steps(data.size(), {.batch_size = 3, .gradient_accumulation_steps = 2});
  REQUIRE(steps.batches_per_epoch == 14);
  REQUIRE(steps.updates_per_epoch == 7);
  for (const index_t epoch : {0, 3}) {
    for (const index_t updates : {1, 2, 6, 7, 8, 14, 30}) {
      CAPTURE(epoch, updates);
      check_same(largest_coming_batch(data, options, steps, epoch, updates),
                 seen(data, options, steps.batches_per_epoch, epoch, updates));
    }
  }
  const batch_shape one = largest_coming_batch(data, options, steps, 0, 1);
  const batch_shape many = largest_coming_batch(data, options, steps, 0, 700);
  CHECK(one.source_tokens < many.source_tokens);
  // A training without an end is bounded by the longest examples together.
  check_same(largest_coming_batch(data, options, steps, 0, index_t{1} << 40),
             data.largest_batch_of_any_order(3));
  // Nothing is left: room for a batch all the same.
  check_same(largest_coming_batch(data, options, steps, 0, 0), one);
}

TEST_CASE("grouped by length, the first batch has the longest sources together") {
  const t5zero::tokenized_dataset data = make_data();
  t5zero::loop_options options;
  options.batch_size = 4;
  options.groups_by_length = true;
  const t5zero::step_arithmetic steps(data.size(), {.batch_size = 4});
  const batch_shape largest = largest_coming_batch(data, options, steps, 0, 30);
  check_same(largest, seen(data, options, steps.batches_per_epoch, 0, 30));
  CHECK(largest.max_source_length == static_cast<index_t>(data.source(39).size()));
}
