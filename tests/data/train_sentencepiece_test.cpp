// Which texts a SentencePiece model is trained on.
#include <t5zero/data/train_sentencepiece.hpp>

#include <numeric>
#include <string>
#include <vector>

#include <t5zero/core/error.hpp>
#include <t5zero/data/sentence_parts.hpp>
#include <t5zero/data/tokenizer.hpp>

#include "catch.hpp"

namespace {

std::vector<std::string> parts_of(const std::string& text, std::size_t most) {
  std::vector<std::string> parts;
  t5zero::add_in_parts(text, most, parts);
  return parts;
}

}  // namespace

TEST_CASE("parts end behind blanks, else between characters, and are the text together", "[data]") {
  using texts = std::vector<std::string>;
  CHECK(parts_of("ab cd ef", 5) == texts{"ab ", "cd ef"});
  CHECK(parts_of("abcdefg", 5) == texts{"abcde", "fg"});
  CHECK(parts_of("abcde", 5) == texts{"abcde"});
  CHECK(parts_of("", 5) == texts{""});
  CHECK(parts_of("abcă", 4) == texts{"abc", "ă"});
  std::string text;
  for (int i = 0; i < 500; ++i) text += i % 7 == 0 ? " casa\u0103" : "\U0001F3E0\u65e5";
  for (const std::size_t most : {4U, 5U, 64U, 4192U}) {
    const texts parts = parts_of(text, most);
    CHECK(std::accumulate(parts.begin(), parts.end(), std::string()) == text);
    for (const std::string& part : parts) {
      CHECK(part.size() <= most);
      CHECK((static_cast<unsigned char>(part.front()) & 0xc0) != 0x80);
    }
  }
}

TEST_CASE("no text is left out of the training: long ones, and those with SentencePiece's own mark",
          "[data]") {
  std::string lengthy;
  while (lengthy.size() < 10'000) lengthy += "quick zebras jump over lazy foxes ";
  std::string without_blanks;
  while (without_blanks.size() < 10'000) without_blanks += "\u65e5\u672c\u8a9e";
  const t5zero::tokenizer text(
      t5zero::train_sentencepiece({lengthy, without_blanks, "w\u2585ord", "the house is here"}, 200), "test");
  for (const char* known : {"quick zebras", "\u65e5\u672c\u8a9e", "word"}) {
    CAPTURE(known);
    CHECK(text.encode(known).unknown == 0);
  }
  CHECK_NOTHROW((void)t5zero::train_sentencepiece({lengthy}, 200));
}

TEST_CASE("a text without a letter is refused", "[data]") {
  for (const char* blank : {"", "  ", " \t ", "\u00a0", "\u200b", "\u2581 \u2585", "\x01"}) {
    CAPTURE(blank);
    CHECK_THROWS_AS(t5zero::train_sentencepiece({blank, " "}, 60), t5zero::input_error);
  }
  CHECK_NOTHROW((void)t5zero::train_sentencepiece({" ", "a"}, 60));
}
