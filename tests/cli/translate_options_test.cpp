// The command line of `translate` over a model's generation_config.json.
#include <t5zero/cli/translate_options.hpp>

#include <array>

#include "catch.hpp"

TEST_CASE("the model's length holds where it says one, else 128", "[cli]") {
  const auto length = [](const nlohmann::json& model, const char* flag = "--max_length=64") {
    const std::array<const char*, 3> argv = {"translate", "directory", flag};
    const auto config = t5zero::parse_generation_config(model, "g.json");
    return t5zero::parse_translate_options(*flag == '\0' ? 2 : 3, argv.data(), config).generation.max_length;
  };
  CHECK(length(nlohmann::json::object(), "") == 128);
  CHECK(length({{"max_length", 20}}, "") == 128);
  CHECK(length({{"max_length", 21}}, "") == 21);
  CHECK(length({{"max_new_tokens", 20}}, "") == 21);
  CHECK(length({{"max_length", 300}}, "") == 300);
  CHECK(length({{"max_length", 300}}) == 64);
}
