#!/usr/bin/env bash
# Fails if clang-format would change a C++ file. Says so and passes where there is no clang-format.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

if ! command -v clang-format >/dev/null; then
  echo "check_format: no clang-format here, not checked"
  exit 0
fi
# The files of a checkout, or of a plain copy of the sources.
find include tests bench examples -type f \( -name '*.hpp' -o -name '*.cpp' -o -name '*.cuh' -o -name '*.cu' \) \
  -print0 | xargs -0 --no-run-if-empty clang-format --dry-run -Werror
echo "check_format: every file is formatted"
