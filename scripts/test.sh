#!/usr/bin/env bash
# Installs, builds everything, and runs the tests. Options given to this script go to ctest: scripts/test.sh -L static
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

scripts/build.sh
# One test at a time: several use all cores themselves.
ctest --preset cpu "$@"
