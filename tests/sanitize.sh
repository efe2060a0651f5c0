#!/bin/sh
# The test cases of a CUDA test program under compute-sanitizer, some cases a process, as a start under it takes longer
# than most cases.
#   tests/sanitize.sh <test program> [tools] [seconds a process] [processes at a time] [part/parts]
#                     [Catch2's names of cases] [cases a process]
# Prints one line for each tool: how many cases were clean, found something, or ran out of time, and the names and
# first report lines of those that were not clean. With 2/3 it takes every third case, from the second on. Processes
# take the machine's GPUs in turn, and compute-sanitizer is bound by the CPU: many cores help. Each takes up to 6 GiB
# of GPU memory. The cases of a process that is not clean, and one that says that no GPU memory was left, run again,
# each alone and one a GPU, and are counted. Of racecheck's reports those on t5zero's kernels count: cuBLASLt's wait by
# means that it does not know, and where it is told to look past them (--kernel-name) it fails in a training of 16 bits,
# with an illegal access that no other tool finds. synccheck looks at t5zero's kernels alone: a graph of many more takes
# more memory than it finds; it is told how many barriers in shared memory to follow (64 are too few, 65536 make it fail).
# SANITIZED_KERNELS, as --kernel-name takes it, narrows every tool (kns=_: all, for synccheck), and then every report
# counts. Stopped by SIGTERM it reports on the cases that have ended. Exit code: 1 if a case was not clean, or did not
# end.
set -u
usage="usage: tests/sanitize.sh <test program> [tools] [seconds a process] [processes at a time] [part/parts] \
[names] [cases a process]"
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
together=${7:-4}
log=$(mktemp -d)
trap 'rm -rf "$log"' EXIT
gpus=$(nvidia-smi -L 2>/dev/null | awk 'NF { print NR - 1 }')
[ -z "${CUDA_VISIBLE_DEVICES:-}" ] || gpus=$(echo "$CUDA_VISIBLE_DEVICES" | tr ',' ' ')
# shellcheck disable=SC2086  # words
set -- ${gpus:-0}
export program seconds log T5ZERO_UNDER_SANITIZER=1
# cuBLASLt's reports are many, and racecheck ends with a number of them: none of t5zero's may be lost.
export NV_COMPUTE_SANITIZER_MAX_RACECHECK_HAZARDS=10000000

# one_process <alone: yes or no> <tool> <gpu> <numbers of cases>: the verdict on each is a file
# $log/<tool>.<number>.<verdict>.
cat >"$log/one_process" <<'PROCESS'
alone=$1 tool=$2 numbers=$4
export CUDA_VISIBLE_DEVICES="$3"
output=$log/$tool.${numbers%% *}.out
# Catch2 reads a comma and a bracket of a name as its own syntax.
names=$(for number in $numbers; do sed -n "$number{s/[],[]/\\\\&/g;p}" "$log/names"; done | paste -sd, -)
start=$(date +%s)
kernels=${SANITIZED_KERNELS:-}
[ "$tool" = synccheck ] && kernels=${kernels:-kns=t5zero}
set -- ${kernels:+--kernel-name "$kernels"}
[ "$tool" = synccheck ] && set -- "$@" --num-cuda-barriers 512
timeout "$seconds" compute-sanitizer --tool "$tool" "$@" --launch-timeout 60 --print-limit 0 --error-exitcode 99 \
  "$program" "$names" >"$output" 2>&1
status=$?
case $status in
  0) verdict=clean ;;
  4) verdict=skipped ;;
  124) verdict=timeout ;;
  *) verdict=unclean ;;
esac
grep -q "No test cases matched" "$output" && verdict=unclean
if [ "$tool" = racecheck ] && [ -z "$kernels" ] && [ "$status" -eq 99 ] && grep -q "All tests passed" "$output" &&
  ! grep -qE "^=========.* access (at|by) .*t5zero" "$output" &&
  ! grep -E "^========= (Error|Warning|Internal)" "$output" | grep -qvE "Race reported between .* access (at|by) "; then
  verdict=clean
  echo "$numbers" >>"$log/$tool.forgiven"
