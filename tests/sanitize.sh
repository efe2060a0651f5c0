#!/bin/sh
# Every test case of a CUDA test program under compute-sanitizer, each case a process of its own.
#   tests/sanitize.sh <test program> [tools] [seconds a case] [cases at a time] [part/parts] [Catch2's names of cases]
# Prints one line for each tool: how many cases were clean, found something, or ran out of time, and the names and
# first report lines of those that were not clean. With 2/3 it takes every third case, from the second on. Cases
# take the machine's GPUs in turn, and compute-sanitizer is bound by the CPU: many cores help. Stopped by SIGTERM it
# reports on the cases that have ended. Exit code: 1 if a case was not clean, or did not end.
set -u
program=${1:?usage: tests/sanitize.sh <test program> [tools] [seconds a case] [cases at a time] [part/parts] [names]}
tools=${2:-"memcheck racecheck initcheck synccheck"}
seconds=${3:-120}
jobs=${4:-8}
part=${5:-1/1}
only=${6:-}
log=$(mktemp -d)
trap 'rm -rf "$log"' EXIT
gpus=$(nvidia-smi -L 2>/dev/null | grep -c .)
[ "$gpus" -gt 0 ] || gpus=1
export program seconds log gpus T5ZERO_UNDER_SANITIZER=1

# one_case <number> <tool> <name>: runs the case; its verdict is a file $log/<tool>.<number>.<verdict>.
cat >"$log/one_case" <<'CASE'
number=$1 tool=$2 name=$3
# Catch2 reads a comma and a bracket of a name as its own syntax.
escaped=$(printf '%s' "$name" | sed 's/[],[]/\\&/g')
start=$(date +%s)
[ -n "${CUDA_VISIBLE_DEVICES:-}" ] || export CUDA_VISIBLE_DEVICES=$((number % gpus))
timeout "$seconds" compute-sanitizer --tool "$tool" --launch-timeout 60 --error-exitcode 99 \
  "$program" "$escaped" >"$log/$tool.$number.out" 2>&1
case $? in
  0) verdict=clean ;;
  4) verdict=skipped ;;
  124) verdict=timeout ;;
  *) verdict=unclean ;;
esac
grep -q "No test cases matched" "$log/$tool.$number.out" && verdict=unclean
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

# report <tool>: what its cases came to.
report() {
  tool=$1
  for verdict in clean skipped timeout unclean; do
    eval "$verdict=$(find "$log" -name "$tool.*.$verdict" | wc -l)"
  done
  echo "$tool: $clean of $cases clean, $skipped skipped, $timeout out of time, $unclean not clean; longest:" \
    "$(sort -rn "$log/$tool.times" 2>/dev/null | head -1)"
  if [ "$clean" -eq 0 ] || [ $((clean + skipped + timeout + unclean)) -ne "$cases" ]; then
    status=1
    echo "  not every case came to a verdict, or all were skipped"
  fi
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
  # In the background, so that a signal is heard at once.
  awk -v tool="$tool" '{ printf "%d%c%s%c%s%c", NR, 0, tool, 0, $0, 0 }' "$log/names" |
    xargs -0 -r -n 3 -P "$jobs" sh "$log/one_case" &
  trap 'report "$tool"; exit 1' TERM
  wait $!
  trap - TERM
  report "$tool"
done
exit $status
