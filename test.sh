#!/usr/bin/env bash
# Sets everything up, builds, and runs all tests. ./test.sh [ctest arguments, e.g. -L unit or -R catalog]
# ctest shows which test programs skipped whole; which single tests did, and why, is told behind its summary.
# The tests of label e2e wait for processes, and a machine that others use can be late: what of them fails gets a second
# try, alone, and both tries are shown. All else has one.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
deploy/setup.sh
[ -e build/release/build.ninja ] || cmake --preset release >/dev/null
cmake --build --preset release
log=build/release/Testing/Temporary/LastTest.log
rm -f "$log"
status=0
ctest --preset release "$@" || status=$?
if [ -e "$log" ]; then
  failed=build/release/Testing/Temporary/LastTestsFailed.log
  # GoogleTest tells the reason in the line behind "file:line: Skipped", unittest behind "... skipped".
  reasons=$(awk '/: Skipped$/ { getline; print } sub(/^.*\.\.\. skipped /, "")' "$log" | sort | uniq -c)
  if [ -n "$reasons" ]; then printf '\nSingle tests that skipped, and why:\n%s\n' "$reasons"; fi
  if [ "$status" -ne 0 ] && [ -s "$failed" ]; then
    all=$(wc -l <"$failed")
    again=$(ctest --preset release -N --rerun-failed -L e2e | grep -c '^ *Test *#' || true)
    if [ "$again" -eq "$all" ]; then
      printf '\nA second try of what failed:\n'
      status=0
      ctest --preset release --rerun-failed -j 1 || status=$?
    fi
  fi
fi
exit "$status"
