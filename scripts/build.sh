#!/usr/bin/env bash
# Installs what is missing, then configures and builds the preset "cpu": scripts/build.sh [target...]
# No target: everything.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

scripts/install_dependencies.sh
launcher=()
if command -v ccache >/dev/null; then
  launcher=(-DCMAKE_CXX_COMPILER_LAUNCHER=ccache)
fi
cmake --preset cpu "${launcher[@]}"
targets=()
if [[ $# -gt 0 ]]; then
  targets=(--target "$@")
fi
cmake --build build/cpu -j"$(nproc)" "${targets[@]}"
