// Pairs from files whose first text is not at their beginning.
#include <t5zero/data/translation_pairs.hpp>

#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "catch.hpp"

namespace {

/// The pairs of a file of that text and extension, or what is wrong with it.
std::string read(const std::string& text, const std::string& extension) {
  const std::filesystem::path file =
      std::filesystem::temp_directory_path() / ("t5zero_pairs." + std::to_string(::getpid()) + extension);
  std::ofstream(file, std::ios::binary) << text;
  std::string result;
  try {
    for (const t5zero::text_pair& pair : t5zero::read_translation_pairs(file, {"en", "ro"}))
      result += pair.source + "=" + pair.target + ";";
  } catch (const t5zero::input_error& wrong) {
    result = std::string(wrong.what()).substr(file.string().size());
  }
  std::filesystem::remove(file);
  return result;
}

const std::string row = R"({"translation": {"en": "a", "ro": "b"}})";

}  // namespace

TEST_CASE("an array begins behind any white space of JSON, a byte order mark before it", "[data]") {
  for (const std::string before : {"", "  ", "\n", "\r\n \t", "  \n  ", "\xef\xbb\xbf \n"}) {
    CAPTURE(before);
    CHECK(read(before + "[" + row + ",\n" + row + "]", ".json") == "a=b;a=b;");
    CHECK(read(before + row + "\n" + row, ".json") == "a=b;a=b;");
    CHECK(read(before + row + "\n" + row, ".jsonl") == "a=b;a=b;");
  }
  // The line is that of the file.
  CHECK(read("  \n\n [" + row + ",\n x]", ".json").find("at line 4") != std::string::npos);
  CHECK(read("\n \n" + row + "\n{}", ".json").starts_with(":4: "));
  CHECK(read(" \n\t\n", ".json").find("no pairs") != std::string::npos);
  CHECK(read("\n", ".json").find("the file is empty") != std::string::npos);
}

TEST_CASE("blanks before the names of columns belong to them", "[data]") {
  CHECK(read("\n\nen\tro\na\tb\n", ".tsv") == "a=b;");
  CHECK(read("\ten\tro\n1\ta\tb\n", ".tsv") == "a=b;");
  CHECK(read(" en,ro\na,b\n", ".csv").find("no column \"en\"") != std::string::npos);
}
