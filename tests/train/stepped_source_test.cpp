// In which order the optimizer's step of the weights is submitted, and what the main stream waits for.
#include <t5zero/train/stepped_source.hpp>

#include <string>
#include <vector>

#include "catch.hpp"

namespace {

using t5zero::branch_of;
using t5zero::index_t;
using t5zero::parameter_range;

/// Notes the forks and joins of a main stream.
class noted_execution {
 public:
  explicit noted_execution(std::vector<std::string>& notes) : notes_(&notes) {}
  noted_execution& fork(branch_of) { return note("fork"); }
  noted_execution& resume(branch_of) { return *this; }
  void join(branch_of) { note("join"); }

 private:
  noted_execution& note(const char* what) {
    notes_->emplace_back(what);
    return *this;
  }
  std::vector<std::string>* notes_;
};

struct range_source {
  [[nodiscard]] static parameter_range acquire(parameter_range range) { return range; }
  [[nodiscard]] static parameter_range acquire_rows(parameter_range table) { return table; }
};

std::string written(parameter_range range) {
  return std::to_string(range.first) + "+" + std::to_string(range.count);
}

/// 100 parameters, of which the first `table` are stepped last; the forward reads the table's rows, then
/// `reads` one after another.
std::vector<std::string> notes_of(index_t table, index_t least_piece,
                                  const std::vector<parameter_range>& reads) {
  std::vector<std::string> notes;
  noted_execution main(notes);
  t5zero::stepped_source<range_source, noted_execution> source(
      {}, 100, least_piece,
      [&](noted_execution&, parameter_range range) { notes.push_back("step " + written(range)); });
  source.begin_step(main, table, [&] { notes.emplace_back("rows"); });
  static_cast<void>(source.acquire_rows({0, table}));
  for (const parameter_range& range : reads) {
    notes.push_back("read " + written(source.acquire(range)));
  }
  CHECK(source.is_stepped());
  return notes;
}

using notes = std::vector<std::string>;

}  // namespace

TEST_CASE("a step runs ahead of the forward, piece by piece, the table last") {
  CHECK(notes_of(40, 16, {{40, 8}, {48, 40}, {88, 12}, {0, 40}}) ==
        notes{"fork", "step 40+16", "rows", "fork", "join", "read 40+8", "step 56+32", "join", "read 48+40",
              "step 88+12", "step 0+40", "join", "read 88+12", "read 0+40"});
}

TEST_CASE("a piece larger than the model leaves the table alone until its rows are published") {
  CHECK(notes_of(40, 1000, {{40, 60}, {0, 40}}) ==
        notes{"fork", "step 40+60", "rows", "fork", "step 0+40", "join", "read 40+60", "read 0+40"});
}

TEST_CASE("a table that nothing reads as a whole is stepped with the last tensor") {
  CHECK(notes_of(40, 16, {{40, 50}, {90, 10}}) == notes{"fork", "step 40+16", "rows", "fork", "step 56+40",
                                                        "join", "read 40+50", "step 96+4", "step 0+40",
                                                        "join", "read 90+10"});
}

TEST_CASE("without a table apart one piece may be the whole model") {
  CHECK(notes_of(0, 1000, {{0, 100}}) == notes{"fork", "step 0+100", "rows", "fork", "join", "read 0+100"});
}
