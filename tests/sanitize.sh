#!/bin/sh
# Every test case of a CUDA test program under compute-sanitizer, each case a process of its own.
#   tests/sanitize.sh <test program> [tools] [seconds a case] [cases at a time] [part/parts] [Catch2's names of cases]
# Prints one line for each tool: how many cases were clean, found something, or ran out of time, and the names and
# first report lines of those that were not clean. With 2/3 it takes every third case, from the second on. Cases
# take the machine's GPUs in turn, and compute-sanitizer is bound by the CPU: many cores help. Each takes up to 6 GiB
# of GPU memory; those that say that none was left are run again, one a GPU, and counted. Races that racecheck reports
# inside cuBLASLt's own kernels, which wait by means it does not know, do not count. Stopped by SIGTERM it reports on
# the cases that have ended. Exit code: 1 if a case was not clean, or did not end.
set -u
usage="usage: tests/sanitize.sh <test program> [tools] [seconds a case] [cases at a time] [part/parts] [names]"
program=${1:-}
case $program in
  "" | -*) echo "$usage" >&2; exit 2 ;;
esac
[ -x "$program" ] || { echo "sanitize: $program is no program: build the target ${program##*/} first" >&2; exit 2; }
tools=${2:-"memcheck racecheck initcheck synccheck"}
seconds=${3:-120}
jobs=${4:-8}
part=${5:-1/1}
only=${6:-}
log=$(mktemp -d)
trap 'rm -rf "$log"' EXIT
gpus=$(nvidia-smi -L 2>/dev/null | awk 'NF { print NR - 1 }')
[ -z "${CUDA_VISIBLE_DEVICES:-}" ] || gpus=$(echo "$CUDA_VISIBLE_DEVICES" | tr ',' ' ')
# shellcheck disable=SC2086  # words
set -- ${gpus:-0}
export program seconds log T5ZERO_UNDER_SANITIZER=1

# one_case <alone: yes or no> <tool> <gpu> <number> <name>: runs the case; its verdict is a file
# $log/<tool>.<number>.<verdict>.
cat >"$log/one_case" <<'CASE'
alone=$1 tool=$2 number=$4 name=$5
export CUDA_VISIBLE_DEVICES="$3"
# Catch2 reads a comma and a bracket of a name as its own syntax.
escaped=$(printf '%s' "$name" | sed 's/[],[]/\\&/g')
start=$(date +%s)
timeout "$seconds" compute-sanitizer --tool "$tool" --launch-timeout 60 --print-limit 0 --error-exitcode 99 \
  "$program" "$escaped" >"$log/$tool.$number.out" 2>&1
status=$?
count() { grep -cE "$1" "$log/$tool.$number.out"; }
races=$(count "Race reported")
accesses=$(count "(Read|Write) access at")
if [ "$tool" = racecheck ] && [ "$races" -gt 0 ] && [ "$accesses" -ge $((2 * races)) ] &&
  [ "$accesses" -eq "$(count "(Read|Write) access at (nvjet|cutlass|cublas)")" ] &&
  [ "$(count "All tests passed")" -eq 1 ]; then
  status=0
fi
case $status in
  0) verdict=clean ;;
  4) verdict=skipped ;;
  124) verdict=timeout ;;
  *) verdict=unclean ;;
esac
grep -q "No test cases matched" "$log/$tool.$number.out" && verdict=unclean
findings="Race reported|Potential|Invalid __|Uninitialized|Barrier error|Misaligned|out of bounds"
if [ "$verdict" = unclean ] && [ "$alone" = no ] &&
  [ "$(count "out of memory|Unable to allocate enough memory|ALLOC_FAILED")" -gt 0 ] &&
  [ "$(count "^=========.*($findings)")" -eq 0 ]; then
  verdict=again
fi
# A case that never reaches the GPU: what it says itself counts.
if grep -q "terminated before first instrumented API call" "$log/$tool.$number.out" &&
  grep -q "All tests passed" "$log/$tool.$number.out"; then
  verdict=clean
fi
printf '%s\n' "$name" >"$log/$tool.$number.$verdict"
echo "$(($(date +%s) - start)) s $name" >>"$log/$tool.times"
CASE

command -v compute-sanitizer >/dev/null || { echo "sanitize: there is no compute-sanitizer on the PATH" >&2; exit 2; }
"$program" --list-test-names-only ${only:+"$only"} |
  awk -v part="${part%/*}" -v parts="${part#*/}" 'NF && ++cases % parts == part % parts' >"$log/names"
cases=$(grep -c . "$log/names")
[ "$cases" -gt 0 ] || { echo "sanitize: $program names no test cases" >&2; exit 2; }

# run_cases <alone> <tool> <cases at a time> <gpu>...: those whose numbers and names are read, on the GPUs in turn.
run_cases() {
  alone=$1 tool=$2 at_once=$3
  shift 3
  awk -v gpus="$*" 'BEGIN { count = split(gpus, gpu, " ") }
    { number = $1; sub(/^[0-9]+ /, ""); printf "%s%c%d%c%s%c", gpu[NR % count + 1], 0, number, 0, $0, 0 }' |
    xargs -0 -r -n 3 -P "$at_once" sh "$log/one_case" "$alone" "$tool"
}

# run_tool <tool> <gpu>...
run_tool() {
  tool=$1
  shift
  awk '{ print NR, $0 }' "$log/names" | run_cases no "$tool" "$jobs" "$@"
  for failed in "$log/$tool".*.again; do
    [ -e "$failed" ] || continue
    number=${failed%.again}
    printf '%s %s\n' "${number##*.}" "$(cat "$failed")"
    rm "$failed"
  done >"$log/$tool.again"
  run_cases yes "$tool" "$#" "$@" <"$log/$tool.again"
}

# report <tool>: what its cases came to.
report() {
  tool=$1
  for verdict in clean skipped timeout unclean; do
    eval "$verdict=$(find "$log" -name "$tool.*.$verdict" | wc -l)"
  done
  echo "$tool: $clean of $cases clean, $skipped skipped, $timeout out of time, $unclean not clean; longest:" \
    "$(sort -rn "$log/$tool.times" 2>/dev/null | head -1)"
  [ ! -s "$log/$tool.again" ] || echo "  run again, as GPU memory was short: $(grep -c . "$log/$tool.again")"
  if [ "$clean" -eq 0 ]; then
    status=1
    echo "  no case was clean"
  fi
  number=0
  while read -r name; do
    number=$((number + 1))
    for verdict in clean skipped timeout unclean; do
      [ -e "$log/$tool.$number.$verdict" ] && continue 2
    done
    status=1
    echo "  did not end: $name"
  done <"$log/names"
  for bad in "$log/$tool".*.timeout "$log/$tool".*.unclean; do
    [ -e "$bad" ] || continue
    status=1
    echo "  ${bad##*.}: $(cat "$bad")"
    grep -E -A4 "^========= [A-Z]|FAILED|skipped" "${bad%.*}.out" | grep -vE "COMPUTE-SANITIZER|Host Frame" |
      awk '!seen[$0]++' | head -12
  done
}

status=0
for tool in $tools; do
  run_tool "$tool" "$@" &  # in the background, so that a signal is heard at once
  trap 'pkill -P $! xargs 2>/dev/null; report "$tool"; exit 1' TERM
  wait $!
  trap - TERM
  report "$tool"
done
exit $status
