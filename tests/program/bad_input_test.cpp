// Every wrong input: exit code 2, a message that names the flag or file:line, the value and the repair, and
// nothing written.
#include <unistd.h>

#include <cstdint>
#include <cstring>
#include <filesystem>
#include <string>
#include <vector>

#include "catch.hpp"
#include "program/child.hpp"
#include "skip.hpp"

using t5zero_test::content_of;
using t5zero_test::outcome;
using t5zero_test::sandbox;

namespace {

using words = std::vector<std::string>;

const std::string bin = T5ZERO_BIN_DIR;

std::string pairs_of(int count) {
  std::string text;
  for (int i = 0; i < count; ++i) {
    text += R"({"translation": {"en": "The house number )" + std::to_string(i) +
            R"( is big.", "ro": "Casa numărul )" + std::to_string(i) + " este mare.\"}}\n";
  }
  return text;
}

words joined(words first, const words& second) {
  first.insert(first.end(), second.begin(), second.end());
  return first;
}

/// A model that was trained for one step, in work/model, with its data in work/train.jsonl.
class trained_sandbox : public sandbox {
 public:
  trained_sandbox() {
    write("train.jsonl", content_of(std::string(T5ZERO_SOURCE_DIR) + "/examples/data/en-ro/train.jsonl"));
    const outcome made = run(
        joined({bin + "/t5_tiny_plain", "--from_scratch", "--config_name", "t5-tiny"},
               with({"--do_train", "--max_steps", "1", "--save_strategy", "no", "--output_dir", "model"})));
    INFO(made.err);
    REQUIRE(made.code == 0);
  }

  /// The least flags that a run needs besides its model.
  static words with(const words& more) {
    return joined({"--source_lang", "en", "--target_lang", "ro", "--train_file", "train.jsonl",
                   "--source_prefix", "translate English to Romanian: "},
                  more);
  }
  /// A run that would train the saved model, but for `more`.
  static words trains(const words& more) {
    return joined({bin + "/t5_tiny_plain", "--model_name_or_path", "model"},
                  with(joined({"--do_train", "--max_steps", "1", "--output_dir", "out"}, more)));
  }
};

/// Runs what must be refused.
void check_refused(const sandbox& place, const words& arguments, const words& named) {
  const auto before = place.contents();
  const outcome ended = place.run(arguments);
  std::string command;
  for (const std::string& argument : arguments) command += argument + " ";
  INFO(command << "\n" << ended.err);
  CHECK(ended.code == 2);
  for (const std::string& word : named) {
    INFO("must name: " << word);
    CHECK(ended.err.find(word) != std::string::npos);
  }
  CHECK(ended.err.find(": error: ") != std::string::npos);
  CHECK(place.contents() == before);
}

void check_trains_refused(const trained_sandbox& place, const words& more, const words& named) {
  check_refused(place, trained_sandbox::trains(more), named);
}

/// A safetensors file: eight bytes of length, the header, the data.
std::string safetensors(std::uint64_t length, const std::string& header, const std::string& data) {
  std::string file(8, '\0');
  std::memcpy(file.data(), &length, 8);
  return file + header + data;
}

}  // namespace

