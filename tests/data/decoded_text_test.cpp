// Stripping and clean-up of decoded text.
#include <t5zero/data/decoded_text.hpp>

#include "catch.hpp"

TEST_CASE("white space at both ends goes", "[data]") {
  CHECK(t5zero::stripped("  a b\t\n") == "a b");
  CHECK(t5zero::stripped(" \n ").empty());
  CHECK(t5zero::stripped("").empty());
}

TEST_CASE("clean-up of tokenisation spaces runs replacement by replacement", "[data]") {
  CHECK(t5zero::clean_up_tokenization("Hello , world . It 's") == "Hello, world. It's");
  CHECK(t5zero::clean_up_tokenization("do n't I 'm we 've they 're") == "don't I'm we've they're");
  CHECK(t5zero::clean_up_tokenization("a ' b ? !") == "a'b?!");
  CHECK(t5zero::clean_up_tokenization(" . . .") == "...");
}
