#!/usr/bin/env bash
# Installs what is missing, then configures and builds a preset, T5ZERO_PRESET or "cpu": scripts/build.sh [target...]
# No target: everything.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

scripts/install_dependencies.sh
launcher=()
if command -v ccache >/dev/null; then
  launcher=(-DCMAKE_CXX_COMPILER_LAUNCHER=ccache)
fi
# A new compiler's new warning must not stop a user; CI asks for errors.
preset="${T5ZERO_PRESET:-cpu}"
cmake --preset "$preset" -DT5ZERO_WERROR="${T5ZERO_WERROR:-OFF}" "${launcher[@]}"
targets=()
if [[ $# -gt 0 ]]; then
  targets=(--target "$@")
fi
cmake --build "build/$preset" -j"$(nproc)" "${targets[@]}"
