#!/usr/bin/env bash
# On a machine with an NVIDIA GPU: builds what needs one, runs every test of it on the device, the kernels' again under
# compute-sanitizer, measures, and prints one table. Without a GPU it says so and exits with 77.
#   tests/gpu/run.sh [--bin DIRECTORY] [--model FILE] [--quick] [--out DIRECTORY]
#   --bin: programs built elsewhere; --model: what the demo runs; --quick: no sanitizer; --out: for the measurements as JSON
set -uo pipefail
top=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
bin='' quick='' out='' model=$top/build/models/SmolLM2-135M-Instruct.Q4_1.gguf
while [ $# -gt 0 ]; do
  case $1 in
    --bin) bin=${2:?--bin needs a directory}; shift ;;
    --model) model=${2:?--model needs a file}; shift ;;
    --out) out=${2:?--out needs a directory}; shift ;;
    --quick) quick=1 ;;
    *) echo "usage: tests/gpu/run.sh [--bin DIRECTORY] [--model FILE] [--quick] [--out DIRECTORY]" >&2; exit 2 ;;
  esac
  shift
done
if ! nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader 2>/dev/null; then
  echo "tests/gpu: no GPU here (nvidia-smi fails)"
  exit 77
fi
if [ -z "$bin" ]; then
  "$top/deploy/setup.sh" || exit 1
  [ -e "$top/build/release/build.ninja" ] || cmake -S "$top" --preset release >/dev/null || exit 1
  cmake --build "$top/build/release" --target gpu_programs thermoclined thermoctl thermocline-engine || exit 1
  bin=$top/build/release/bin
fi

log=$(mktemp -d)
out=${out:-$log}
trap 'rm -rf "$log"' EXIT
lines=() failures=0
# step NAME COMMAND...: one line of the table; what it printed only if it failed.
step() {
  local name=$1 begin=$SECONDS status=0 seen
  shift
  "$@" >"$log/out" 2>&1 || status=$?
  # Of tests that start others, the last lines are their own.
  seen=$(grep -oE '^\[  PASSED  \] .* tests?' "$log/out" | tail -1)$(grep -oE '^\[  SKIPPED \] [0-9]+ tests?' "$log/out" | tail -1)
  seen="$(sed 's/\[  PASSED  \] //; s/\[  SKIPPED \]/, skipped:/' <<<"$seen") $(grep -oE '(ERROR|RACECHECK) SUMMARY: [0-9]+ [a-z]+|^moved: .*|^all bytes right' "$log/out" | tail -1)"
  if [ $status -ne 0 ]; then
    failures=$((failures + 1))
    printf -- '--- %s: exit code %d\n' "$name" "$status"
    grep -E '^\[  FAILED|Failure|error|Error|=====|: [A-Z]' "$log/out" | head -60
    tail -25 "$log/out"
  fi
  lines+=("$(printf '| %s | %s | %s | %ds |' "$name" "$([ $status -eq 0 ] && echo passed || echo "FAILED ($status)")" \
    "$seen" $((SECONDS - begin)))")
}

# What the emulator must refuse, a GPU need not notice.
filter=--gtest_filter=-BreachTest.*:*AreRefused
for program in "$bin"/*_test_gpu; do
  step "$(basename "$program")" "$program" "$filter"
done
step "a daemon with a hot tier" "$top/tests/gpu/hot_daemon.sh" "$bin"
if [ -n "$quick" ] || ! command -v compute-sanitizer >/dev/null; then
  lines+=("| compute-sanitizer | not run | $([ -z "$quick" ] && echo "it is not on the path") | |")
fi
if [ -z "$quick" ] && command -v compute-sanitizer >/dev/null; then
  for program in "$bin"/simt_*_test_gpu; do
    for tool in memcheck racecheck; do
      step "$tool $(basename "$program")" timeout 300 compute-sanitizer --tool $tool --error-exitcode 9 "$program" "$filter"
    done
  done
fi
"$bin/bench_gpu" --json "$out/bench_gpu.json" || failures=$((failures + 1))
printf '\nPyTorch on the same device:\n'
python3 "$top/bench/gpu_torch.py" --json "$out/torch.json"
if [ -e "$model" ]; then
  for device in cuda cpu; do
    printf '\nThe demo, computed by %s: ' $device
    python3 "$top/deploy/demo/demo.py" --bin "$bin" --model "$model" --device $device --json "$out/demo_$device.json" ||
      failures=$((failures + 1))
  done
  ceilings=$("$top/tests/gpu/ttft_ceiling.py" "$model" "$out"/{demo_cuda,bench_gpu,torch}.json) ||
    ceilings="| ceiling of the time to first token | not told | $ceilings | |"
  lines+=("$ceilings")
else
  lines+=("| demo | not run | no $model | |")
fi
printf '\n| step | result | seen | took |\n|---|---|---|--:|\n'
printf '%s\n' "${lines[@]}"
printf '%d failed\n' "$failures"
[ "$failures" -eq 0 ]
