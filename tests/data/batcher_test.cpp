#include <t5zero/data/batcher.hpp>
#include <t5zero/data/train_sentencepiece.hpp>

#include "catch.hpp"

namespace {

using t5zero::index_t;

t5zero::tokenizer make_tokenizer() {
  return {
      t5zero::train_sentencepiece({"a dog runs home", "a cat sleeps here", "dogs and cats and a home"}, 60),
      "test"};
}

const std::vector<t5zero::text_pair> pairs = {
    {"a dog", "a cat sleeps here"}, {"a cat sleeps", "a dog"}, {"home", "dogs and cats and a home"}};

t5zero::tokenized_dataset make_data(const t5zero::tokenizer& text) {
  return {pairs, text, "", 64, 64, {}};
}

}  // namespace

TEST_CASE("a batch lies without padding, targets shifted right") {
  const t5zero::tokenizer text = make_tokenizer();
  const t5zero::tokenized_dataset data = make_data(text);
  t5zero::micro_batch batch(data.largest_batch(2));
  const std::vector<index_t> examples = {2, 0};
  batch.fill(data, examples, 7);
  const t5zero::batch_view view = batch.view();
  REQUIRE(view.target.batch == 2);
  const auto first = data.target(2);
  const auto second = data.target(0);
  REQUIRE(view.target.tokens == static_cast<index_t>(first.size() + second.size()));
  CHECK(view.target.max_length == static_cast<index_t>(std::max(first.size(), second.size())));
  CHECK(std::equal(first.begin(), first.end(), view.labels));
  CHECK(view.decoder_ids[0] == 0);
  CHECK(std::equal(first.begin(), first.end() - 1, view.decoder_ids + 1));
  CHECK(view.decoder_ids[first.size()] == 0);  // the second sequence starts anew
  CHECK(view.target.rows[0] == 7);
  CHECK(view.target.rows[view.target.tokens - 1] == 8);
  CHECK(view.target.positions[first.size()] == 0);
}

TEST_CASE("padding that counts in the loss is made of tokens") {
  const t5zero::tokenizer text = make_tokenizer();
  const t5zero::tokenized_dataset data = make_data(text);
  const auto longest = static_cast<index_t>(std::max(data.target(0).size(), data.target(1).size()));
  const std::vector<index_t> examples = {0, 1};
  const auto check = [&](const t5zero::target_padding& padding, index_t length) {
    t5zero::micro_batch batch(data.largest_batch(3, padding));
    batch.fill(data, examples, 0, 0, padding);
    const t5zero::batch_view view = batch.view();
    CHECK(view.target.tokens == 2 * length);
    CHECK(view.target.length(1) == length);
    const auto target = data.target(1);
    const index_t second = view.target.offsets[1];
    const auto end = second + static_cast<index_t>(target.size());
    CHECK(view.labels[end - 1] == t5zero::tokenizer::eos_id);
    CHECK(view.labels[end] == t5zero::tokenizer::pad_id);
    CHECK(view.decoder_ids[end] == t5zero::tokenizer::eos_id);
    CHECK(view.labels[second + length - 1] == t5zero::tokenizer::pad_id);
  };
  check({.counts_in_loss = true}, longest);
  check({.counts_in_loss = true, .multiple = 8}, t5zero::round_up(longest, 8));
  check({.counts_in_loss = true, .multiple = 8, .fixed_length = 50}, 50);
}

TEST_CASE("the largest batch holds those of the file's order, and no more") {
  const t5zero::tokenizer text = make_tokenizer();
  const t5zero::tokenized_dataset data = make_data(text);
  const auto tokens = [](std::span<const std::int32_t> of) { return static_cast<index_t>(of.size()); };
  const t5zero::batch_shape shape = data.largest_batch(2);  // {0, 1} and {2}
  CHECK(shape.batch == 2);
  CHECK(shape.source_tokens ==
        std::max(tokens(data.source(0)) + tokens(data.source(1)), tokens(data.source(2))));
  CHECK(shape.target_tokens ==
        std::max(tokens(data.target(0)) + tokens(data.target(1)), tokens(data.target(2))));
  CHECK(shape.max_target_length ==
        std::max({tokens(data.target(0)), tokens(data.target(1)), tokens(data.target(2))}));
  CHECK(data.largest_batch(100).batch == 3);
  const t5zero::batch_shape padded = data.largest_batch(2, {.counts_in_loss = true, .multiple = 64});
  CHECK(padded.target_tokens == 128);
  CHECK(padded.max_target_length == 64);
}

TEST_CASE("the largest batch of any order bounds every batch") {
  const t5zero::tokenizer text = make_tokenizer();
  const t5zero::tokenized_dataset data = make_data(text);
  const t5zero::batch_shape shape = data.largest_batch_of_any_order(2);
  for (index_t i = 0; i < data.size(); ++i) {
    for (index_t j = 0; j < data.size(); ++j) {
      if (i == j) continue;
      CHECK(static_cast<index_t>(data.source(i).size() + data.source(j).size()) <= shape.source_tokens);
      CHECK(static_cast<index_t>(data.target(i).size() + data.target(j).size()) <= shape.target_tokens);
    }
  }
  CHECK(data.largest_batch_of_any_order(100).batch == 3);
}
