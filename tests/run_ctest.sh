#!/usr/bin/env bash
# Runs the tests of a preset that is built, with ctest's summary: tests/run_ctest.sh PRESET [ctest arguments]
# The tests of label e2e wait for processes, and a machine that others use can be late: when only such ones fail, they get a
# second try, alone, and both tries are shown. All else has one.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
preset=$1
shift
failed=build/$preset/Testing/Temporary/LastTestsFailed.log
rm -f "$failed"
status=0
ctest --preset "$preset" "$@" || status=$?
if [ "$status" -ne 0 ] && [ -s "$failed" ]; then
  late=$(ctest --preset "$preset" -N -L e2e | sed -n 's/^ *Test *#[0-9]*: //p')
  names=$(cut -d: -f2 "$failed")  # the numbers are others without the arguments
  if ! grep -qvxF "$late" <<<"$names"; then
    printf '\nA second try of what failed:\n'
    status=0
    ctest --preset "$preset" -R "^($(paste -sd'|' <<<"$names"))\$" -j 1 || status=$?
  fi
fi
exit "$status"
