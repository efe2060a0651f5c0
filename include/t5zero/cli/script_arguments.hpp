// The rows of t5zero's own arguments and of those of Hugging Face's translation script.
#pragma once

#include <array>

#include <t5zero/cli/argument_verdict.hpp>

namespace t5zero {

/// Arguments that exist only here.
inline constexpr std::array<argument_verdict, 8> own_arguments = {{
    {"help", argument_kind::flag, verdict::honoured, "False", "print the options and exit"},
    {"help_all", argument_kind::flag, verdict::honoured, "False",
     "print every argument with its verdict and exit"},
    {"plan", argument_kind::flag, verdict::honoured, "False", "print the memory plan and exit"},
    {"from_scratch", argument_kind::flag, verdict::honoured, "False",
     "start from T5's initialisation (with --config_name) instead of trained weights"},
    {"save_dtype", argument_kind::value, verdict::honoured, "auto",
     "element type of saved weights: auto, fp32 or 16bit"},
    {"threads", argument_kind::value, verdict::honoured, "0", "CPU threads; 0: all cores"},
    {"cuda_graphs", argument_kind::on_flag, verdict::honoured, "True",
     "replay a GPU's steps as graphs; without: the same numbers, slower"},
    {"num_gpus", argument_kind::value, verdict::honoured, "1",
     "ranks of this host; the launcher's flag, 1 here"},
}};

/// Names and defaults: transformers 4.49, examples/pytorch/translation.
inline constexpr std::array<argument_verdict, 29> script_arguments = {{
    {"model_name_or_path", argument_kind::value, verdict::honoured, "", "directory or Hub name of the model"},
    {"config_name", argument_kind::value, verdict::honoured, "",
     "directory or Hub name of the configuration, if it differs"},
    {"tokenizer_name", argument_kind::value, verdict::honoured, "",
     "directory or Hub name of the tokenizer, if it differs"},
    {"cache_dir", argument_kind::value, verdict::honoured, "",
     "the Hub cache to read instead of HF_HUB_CACHE"},
    {"use_fast_tokenizer", argument_kind::on_flag, verdict::accepted, "True", "there is one tokenizer"},
    {"model_revision", argument_kind::value, verdict::honoured, "main",
     "branch, tag or commit of the model in the Hub cache"},
    {"token", argument_kind::value, verdict::accepted, "", "nothing is downloaded yet"},
    {"use_auth_token", argument_kind::value, verdict::accepted, "", "nothing is downloaded yet"},
    {"trust_remote_code", argument_kind::flag, verdict::accepted, "False", "no code of a model is ever run"},
    {"source_lang", argument_kind::value, verdict::honoured, "", "language key of the source text"},
    {"target_lang", argument_kind::value, verdict::honoured, "", "language key of the target text"},
    {"dataset_name", argument_kind::value, verdict::honoured, "", "directory or Hub name of the data set"},
    {"dataset_config_name", argument_kind::value, verdict::honoured, "", "its configuration, e.g. ro-en"},
    {"train_file", argument_kind::value, verdict::honoured, "", ".json, .jsonl, .csv or .tsv"},
    {"validation_file", argument_kind::value, verdict::honoured, "", ".json, .jsonl, .csv or .tsv"},
    {"test_file", argument_kind::value, verdict::honoured, "",
     ".json, .jsonl, .csv or .tsv; targets may be missing"},
    {"overwrite_cache", argument_kind::flag, verdict::accepted, "False", "no preprocessed data is kept"},
    {"preprocessing_num_workers", argument_kind::value, verdict::accepted, "", "tokenising uses --threads"},
    {"max_source_length", argument_kind::value, verdict::honoured, "1024",
     "tokens, end of sentence included"},
    {"max_target_length", argument_kind::value, verdict::honoured, "128", "tokens, end of sentence included"},
    {"val_max_target_length", argument_kind::value, verdict::honoured, "",
     "tokens; default: max_target_length"},
    {"pad_to_max_length", argument_kind::flag, verdict::honoured, "False",
     "pad targets to the maximum length; acts only where padding counts in the loss"},
    {"max_train_samples", argument_kind::value, verdict::honoured, "", "use the first N rows only"},
    {"max_eval_samples", argument_kind::value, verdict::honoured, "", "use the first N rows only"},
    {"max_predict_samples", argument_kind::value, verdict::honoured, "", "use the first N rows only"},
    {"num_beams", argument_kind::value, verdict::honoured, "1",
     "beams of the final evaluation and prediction; 1: greedy"},
    {"ignore_pad_token_for_loss", argument_kind::on_flag, verdict::honoured, "True",
     "padding of labels does not count in the loss"},
    {"source_prefix", argument_kind::value, verdict::honoured, "", "text before every source sentence"},
    {"forced_bos_token", argument_kind::value, verdict::accepted, "",
     "for multilingual models other than T5"},
}};

}  // namespace t5zero