TEST_CASE("bad training files") {
  const trained_sandbox place;
  const auto refused = [&](const std::string& name, const std::string& text, const words& named) {
    const std::string path = place.write(name, text);
    check_trains_refused(place, {"--train_file", name}, named);
  };
  const std::string good = pairs_of(16);
  refused("a.jsonl", good + R"({"translation": {"en": "A", "de": "B"}})" + "\n" + good,
          {"a.jsonl:17: ", "no language \"ro\"", "--target_lang ro", "the row has: de, en"});
  refused("b.jsonl", good + R"({"en": "A", "ro": "B"})" + "\n",
          {"b.jsonl:17: ", "{\"translation\": {\"en\""});
  refused("c.json", R"([{"translation": {"en": "A", "ro": "B"}}, {"translation": {"en": "A"}}])",
          {"c.json: row 2: ", "no language \"ro\"", "the row has: en"});
  refused("d.jsonl", good + "{\"translation\": {\"en\": \"\xe2\x28\", \"ro\": \"B\"}}\n",
          {"d.jsonl:17: not UTF-8 at byte 25", "iconv"});
  refused("e.jsonl", "", {"e.jsonl: the file is empty"});
  refused("f.jsonl", "\n\n", {"f.jsonl: the file is empty"});
  refused("g.json", "[]", {"g.json: no pairs"});
  refused("h.jsonl", "\n\n{\"translation\": {\"en\": \"A\", \"ro\": 7}}\n",
          {"h.jsonl:3: \"ro\" is not a text"});
  refused("i.jsonl", good + "{\"translation\": \n", {"i.jsonl:17: not JSON"});
  refused("j.csv", "en,de\nA,B\n", {"j.csv:1: no column \"ro\"", "--target_lang ro", "it has: en, de"});
  refused("k.csv", "en,ro\nA,B\nA\n", {"k.csv:3: 1 columns", "the first line names 2"});
  refused("l.csv", "en,ro\n\"A,B\nC,D\n", {"l.csv:2: a quote is opened here and never closed"});
  refused("o.csv", "en,ro\nHello, world,Salut lume\n",
          {"o.csv:2: 3 columns, the first line names 2", "quote"});
  refused("q.csv", "en,ro\rA,B\rC,D\r", {"--train_file q.csv:1: ", "end in carriage returns alone"});
  refused("r.csv", "en,ro,en\nA,B,C\n", {"r.csv:1: two columns are named \"en\" (--source_lang en)"});
  refused("s.json", "[\n{\"translation\":\n {\"en\": \"\xff\", \"ro\": \"B\"}}]",
          {"s.json:3: not UTF-8 at byte 10"});
  refused("p.tsv", "en\tro\n\xe0\x80\x80\tB\n", {"p.tsv:2: column 1: not UTF-8 at byte 1"});
  refused("m.txt", good, {"--train_file m.txt: the file's name must end in", ".jsonl"});
  refused("n.parquet", good, {"--train_file n.parquet: the file's name must end in", ".jsonl"});
  check_trains_refused(place, {"--train_file", "none.jsonl"}, {"--train_file none.jsonl: cannot be read"});
  std::filesystem::create_directories(place.work() / "directory.jsonl");
  check_trains_refused(place, {"--train_file", "directory.jsonl"}, {"directory.jsonl: cannot be read"});
  check_trains_refused(place, {"--train_file", ""}, {"--train_file '': the file's name must end in"});
  check_trains_refused(place, {"--do_eval", "--validation_file", "gone.csv"},
                       {"--validation_file gone.csv: cannot be read"});
  check_trains_refused(place, {"--source_lang", "fr"},
                       {"train.jsonl:1: no language \"fr\" (--source_lang fr)"});
  check_trains_refused(place, {"--dataset_name", "wmt16"},
                       {"--dataset_name wmt16: not found", "datasets--wmt--wmt16", "HF_HOME"});
}

