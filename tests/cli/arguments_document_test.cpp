// docs/arguments.md is the argument table. After a change of the table: T5ZERO_UPDATE_DOCS=1 cli_test, and
// commit.
#include <t5zero/cli/argument_table.hpp>

#include <cstdlib>
#include <fstream>
#include <iterator>
#include <string>

#include "catch.hpp"

namespace {

/// A cell of a Markdown table.
std::string cell(std::string_view text) {
  std::string escaped;
  for (const char c : text) escaped.append(c == '|' ? "\\|" : std::string(1, c));
  return escaped;
}

std::string expected_document() {
  std::string text =
      "# Arguments\n\n"
      "Every argument of run_translation.py, TrainingArguments and Seq2SeqTrainingArguments (transformers "
      "4.4x to "
      "5.x), and what\nhappens to it: *honoured*; *accepted* without effect, with one notice; *refused*, "
      "with the "
      "reason. Made from the table that the\nprograms use.\n\n"
      "| argument | verdict | default | |\n|---|---|---|---|\n";
  for (const t5zero::argument_verdict& row : t5zero::argument_table()) {
    text.append("| `--").append(row.name).append("` | ").append(to_string(row.outcome)).append(" | ");
    if (!row.fallback.empty()) text.append("`").append(cell(row.fallback)).append("`");
    text.append(" | ").append(cell(row.text)).append(" |\n");
  }
  return text;
}

}  // namespace

TEST_CASE("the document of all arguments is up to date", "[cli]") {
  const std::string path = std::string(T5ZERO_SOURCE_DIR) + "/docs/arguments.md";
  const std::string expected = expected_document();
  if (std::getenv("T5ZERO_UPDATE_DOCS") != nullptr) std::ofstream(path) << expected;
  std::ifstream file(path);
  const std::string found{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
  CHECK(found == expected);
}
