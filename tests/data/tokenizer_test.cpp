#include <t5zero/data/batcher.hpp>
#include <t5zero/data/sampler.hpp>
#include <t5zero/data/tokenizer.hpp>

#include "catch.hpp"
#include "golden.hpp"
#include "skip.hpp"

namespace {
std::filesystem::path model_path() {
  return std::filesystem::path(T5ZERO_DATA_DIR) / "tokenizer" / "spiece.model";
}
}  // namespace

TEST_CASE("tokens equal Hugging Face's") {
  if (!golden::available()) {
    return skip_test("no reference values");
  }
  const auto text = t5zero::tokenizer::from_file(model_path());
  const nlohmann::json cases =
      golden::read_json(std::filesystem::path(T5ZERO_GOLDEN_DIR) / "tokenizer_cases.json");
  CHECK(text.vocab_size() == cases["hf_vocab"].get<t5zero::index_t>());
  std::size_t number = 0;
  for (const auto& one : cases["hf"]) {
    const auto input = one[0].get<std::string>();
    const auto expected = one[1].get<std::vector<std::int32_t>>();
    CAPTURE(input);
    CHECK(text.encode(input).ids == expected);
    CHECK(text.decode(expected) == cases["hf_decode"][number++].get<std::string>());
  }
}

TEST_CASE("truncation keeps eos") {
  if (!golden::available()) return skip_test("no reference values");
  const auto text = t5zero::tokenizer::from_file(model_path());
  const t5zero::encoding whole = text.encode("A federal judge on Tuesday accepted the charges");
  const t5zero::encoding cut = text.encode("A federal judge on Tuesday accepted the charges", 4);
  CHECK_FALSE(whole.truncated);
  CHECK(cut.truncated);
  REQUIRE(cut.ids.size() == 4);
  CHECK(cut.ids.back() == 1);
  CHECK(std::equal(cut.ids.begin(), cut.ids.end() - 1, whole.ids.begin()));
  const auto exact = static_cast<t5zero::index_t>(whole.ids.size());
  CHECK_FALSE(text.encode("A federal judge on Tuesday accepted the charges", exact).truncated);
}

TEST_CASE("epochs are shuffled as accelerate does") {
  if (!golden::available()) {
    return skip_test("no reference values");
  }
  for (const auto& one :
       golden::read_json(std::filesystem::path(T5ZERO_GOLDEN_DIR) / "shuffle_orders.json")) {
    std::uint32_t epoch = 0;
    for (const auto& order : one["epochs"]) {
      CHECK(t5zero::epoch_order(one["n"].get<t5zero::index_t>(), one["seed"].get<std::uint32_t>(), epoch++) ==
            order.get<std::vector<t5zero::index_t>>());
    }
  }
}