TEST_CASE("bad models") {
  const trained_sandbox place;
  const std::string weights = content_of(place.work() / "model" / "model.safetensors");
  const std::string config = content_of(place.work() / "model" / "config.json");
  const auto refused = [&](const std::string& file, const std::string& text, const words& named) {
    const std::string whole = content_of(place.work() / "model" / file);
    place.write("model/" + file, text);
    check_trains_refused(place, {}, named);
    place.write("model/" + file, whole);
  };
  const auto replaced = [](std::string text, const std::string& from, const std::string& to) {
    const std::size_t at = text.find(from);
    REQUIRE(at != std::string::npos);
    return text.replace(at, from.size(), to);
  };
  refused("model.safetensors", weights.substr(0, weights.size() - 1000),
          {"model.safetensors: ", "the file holds", "fetch or save it again"});
  refused("model.safetensors", weights.substr(0, 100), {"model.safetensors: ", "100"});
  refused("model.safetensors", "", {"model.safetensors: empty"});
  refused("model.safetensors", safetensors(1'000'000'000'000'000'000U, "{}", ""),
          {"model.safetensors: its header says to be 1000000000000000000 bytes long"});
  refused("model.safetensors", replaced(weights, "[64,128]", "[128,64]"),
          {"the weights do not fit the model", "has the shape [128, 64], expected [64, 128]"});
  refused("model.safetensors",
          replaced(weights, "encoder.final_layer_norm.weight", "encoder.final_layer_norm.weighs"),
          {"missing: encoder.final_layer_norm.weight [64]", "unexpected: encoder.final_layer_norm.weighs"});
  refused("config.json", replaced(config, "\"d_model\": 64", "\"d_model\": 512"),
          {"not the model of this run", "d_model 512, not 64", "run_translation"});
  refused("config.json", replaced(config, "\"model_type\": \"t5\"", "\"model_type\": \"mt5\""),
          {"config.json: a mt5 model", "choose one of those"});
  refused("config.json",
          replaced(config, "\"model_type\"", "\"tokenizer_class\": \"ByT5Tokenizer\", \"model_type\""),
          {"config.json: a byt5 model"});
  refused("config.json", replaced(config, "\"dropout_rate\": 0.1", "\"dropout_rate\": 1.5"),
          {"config.json: \"dropout_rate\" is 1.5", "[0,1)"});
  refused("config.json", replaced(config, "\"tie_word_embeddings\": true", "\"tie_word_embeddings\": false"),
          {"missing: lm_head.weight"});
  refused("tokenizer_config.json", R"({"legacy": false})", {"tokenizer_config.json: \"legacy\" is false"});
  refused("config.json", config.substr(0, 30), {"config.json: not valid JSON", "line 3"});
  refused("spiece.model", "no model", {"spiece.model"});
  std::filesystem::remove(place.work() / "model" / "spiece.model");
  check_trains_refused(place, {}, {"spiece.model", "--tokenizer_name"});
  std::filesystem::remove(place.work() / "model" / "model.safetensors");
  check_trains_refused(place, {}, {"model: no model.safetensors", "save_pretrained"});
  check_trains_refused(place, {"--model_name_or_path", "t5-base"},
                       {"the model is t5-base, this run is for t5-tiny"});
  check_trains_refused(place, {"--model_name_or_path", "somebody/t5"},
                       {"--model_name_or_path somebody/t5: not found", "models--somebody--t5", "HF_HOME"});
}

TEST_CASE("unreadable and unwritable directories") {
  namespace fs = std::filesystem;
  const trained_sandbox place;
  const bool is_root = ::geteuid() == 0;
  const fs::path root = place.work().parent_path();
  const auto open_to_all = fs::perms::all;
  for (const auto& entry : fs::recursive_directory_iterator(root)) fs::permissions(entry.path(), open_to_all);
  fs::permissions(root, open_to_all);
  const auto run = [&](const words& more) { return place.run(trained_sandbox::trains(more), 0, is_root); };
  if (run({"--plan"}).code != 0) return skip_test("the program lies where only root reads");
  const auto refused = [&](const fs::path& path, fs::perms rights, const words& more, const words& named) {
    fs::permissions(path, rights);
    const outcome ended = run(more);
    fs::permissions(path, open_to_all);
    INFO(ended.err);
    CHECK(ended.code == 2);
    for (const std::string& word : named) CHECK(ended.err.find(word) != std::string::npos);
    CHECK_FALSE(fs::exists(place.work() / "out"));
  };
  const fs::path model = place.work() / "model";
  const auto read_only =
      fs::perms::owner_read | fs::perms::owner_exec | fs::perms::others_read | fs::perms::others_exec;
  refused(model, fs::perms::none, {}, {"model", "ermission"});
  refused(model / "model.safetensors", fs::perms::none, {}, {"model.safetensors", "ermission"});
  refused(model / "config.json", fs::perms::none, {}, {"config.json"});
  refused(place.work() / "train.jsonl", fs::perms::none, {}, {"train.jsonl"});
  refused(place.work(), read_only, {}, {"--output_dir out", "may not be written to"});
  refused(model, read_only, {"--output_dir", "model", "--overwrite_output_dir"},
          {"--output_dir model", "may not be written to"});
}

