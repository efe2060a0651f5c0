// Names of models and datasets to directories: local, then the Hugging Face Hub cache. Downloads will be a
// third place to look, at the end of resolve().
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>
#include <string_view>
#include <system_error>
#include <vector>

#include <t5zero/core/error.hpp>
#include <t5zero/io/shard_name.hpp>

namespace t5zero {

/// Where the Hub's files are cached.
struct hub_cache {
  std::filesystem::path root;

  /// HF_HUB_CACHE, else HF_HOME/hub, else XDG_CACHE_HOME/huggingface/hub, else ~/.cache/huggingface/hub; a
  /// leading ~ is the home directory.
  [[nodiscard]] static hub_cache from_environment() {
    auto variable = [](const char* name) -> std::string {
      const char* value = std::getenv(name);
      return value != nullptr ? value : "";
    };
    const auto path = [&](const std::string& text) {
      const bool is_home = text == "~" || text.starts_with("~/");
      return is_home ? std::filesystem::path(variable("HOME") + text.substr(1)) : std::filesystem::path(text);
    };
    if (const std::string cache = variable("HF_HUB_CACHE"); !cache.empty()) return {path(cache)};
    if (const std::string home = variable("HF_HOME"); !home.empty()) return {path(home) / "hub"};
    const std::string xdg = variable("XDG_CACHE_HOME");
    return {path(xdg.empty() ? "~/.cache" : xdg) / "huggingface" / "hub"};
  }
};

enum class hub_kind { model, dataset };

namespace detail {

/// The ids that one name may have: "t5-small" is "google-t5/t5-small", "wmt16" is "wmt/wmt16".
inline std::vector<std::string> hub_ids(hub_kind kind, const std::string& name) {
  const std::string owner = kind == hub_kind::model ? "google-t5/" : "wmt/";
  const std::string prefix = kind == hub_kind::model ? "t5-" : "wmt";
  if (name.rfind(owner, 0) == 0) return {name, name.substr(owner.size())};
  if (name.find('/') == std::string::npos && name.rfind(prefix, 0) == 0) return {owner + name, name};
  return {name};
}

inline std::filesystem::path hub_folder(hub_kind kind, std::string id) {
  for (std::size_t at = id.find('/'); at != std::string::npos; at = id.find('/')) id.replace(at, 1, "--");
  return (kind == hub_kind::model ? "models--" : "datasets--") + id;
}

}  // namespace detail

/// The directory of a model or dataset: `name` itself if it is one, else a snapshot of `revision` in the
/// cache. Throws input_error that lists the places tried; `flag` is the flag that gave the name.
[[nodiscard]] inline std::filesystem::path resolve(hub_kind kind, const std::string& name,
                                                   const std::string& revision, const hub_cache& cache,
                                                   std::string_view flag) {
  std::error_code ignored;
  if (std::filesystem::is_directory(name, ignored)) return name;
  std::string tried = "the directory " + name;
  for (const std::string& id : detail::hub_ids(kind, name)) {
    const std::filesystem::path folder = cache.root / detail::hub_folder(kind, id);
    std::string commit = revision;
    std::ifstream reference(folder / "refs" / revision);
    reference >> commit;
    const std::filesystem::path snapshots = folder / "snapshots";
    if (std::filesystem::is_directory(snapshots / commit, ignored)) return snapshots / commit;
    tried += ", " + (snapshots / commit).string();
    // Without refs a lone snapshot is the one meant, unless a revision was asked for.
    if (revision != "main") continue;
    std::vector<std::filesystem::path> there;
    for (const auto& entry : std::filesystem::directory_iterator(snapshots, ignored))
      there.push_back(entry.path());
    if (there.size() == 1) return there.front();
  }
  throw input_error(std::string(flag) + " " + name + ": not found; tried " + tried +
                    ". Give a directory, or set HF_HOME to a cache that holds it");
}

namespace detail {

/// Whether the names are <split>-00000-of-0000N<extension> for all of N.
inline bool are_all_shards(const std::vector<std::filesystem::path>& sorted, const std::string& split,
                           const std::string& extension) {
  for (std::size_t i = 0; i < sorted.size(); ++i)
    if (sorted[i].filename() != shard_name(split + "-", i, sorted.size(), extension)) return false;
  return true;
}

}  // namespace detail

/// The files of a split ("train", "validation", "test") of a dataset directory: <split>.jsonl, or the only
/// file whose name begins with the split's, or all of <split>-00000-of-0000N.jsonl; else the same with .json.
/// Throws input_error.
[[nodiscard]] inline std::vector<std::filesystem::path> find_split(const std::filesystem::path& dataset,
                                                                   const std::string& config,
                                                                   const std::string& split) {
  const std::filesystem::path directory = config.empty() ? dataset : dataset / config;
  std::error_code ignored;
  if (!std::filesystem::is_directory(directory, ignored)) {
    std::string configs;
    for (const auto& entry : std::filesystem::directory_iterator(dataset, ignored)) {
      if (entry.is_directory())
        configs.append(configs.empty() ? "" : ", ").append(entry.path().filename().string());
    }
    throw input_error("--dataset_config_name " + config + ": " + dataset.string() +
                      " has no such configuration; it has " + (configs.empty() ? "none" : configs));
  }
  std::string unread;
  for (const std::string extension : {".jsonl", ".json", ".parquet"}) {
    std::vector<std::filesystem::path> found;
    for (const auto& entry : std::filesystem::directory_iterator(directory, ignored)) {
      const std::string name = entry.path().filename().string();
      if (name.starts_with(split) && entry.path().extension() == extension) found.push_back(entry.path());
    }
    if (found.empty()) continue;
    std::sort(found.begin(), found.end());
    if (extension == ".parquet") {
      unread = found.front().filename().string();
      continue;
    }
    const auto exact = std::find(found.begin(), found.end(), directory / (split + extension));
    if (exact != found.end()) return {*exact};
    if (found.size() == 1 && found[0].string().find("-of-") == std::string::npos) return found;
    if (detail::are_all_shards(found, split, extension)) return found;
    std::string names;
    for (const auto& path : found) names.append(names.empty() ? "" : ", ").append(path.filename().string());
    throw input_error("--dataset_name: " + directory.string() + " has " + names + ": neither " + split +
                      extension + " nor all parts of " + split + "-00000-of-0000N" + extension +
                      "; complete them, or give the file with --" + split + "_file");
  }
  if (!unread.empty()) {
    throw input_error("--dataset_name: " + directory.string() + " has " + unread +
                      "; Parquet files are not read yet: write it as " + split +
                      ".jsonl beside it (datasets: .to_json), or give a .jsonl with --" + split + "_file");
  }
  throw input_error(
      "--dataset_name: " + directory.string() + ": no " + split + "*.jsonl or " + split + "*.json" +
      (config.empty() ? "; if the dataset has configurations, name one with --dataset_config_name" : ""));
}

}  // namespace t5zero
