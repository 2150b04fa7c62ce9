#!/usr/bin/env bash
# Kills the daemon at random moments under load, cuts the power of its disk, and looks for wrong bytes, leaked slots, lost
# pins, and blocks that are gone though it was answered that they are on disk: one table, the last line the verdict, exit 1 on
# any violation. With --faults a table of everything else that a disk can do, and of what came of it.
#   tests/crash/run.sh [--short|--long] [--seed S] [--kills N] [--cuts N] [--clients C] [--variant NAME] [--keep]
#   tests/crash/run.sh --faults [--short] [--only TEXT] [--jobs N]
# --short: 50 kills and 10 power cuts, some two minutes; --long: 300 and 60, and clients that sleep longer than a lease lasts.
# Power cuts and full disks are mounted file systems: they take root, and are skipped, visibly, without it.
set -euo pipefail
top=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
build=${TC_BUILD:-$top/build/release}
[ -e "$build/build.ninja" ] || cmake -S "$top" --preset release -B "$build" >/dev/null
if [ "${1:-}" = --faults ]; then
  cmake --build "$build" --target thermoclined thermoctl disk_faults_test >&2
  exec "$build/bin/disk_faults_test" "${@:2}"
fi
cmake --build "$build" --target thermoclined crash_test crash_self_test >&2
"$build/bin/crash_self_test" --gtest_brief=1 >&2
exec "$build/bin/crash_test" "$@"