TEST_CASE("bad flags") {
  const trained_sandbox place;
  const auto refused = [&](const words& more, const words& named) {
    check_trains_refused(place, more, named);
  };
  refused({"--max_stesp", "3"}, {"--max_stesp", "--max_steps"});
  refused({"--max_s", "3"}, {"--max_s", "--max_source_length", "--max_steps"});
  refused({"--fp16", "--bf16"}, {"--fp16", "--bf16"});
  refused({"--fp16"}, {"--fp16 asks for fp16, this run is fp32", "run_translation"});
  refused({"--per_device_train_batch_size", "0"}, {"--per_device_train_batch_size", "0"});
  refused({"--per_device_train_batch_size=-3"}, {"--per_device_train_batch_size", "-3"});
  refused({"--learning_rate", "nan"}, {"--learning_rate", "nan"});
  refused({"--learning_rate=-1"}, {"--learning_rate", "-1"});
  refused({"--max_steps", "12x"}, {"--max_steps", "12x"});
  refused({"--num_train_epochs", "-1", "--max_steps", "-1"}, {"--num_train_epochs", "-1"});
  refused({"--max_source_length", "0"}, {"--max_source_length", "0"});
  refused({"--max_train_samples", "-2"}, {"--max_train_samples", "-2"});
  refused({"--do_train", "perhaps"}, {"--do_train", "perhaps"});
  refused({"--do_eval"}, {"--do_eval", "--validation_file"});
  refused({"--gradient_accumulation_steps", "9223372036854775807"},
          {"--gradient_accumulation_steps", "at most"});
  refused({"--per_device_train_batch_size", "9223372036854775808"}, {"--per_device_train_batch_size"});
  refused({"--threads", "4294967297"}, {"--threads", "at most"});
  refused({"--seed", "4294967296"}, {"--seed", "0 to 4294967295"});
  refused({"--max_steps", "0", "--num_train_epochs", "0"}, {"--num_train_epochs 0"});
  refused({"--max_steps", "+-5"}, {"--max_steps", "+-5"});
  refused({"--save_dtype", "16bit"}, {"--save_dtype 16bit", "fp32"});
  refused({"--resume_from_checkpoint", "none"}, {"Can't find a valid checkpoint at none"});
  refused({"--load_best_model_at_end"}, {"--load_best_model_at_end"});
  refused({"--from_scratch", "--config_name", "google/nope"}, {"--config_name google/nope: not found"});
  refused({"--source_lang", ""}, {"--source_lang"});
  refused({"--label_smoothing_factor", "1.5"}, {"--label_smoothing_factor", "1.5"});
  refused({"--lr_scheduler_type", "sawtooth"}, {"--lr_scheduler_type", "sawtooth", "linear"});
  refused({"--optim", "sgd"}, {"--optim sgd: one of adamw_torch"});
  refused({"--deepspeed", ""}, {"--deepspeed '': the name of a configuration file is needed"});
  refused({"--deepspeed", R"({"zero_optimization": {"stage": 2}})"},
          {"--deepspeed {...} asks for ZeRO stage 2, this run has stage 0"});
  refused({"--deepspeed", "{\"zero_optimization\": "}, {"--deepspeed: not valid JSON"});
  refused({"--deepspeed", "none.json"}, {"--deepspeed", "none.json"});
  const std::string zero2 = place.write("zero2.json", R"({"zero_optimization": {"stage": 2}})");
  refused({"--deepspeed", "zero2.json"}, {"asks for ZeRO stage 2, this run has stage 0"});
  place.write("broken.json", "{\n\"zero_optimization\": {\n\"stage\": }\n}");
  refused({"--deepspeed", "broken.json"}, {"broken.json", "line 3"});
  place.write("unknown.json", R"({"zero_optimization": {"stage": 0, "overlap_com": true}})");
  refused({"--deepspeed", "unknown.json"}, {"unknown.json", "overlap_com"});
  check_refused(place,
                {bin + "/t5_tiny_plain", "--model_name_or_path", "model", "--source_lang", "en",
                 "--target_lang", "ro", "--do_train", "--output_dir", "out"},
                {"--train_file"});
}

TEST_CASE("bad output directories") {
  const trained_sandbox place;
  check_trains_refused(place, {"--output_dir", "model"}, {"--output_dir", "model", "--overwrite_output_dir"});
  check_trains_refused(place, {"--output_dir", "train.jsonl"},
                       {"--output_dir train.jsonl", "is not a directory"});
  check_trains_refused(place, {"--output_dir", "train.jsonl/below/it"},
                       {"--output_dir train.jsonl/below/it", "train.jsonl is not a directory"});
}

