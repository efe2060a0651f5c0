// Weights that the optimizer steps just before the forward reads them, on a side stream: while the first
// layers compute, the weights of the later ones are on their way.
#pragma once

#include <algorithm>
#include <functional>
#include <utility>

#include <t5zero/backend/backend.hpp>
#include <t5zero/core/integers.hpp>
#include <t5zero/plan/parameter_table.hpp>

namespace t5zero {

/// A parameter source around another. While a step is due, acquiring a range first submits the step of all
/// elements up to its end, in the order of the flat buffer, which is that of the forward: piece by piece on
/// branch_of::optimizer, and what is submitted to the main stream afterwards waits for its own pieces only.
template <class Source, class Execution>
class stepped_source {
 public:
  /// Submits the optimizer's step of a range.
  using range_step = std::function<void(Execution&, parameter_range)>;

  /// parameters: of the flat buffer. least_piece: elements, but for the last piece of a step.
  stepped_source(Source source, index_t parameters, index_t least_piece, range_step step)
      : source_(std::move(source)),
        parameters_(parameters),
        least_piece_(least_piece),
        submitted_(parameters),
        seen_(parameters),
        step_(std::move(step)) {}

  /// A step is due that sees what was submitted to `main` so far. first: what lies before this element is
  /// stepped last, and publish_rows() submits to `main` the rows of it that the batch names, as the step will
  /// leave them.
  template <class PublishRows>
  void begin_step(Execution& main, index_t first, const PublishRows& publish_rows) {
    main_ = &main;
    first_ = first;
    submitted_ = seen_ = 0;
    static_cast<void>(main.fork(branch_of::optimizer));
    submit(1, parameters_ - first_);
    publish_rows();
    static_cast<void>(main.fork(branch_of::optimizer));  // what comes last must not come before the rows
  }
  /// Nothing is left of the step, and the main stream waits for all of it: gradients may be written.
  [[nodiscard]] bool is_stepped() const { return seen_ == parameters_; }

  [[nodiscard]] auto acquire(parameter_range range) {
    // The end of the buffer is read last, but for the table, which an untied head leaves unread.
    const index_t end = range.first + range.count;
    step_to(end == parameters_ || range.first < first_ ? parameters_ : end - first_);
    return source_.acquire(range);
  }
  [[nodiscard]] auto acquire_rows(parameter_range table) {
    if (table.first >= first_) return acquire(table);
    return source_.acquire_rows(table);
  }

 private:
  /// Of the first element of a piece, so that the arrays are aligned there.
  static constexpr index_t alignment = 8;

  // Both count from first_ on, around the end of the buffer.
  void step_to(index_t end) {
    if (end <= seen_) return;
    if (end > submitted_) submit(end, parameters_);
    main_->join(branch_of::optimizer);
    seen_ = submitted_;
  }
  /// At least what lies before `end`, nothing from `bound` on.
  void submit(index_t end, index_t bound) {
    const index_t begin = submitted_;
    submitted_ = std::min(bound, round_up(std::max(end, begin + least_piece_), alignment));
    const index_t wrap = parameters_ - first_;
    if (begin < wrap) step({begin + first_, std::min(submitted_, wrap) - begin});
    if (submitted_ > wrap) step({std::max(begin, wrap) - wrap, submitted_ - std::max(begin, wrap)});
  }
  void step(parameter_range range) { step_(main_->resume(branch_of::optimizer), range); }

  Source source_;
  index_t parameters_;
  index_t least_piece_;
  index_t first_ = 0;
  index_t submitted_;  ///< elements whose step was submitted
  index_t seen_;       ///< and those of them that the main stream waits for
  range_step step_;
  Execution* main_ = nullptr;
};

}  // namespace t5zero
