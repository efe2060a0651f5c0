// BLEU and chrF against sacreBLEU 2.6.
#include <t5zero/train/bleu.hpp>
#include <t5zero/train/chrf.hpp>

#include <t5zero/core/integers.hpp>

#include <cmath>
#include <filesystem>
#include <string>
#include <vector>

#include "catch.hpp"
#include "golden.hpp"
#include "skip.hpp"

namespace {

using texts = std::vector<std::string>;

}  // namespace

TEST_CASE("BLEU equals sacreBLEU's", "[train][golden]") {
  const auto path = std::filesystem::path(T5ZERO_GOLDEN_DIR) / "sacrebleu_cases.json";
  if (!std::filesystem::exists(path)) return skip_test("no golden values");
  const nlohmann::json golden = golden::read_json(path);
  for (const auto& expected : golden["cases"]) {
    const t5zero::bleu_score found =
        t5zero::corpus_bleu(expected["hyp"].get<texts>(), expected["ref"].get<texts>());
    CAPTURE(expected["hyp"].dump().substr(0, 200));
    CHECK(std::abs(found.score - expected["score"].get<double>()) < 1e-9);
    CHECK(std::abs(found.brevity_penalty - expected["bp"].get<double>()) < 1e-9);
    CHECK(found.hypothesis_length == expected["sys_len"].get<t5zero::index_t>());
    CHECK(found.reference_length == expected["ref_len"].get<t5zero::index_t>());
    for (std::size_t n = 0; n < t5zero::bleu_score::orders; ++n) {
      CHECK(std::abs(found.precisions[n] - expected["precisions"][n].get<double>()) < 1e-9);
      CHECK(found.matches[n] == expected["counts"][n].get<t5zero::index_t>());
      CHECK(found.totals[n] == expected["totals"][n].get<t5zero::index_t>());
    }
  }
  for (const auto& pair : golden["tokenize_13a"])
    CHECK(t5zero::tokenize_13a(pair[0].get<std::string>()) == pair[1].get<std::string>());
}

TEST_CASE("13a and BLEU by hand", "[train]") {
  CHECK(t5zero::tokenize_13a("a.b, 3.5% x-y 5-6 don't") == "a . b , 3.5 % x-y 5 - 6 don't");
  CHECK(t5zero::tokenize_13a("&amp;lt;b&gt; 1,000.") == "< b > 1,000 .");
  CHECK(t5zero::tokenize_13a("wait.. no") == "wait . . no");
  const t5zero::bleu_score half = t5zero::corpus_bleu(texts{"a b c d"}, texts{"a b x y"});
  CHECK(half.text() == "BLEU = 31.95 50.0/33.3/25.0/25.0 (BP = 1.000 ratio = 1.000 hyp_len = 4 ref_len = 4)");
  CHECK(t5zero::corpus_bleu(texts{"the cat"}, texts{"the cat sat"}).score < 1e-9);
  CHECK(std::abs(t5zero::corpus_bleu(texts{"the cat sat", "hello there world again"},
                                     texts{"the cat sat down", "hello there world"})
                     .score -
                 69.14) < 5e-3);
  CHECK(t5zero::corpus_bleu(texts{}, texts{}).score == 0.0);
  CHECK_THROWS_AS(t5zero::corpus_bleu(texts{"a"}, texts{}), t5zero::contract_error);
}

TEST_CASE("chrF equals sacreBLEU's", "[train]") {
  // Printed by sacrebleu 2.6.0's corpus_chrf.
  CHECK(t5zero::corpus_chrf(texts{"the cat"}, texts{"the cat sat"}) ==
        Approx(55.77101053281037).epsilon(1e-12));
  CHECK(t5zero::corpus_chrf(texts{"a b c d", "Hello!"}, texts{"a b x y", "Hello there!"}) ==
        Approx(28.60760158799408).epsilon(1e-12));
  CHECK(t5zero::corpus_chrf(texts{"", ""}, texts{"a", "b"}) == Approx(0.0).epsilon(1e-12));
  CHECK(t5zero::corpus_chrf(texts{"Casa este verde, știu.", "nu"}, texts{"Casa e verde, știu asta.", "da"}) ==
        Approx(62.74043477637908).epsilon(1e-12));
  CHECK(t5zero::corpus_chrf(texts{"abcdefgh ij"}, texts{"ab"}) == Approx(47.945205479452056).epsilon(1e-12));
  CHECK(t5zero::corpus_chrf(texts{"ab"}, texts{"abcdefgh ij"}) == Approx(18.71657754010695).epsilon(1e-12));
}