TEST_CASE("one of several processes") {
  const trained_sandbox place;
  // torchrun, Open MPI's mpirun, MPICH's, srun.
  for (const std::string name : {"WORLD_SIZE", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS"}) {
    check_refused(place, joined({"/usr/bin/env", name + "=2"}, trained_sandbox::trains({})),
                  {"the environment has " + name + "=2", "one rank"});
  }
  CHECK(place.run(joined({"/usr/bin/env", "SLURM_STEP_NUM_TASKS=1"}, trained_sandbox::trains({}))).code == 0);
}

TEST_CASE("results stay beside those of earlier runs") {
  const trained_sandbox place;
  place.write("model/all_results.json",
              "{\n    \"predict_bleu\": 27.25,\n    \"train_loss\": NaN,\n    \"x\": NaN\n}");
  REQUIRE(place.run(trained_sandbox::trains({"--output_dir", "model", "--overwrite_output_dir"})).code == 0);
  const std::string all = content_of(place.work() / "model" / "all_results.json");
  INFO(all);
  CHECK(all.find("\"predict_bleu\": 27.25") != std::string::npos);
  CHECK(all.find("\"x\": NaN") != std::string::npos);
  CHECK(all.find("\"train_loss\": NaN") == std::string::npos);
}

TEST_CASE("log lines at the end of each epoch") {
  const trained_sandbox place;
  const outcome ended =
      place.run(trained_sandbox::trains({"--max_steps", "-1", "--num_train_epochs", "2", "--logging_strategy",
                                         "epoch", "--disable_tqdm", "True"}));
  INFO(ended.err << ended.out);
  CHECK(ended.code == 0);
  CHECK(ended.out.find("'epoch': 1.0}") != std::string::npos);
  CHECK(ended.out.find("'epoch': 2.0}") != std::string::npos);
  CHECK(ended.out.find("{'train_runtime': ") != std::string::npos);
  CHECK(content_of(place.work() / "out" / "train_results.json").find("total_flos") == std::string::npos);
}

TEST_CASE("nothing to do writes nothing") {
  const trained_sandbox place;
  const auto before = place.contents();
  const outcome ended = place.run(joined({bin + "/t5_tiny_plain", "--model_name_or_path", "model"},
                                         trained_sandbox::with({"--output_dir", "out"})));
  INFO(ended.err);
  CHECK(ended.err.find("There is nothing to do") != std::string::npos);
  CHECK(place.contents() == before);
}

TEST_CASE("spellings of one run") {
  const trained_sandbox place;
  const outcome ended = place.run({bin + "/t5_tiny_plain", "--model-name-or-path=model", "--source-lang=en",
                                   "--target_lan", "ro", "--train-file=train.jsonl", "--do-train",
                                   "--max_steps=1", "--output-dir=out", "--source-prefix="});
  INFO(ended.err);
  CHECK(ended.code == 0);
  CHECK(std::filesystem::exists(place.work() / "out" / "model.safetensors"));
}

TEST_CASE("a full disk while saving: exit code 1, and the earlier save as it was") {
  const trained_sandbox place;
  const auto before = place.contents();
  const outcome ended =
      place.run(trained_sandbox::trains({"--output_dir", "model", "--overwrite_output_dir"}), 100'000);
  INFO(ended.err);
  CHECK(ended.code == 1);
  CHECK(ended.err.find("model") != std::string::npos);
  CHECK(place.contents() == before);
}

TEST_CASE("several runs in one program: what was not compiled is named with its repair") {
  const trained_sandbox place;
  const words arguments = trained_sandbox::with({"--do_train", "--output_dir", "out"});
  check_refused(place,
                joined({bin + "/run_translation", "--model_name_or_path", "t5-11b", "--bf16"}, arguments),
                {"t5-11b, ZeRO-0, bf16, which was not compiled", "t5zero_add_run"});
  check_refused(place, joined({bin + "/run_translation", "--model_name_or_path", "model"}, arguments),
                {"--model_name_or_path model", "dimensions", "t5zero_add_run"});
  check_refused(place, joined({bin + "/t5_small_plain", "--model_name_or_path", "model"}, arguments),
                {"not the model of this run", "d_model 64, not 512"});
}
