// The words of a benchmark's command line, by place.
#pragma once

#include <charconv>
#include <initializer_list>
#include <string>
#include <string_view>
#include <system_error>

#include <t5zero/core/error.hpp>
#include <t5zero/core/integers.hpp>
#include <t5zero/core/type_list.hpp>
#include <t5zero/policy/model_size.hpp>

namespace t5zero_bench {

using t5zero::index_t;

/// A wrong word throws input_error, which names it and what is allowed.
class arguments {
 public:
  /// `least`: words that are needed, the program's name among them.
  arguments(int argc, char** argv, int least, const char* usage) : count_(argc), words_(argv) {
    if (argc < least) throw t5zero::input_error(std::string("usage: ") + usage);
  }

  [[nodiscard]] bool has(int at) const { return at < count_; }
  [[nodiscard]] std::string text(int at) const { return words_[at]; }
  [[nodiscard]] index_t positive(int at, const char* name) const {
    const std::string_view word = words_[at];
    index_t value = 0;
    const auto [end, status] = std::from_chars(word.data(), word.data() + word.size(), value);
    if (status != std::errc{} || end != word.data() + word.size() || value < 1)
      throw t5zero::input_error(std::string("<") + name + "> is '" + std::string(word) +
                                "': expected a positive whole number");
    return value;
  }
  [[nodiscard]] index_t positive_or(int at, const char* name, index_t value) const {
    return has(at) ? positive(at, name) : value;
  }
  [[nodiscard]] std::string one_of(int at, const char* name,
                                   std::initializer_list<std::string_view> allowed) const {
    std::string list;
    for (const std::string_view word : allowed) {
      if (word == words_[at]) return std::string(word);
      list.append(list.empty() ? "" : ", ").append(word);
    }
    throw t5zero::input_error(std::string("<") + name + "> is '" + words_[at] + "'; allowed: " + list);
  }
  /// The name of a published model.
  [[nodiscard]] std::string model(int at) const {
    return one_of(at, "model", {"t5-small", "t5-base", "t5-large", "t5-3b"});
  }
  [[nodiscard]] t5zero::model_shape shape(int at) const {
    const std::string name = model(at);
    t5zero::model_shape shape;
    t5zero::for_each_type(t5zero::all_model_sizes{}, [&]<class Model>() {
      if (Model::name == name) shape = Model::shape;
    });
    return shape;
  }

 private:
  int count_;
  char** words_;
};

/// Throws input_error where there is no device for the backend.
template <class Backend>
void require_device() {
  if (const std::string why = Backend::why_unavailable(); !why.empty())
    throw t5zero::input_error("this benchmark is for a GPU, and there is none that CUDA can use: " + why);
}

}  // namespace t5zero_bench
