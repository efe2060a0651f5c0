// The model card, the training report and trainer_state.json.
#include <t5zero/train/model_card.hpp>
#include <t5zero/train/trainer_state.hpp>
#include <t5zero/train/training_report.hpp>

#include <algorithm>
#include <limits>
#include <string>

#include <nlohmann/json.hpp>

#include "catch.hpp"

using t5zero_test::contains_text;

namespace {

t5zero::log_history history_of(int updates) {
  t5zero::log_history history;
  for (int i = 1; i <= updates; ++i) {
    history.updates.push_back({i, 10.0 / i, 1.0, 1e-3, 1024.0, 0.01, 100, i == 2});
  }
  history.entries.push_back({1, 0.5, {{"loss", 10.0}, {"grad_norm", 1.0}, {"learning_rate", 1e-3}}});
  history.entries.push_back({1, 0.5, {{"eval_loss", 2.5}, {"eval_bleu", 12.34567}, {"eval_runtime", 0.1}}});
  return history;
}

}  // namespace

TEST_CASE("the model card has its sections and a table as wide as its header", "[train]") {
  t5zero::model_card card;
  card.name = "it's mine";
  card.base_model = "t5-small";
  card.languages = {"en", "ro"};
  card.dataset = "wmt16 ro-en";
  card.hyperparameters = {{"learning_rate", "5e-05"}};
  card.results = {{"Loss", 2.5}, {"Bleu", 12.34567}};
  card.history = history_of(2);
  const std::string text = t5zero::to_markdown(card);
  CHECK_THAT(text, contains_text("- name: 'it''s mine'"));
  CHECK_THAT(text, contains_text("language:\n- 'en'\n- 'ro'\n"));
  CHECK_THAT(text, contains_text("fine-tuned version of t5-small on the wmt16 ro-en dataset."));
  CHECK_THAT(text, contains_text("- Loss: 2.5\n- Bleu: 12.3457\n"));
  CHECK_THAT(text, contains_text("| Training Loss | Epoch | Step | Validation Loss | Bleu |\n"
                                 "|:-:|:-:|:-:|:-:|:-:|\n| 10.0 | 0.5 | 1 | 2.5 | 12.3457 |\n"));
  for (const char* section :
       {"## Model description", "## Intended uses & limitations", "## Training and evaluation data",
        "### Training hyperparameters", "### Framework versions"}) {
    CHECK_THAT(text, contains_text(section));
  }
}

TEST_CASE("the report is one page without scripts or links, whatever the history", "[train]") {
  for (const int updates : {0, 1, 2, 5000}) {
    CAPTURE(updates);
    t5zero::training_report report;
    report.title = "<out & about>";
    report.run = "t5-small";
    report.source = "here";
    report.has_loss_scale = true;
    report.history = history_of(updates);
    if (updates > 1) report.history.updates[0].loss = std::numeric_limits<double>::quiet_NaN();
    report.samples = {{"<b>", "\"r\"", "h & m"}};
    const std::string html = t5zero::to_html(report);
    CHECK_THAT(html, contains_text("&lt;out &amp; about&gt;"));
    CHECK_THAT(html, contains_text("&lt;b&gt;"));
    CHECK(html.find("<script") == std::string::npos);
    CHECK(html.find("http") == std::string::npos);
    for (const char* number : {"Mnan", "Lnan", " nan", ">nan", "\"nan", "inf"}) {
      CAPTURE(number);
      CHECK(html.find(number) == std::string::npos);
    }
    CHECK((html.find("Training loss") != std::string::npos) == (updates > 0));
    CHECK((html.find("skipped update 2") != std::string::npos) == (updates > 1));
    CHECK(html.size() < 200'000);
  }
}

TEST_CASE("joined points keep their extremes", "[train]") {
  std::vector<t5zero::detail::chart_point> points;
  for (int i = 0; i < 1000; ++i) points.push_back({static_cast<double>(i), i == 333 ? 100.0 : 1.0});
  const auto drawn = t5zero::detail::bucketed(points, 100);
  CHECK(drawn.means.size() == 100);
  CHECK(std::any_of(drawn.highs.begin(), drawn.highs.end(), [](const auto& p) { return p.y == 100.0; }));
}

TEST_CASE("trainer_state.json is sorted JSON with Python's numbers", "[train]") {
  t5zero::loop_state state;
  state.global_step = 7;
  state.epochs_done = 0.5;
  state.total_flos = 1e12;
  state.best = t5zero::best_evaluation{2.5, 1};
  state.history = history_of(1);
  t5zero::trainer_state_facts facts;
  facts.max_steps = 10;
  state.best_saved = t5zero::best_checkpoint{*state.best, "out/checkpoint-1"};
  const std::string text = t5zero::trainer_state_json(state, facts);
  CHECK(text.ends_with("}\n"));
  CHECK_THAT(text, contains_text("\"total_flos\": 1000000000000.0,"));
  CHECK_THAT(text, contains_text("      \"learning_rate\": 0.001,\n"));
  const nlohmann::json read = nlohmann::json::parse(text);
  CHECK(read["global_step"] == 7);
  CHECK(read["best_metric"] == 2.5);
  CHECK(read["best_model_checkpoint"] == "out/checkpoint-1");
  state.best_saved->directory = "caf\xe9/checkpoint-1";  // not UTF-8
  CHECK(nlohmann::json::parse(t5zero::trainer_state_json(state, facts))["best_model_checkpoint"] ==
        "caf\xef\xbf\xbd/checkpoint-1");
  CHECK(read["log_history"].size() == 2);
  CHECK(read["log_history"][1]["eval_bleu"] == 12.34567);
  CHECK(read["trial_name"].is_null());
  CHECK(read["stateful_callbacks"]["TrainerControl"]["args"]["should_training_stop"] == false);
}
