#!/usr/bin/env bash
# Installs what t5zero needs to build on Debian or Ubuntu. Does nothing when everything is there.
set -euo pipefail

packages=(g++ cmake ninja-build pkg-config libeigen3-dev catch2 libcli11-dev nlohmann-json3-dev
  libsentencepiece-dev)

fail() {
  echo "install_dependencies: $*" >&2
  exit 1
}

is_installed() { [[ "$(dpkg-query -W -f='${db:Status-Status}' "$1" 2>/dev/null)" == installed ]]; }

command -v dpkg-query >/dev/null && command -v apt-get >/dev/null ||
  fail "this is not Debian or Ubuntu. Install the equivalents of: ${packages[*]}"

missing=()
for package in "${packages[@]}"; do
  is_installed "$package" || missing+=("$package")
done
if [[ ${#missing[@]} -eq 0 ]]; then
  echo "install_dependencies: all ${#packages[@]} packages are there"
  exit 0
fi

as_root=()
if [[ "$(id -u)" != 0 ]]; then
  command -v sudo >/dev/null || fail "not root and no sudo. As root, run: apt-get install ${missing[*]}"
  as_root=(sudo)
fi

echo "install_dependencies: installing ${missing[*]}"
log="$(mktemp)"
trap 'rm -f "$log"' EXIT
apt() { "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq -y -o Dpkg::Use-Pty=0 -o DPkg::Lock::Timeout=300 "$@" >>"$log" 2>&1; }
# An old package list may do: what counts is whether the installation works.
apt update || echo "install_dependencies: the package lists could not be refreshed; trying with those that are here" >&2
apt install --no-install-recommends "${missing[@]}" || true

failed=()
for package in "${missing[@]}"; do
  is_installed "$package" || failed+=("$package")
done
if [[ ${#failed[@]} -gt 0 ]]; then
  tail -n 20 "$log" >&2
  fail "could not install ${failed[*]}; apt-get's last words are above"
fi
echo "install_dependencies: done"
