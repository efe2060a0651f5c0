// Whether the options want progress bars.
#pragma once

#include <t5zero/cli/options.hpp>
#include <t5zero/train/progress_bar.hpp>

namespace t5zero::cli {

[[nodiscard]] inline progress_mode bar_mode(const options& chosen) {
  return chosen.disable_tqdm.value_or(false) ? progress_mode::off : progress_mode::automatic;
}

}  // namespace t5zero::cli