fi
# Cases that never reach the GPU: what they say themselves counts.
if grep -q "terminated before first instrumented API call" "$output" && grep -q "All tests passed" "$output"; then
  verdict=clean
fi
findings="Race reported|Potential|Invalid __|Uninitialized|Barrier error|Misaligned|out of bounds"
want_of_memory="out of memory|Unable to allocate enough memory|ALLOC_FAILED"
if [ "$alone" = no ] && [ "$verdict" != clean ]; then
  case $numbers in
    *" "*) verdict=again ;;
    *) grep -qE "$want_of_memory" "$output" && ! grep -qE "^=========.*($findings)" "$output" && verdict=again ;;
  esac
fi
for number in $numbers; do : >"$log/$tool.$number.$verdict"; done
echo "$(($(date +%s) - start)) s $names" >>"$log/$tool.times"
PROCESS

command -v compute-sanitizer >/dev/null || { echo "sanitize: there is no compute-sanitizer on the PATH" >&2; exit 2; }
"$program" --list-test-names-only ${only:+"$only"} |
  awk -v part="${part%/*}" -v parts="${part#*/}" 'NF && ++cases % parts == part % parts' >"$log/names"
cases=$(grep -c . "$log/names")
[ "$cases" -gt 0 ] || { echo "sanitize: $program names no test cases" >&2; exit 2; }

# run_processes <alone> <tool> <processes at a time> <gpu>...: a process for the cases of each line that is read, on
# the GPUs in turn.
run_processes() {
  alone=$1 tool=$2 at_once=$3
  shift 3
  awk -v gpus="$*" 'BEGIN { count = split(gpus, gpu, " ") }
    { printf "%s%c%s%c", gpu[NR % count + 1], 0, $0, 0 }' |
    xargs -0 -r -n 2 -P "$at_once" sh "$log/one_process" "$alone" "$tool"
}

# run_tool <tool> <gpu>...
run_tool() {
  tool=$1
  shift
  # Neighbours, which are alike, to different processes.
  awk -v cases="$cases" -v together="$together" 'BEGIN {
    processes = int((cases + together - 1) / together)
    for (first = 1; first <= processes; ++first) {
      line = first
      for (number = first + processes; number <= cases; number += processes) line = line " " number
      print line
    }
  }' | run_processes no "$tool" "$jobs" "$@"
  for failed in "$log/$tool".*.again; do
    [ -e "$failed" ] || continue
    number=${failed%.again}
    printf '%s\n' "${number##*.}"
    rm "$failed"
  done >"$log/$tool.again"
  run_processes yes "$tool" "$#" "$@" <"$log/$tool.again"
}

# report <tool>: what its cases came to.
report() {
  tool=$1
  for verdict in clean skipped timeout unclean; do
    eval "$verdict=$(find "$log" -name "$tool.*.$verdict" | wc -l)"
  done
  # shellcheck disable=SC2154  # assigned by eval
  echo "$tool: $clean of $cases clean, $skipped skipped, $timeout out of time, $unclean not clean; longest:" \
    "$(sort -rn "$log/$tool.times" 2>/dev/null | head -1)"
  [ ! -s "$log/$tool.forgiven" ] || echo "  with reports on other libraries' kernels: $(wc -w <"$log/$tool.forgiven")"
  [ ! -s "$log/$tool.again" ] || echo "  run again, each alone: $(grep -c . "$log/$tool.again")"
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
    of_case=${bad%.*}
    echo "  ${bad##*.}: $(sed -n "${of_case##*.}p" "$log/names")"
    grep -E -A4 "^========= [A-Z]|FAILED|skipped" "$of_case.out" | grep -vE "COMPUTE-SANITIZER|Host Frame" |
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
