// The Hub cache that the options name.
#pragma once

#include <t5zero/cli/options.hpp>
#include <t5zero/io/hub.hpp>

namespace t5zero::cli {

/// --cache_dir, else what the environment says.
[[nodiscard]] inline hub_cache cache_of(const options& chosen) {
  return chosen.cache_dir ? hub_cache{*chosen.cache_dir} : hub_cache::from_environment();
}

}  // namespace t5zero::cli
