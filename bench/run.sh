#!/usr/bin/env bash
# Runs benchmarks, prints their rows in one table, and draws the plots.
#   bench/run.sh [NAME...] [--json FILE] [--plots DIRECTORY]   names: ttft engine match tenants tiers codec cold warm peers; none = all
# The peers come from the registries: redis-server and fio by deploy/setup.sh, llama-cpp-python (built from source, ten minutes),
# Mooncake Store, LMCache and matplotlib into environments of their own under build/. What cannot be had is skipped, visibly.
set -euo pipefail
top=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
known=(ttft engine match tenants tiers codec cold warm peers)
names=() json='' plots=$top/build/bench

while [ $# -gt 0 ]; do
  case $1 in
    --json) json=${2:?--json needs a file}; shift ;;
    --plots) plots=${2:?--plots needs a directory}; shift ;;
    -*) echo "usage: bench/run.sh [NAME...] [--json FILE] [--plots DIRECTORY]" >&2; exit 2 ;;
    *) case " ${known[*]} " in
         *" $1 "*) names+=("$1") ;;
         *) echo "bench/run.sh: no benchmark '$1'; there are: ${known[*]}" >&2; exit 2 ;;
       esac ;;
  esac
  shift
done
[ ${#names[@]} -gt 0 ] || names=("${known[@]}")
# What a match tells of other tenants belongs to what it costs.
[[ " ${names[*]} " != *" match "* || " ${names[*]} " == *" tenants "* ]] || names+=(tenants)

"$top/deploy/setup.sh"
[ -e "$top/build/release/build.ninja" ] || cmake -S "$top" --preset release >/dev/null
cmake --build "$top/build/release" --target thermoclined "${names[@]/#/bench_}"

mkdir -p "$plots"
rows=()
for name in "${names[@]}"; do
  printf '\n== %s\n' "$name"
  case $name in
    engine) "$top/bench/environment.sh" llama-venv llama-cpp-python==0.3.36 || true ;;
    cold) "$top/bench/environment.sh" lmcache-venv --no-deps lmcache==0.5.0 || true ;;
    match | peers) "$top/bench/environment.sh" mooncake-venv mooncake-transfer-engine-non-cuda==0.3.13.post1 || true ;;
  esac
  "$top/build/release/bin/bench_$name" --json "$plots/$name.json"
  rows+=("$plots/$name.json")
done

python3 - "${json:-$plots/rows.json}" "${rows[@]}" <<'PYTHON'
import json, os, sys
merged = []
for path in sys.argv[2:]:
    name = os.path.basename(path).removesuffix(".json")
    with open(path) as file:
        merged += [dict(row, benchmark=name) for row in json.load(file)]
with open(sys.argv[1], "w") as file:
    json.dump(merged, file, indent=1)
PYTHON
if "$top/bench/environment.sh" plot-venv matplotlib; then
  "$top/build/plot-venv/bin/python" "$top/bench/plot.py" "${json:-$plots/rows.json}" "$plots"
  printf '\nplots: %s\n' "$plots"/*.svg
fi
