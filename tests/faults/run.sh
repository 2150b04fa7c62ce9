#!/usr/bin/env bash
# What caches do when bytes rot, memory runs out and processes stop or die: the same trials on Thermocline, Redis, Mooncake
# Store and LMCache's file back end, printed as one table. Exit 1 when Thermocline is not right in each; a peer that cannot be had is skipped, visibly.
#   tests/faults/run.sh [--short] [--json FILE]         --short: fewer values and shorter waits for Thermocline
set -euo pipefail
top=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
build=${TC_BUILD:-$top/build/release}
short=() json=''
while [ $# -gt 0 ]; do
  case $1 in
    --short) short=(--short) ;;
    --json) json=${2:?--json needs a file}; shift ;;
    *) echo "usage: tests/faults/run.sh [--short] [--json FILE]" >&2; exit 2 ;;
  esac
  shift
done
[ -e "$build/build.ninja" ] || cmake -S "$top" --preset release -B "$build" >/dev/null
cmake --build "$build" --target thermoclined thermoctl faults_test >&2
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

printf '== thermocline\n'
status=0
"$build/bin/faults_test" "${short[@]}" --json "$scratch/1.json" || status=$?
printf '\n== redis\n'
if command -v redis-server >/dev/null; then
  python3 "$top/tests/faults/peers.py" redis --json "$scratch/2.json"
else
  echo "SKIPPED: redis (no redis-server on PATH)"
fi
printf '\n== mooncake\n'
python=$top/build/mooncake-venv/bin/python
namespace=(unshare --net)
[ "$(id -u)" -eq 0 ] || namespace+=(--map-root-user)
if ! "$top/bench/environment.sh" mooncake-venv mooncake-transfer-engine-non-cuda==0.3.13.post1; then
  :
elif ! "${namespace[@]}" true 2>/dev/null; then
  echo "SKIPPED: mooncake (no network namespace can be made here, and its client listens on every address)"
else
  "${namespace[@]}" "$python" "$top/tests/faults/peers.py" mooncake --json "$scratch/3.json" 2>"$scratch/log" ||
    { echo "SKIPPED: mooncake failed:"; tail -5 "$scratch/log"; }
fi
printf '\n== lmcache\n'
if "$top/bench/environment.sh" lmcache-venv --no-deps lmcache==0.5.0; then
  "$top/build/lmcache-venv/bin/python" "$top/tests/faults/peers.py" lmcache --json "$scratch/4.json" 2>"$scratch/log" ||
    { echo "SKIPPED: lmcache failed:"; tail -5 "$scratch/log"; }
fi
printf '\n== others\nSKIPPED: infinistore (it needs an RDMA device even for TCP)\n\n'

python3 - "${json:-$scratch/rows.json}" "$scratch"/[1234].json <<'PYTHON'
import json, sys
rows = []
for path in sys.argv[2:]:
    with open(path) as file:
        rows += json.load(file)
with open(sys.argv[1], "w") as file:
    json.dump(rows, file, indent=1)
print(f"{'trial':<46} {'store':<12} {'':<6} what happened")
for trial in dict.fromkeys(row["trial"] for row in rows):
    name = trial
    for row in rows:
        if row["trial"] == trial:
            print(f"{name:<46} {row['store']:<12} {row['verdict']:<6} {row['outcome']}")
            name = ""
PYTHON
exit "$status"
