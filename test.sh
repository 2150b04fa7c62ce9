#!/usr/bin/env bash
# Sets everything up, builds, and runs all tests. ./test.sh [ctest arguments, e.g. -L unit or -R catalog]
# ctest shows which test programs skipped whole; which single tests did, and why, is told behind its summary.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
deploy/setup.sh
[ -e build/release/build.ninja ] || cmake --preset release >/dev/null
cmake --build --preset release
log=build/release/Testing/Temporary/LastTest.log
rm -f "$log"
status=0
tests/run_ctest.sh release "$@" || status=$?
if [ -e "$log" ]; then
  # GoogleTest tells the reason in the line behind "file:line: Skipped", unittest behind "... skipped".
  reasons=$(awk '/: Skipped$/ { getline; print } sub(/^.*\.\.\. skipped /, "")' "$log" | sort | uniq -c)
  if [ -n "$reasons" ]; then printf '\nSingle tests that skipped, and why:\n%s\n' "$reasons"; fi
fi
exit "$status"
