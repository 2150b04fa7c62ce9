#!/usr/bin/env bash
# Kills the daemon at random moments under load and looks for wrong bytes, leaked slots and lost pins: one table, the last
# line the verdict, exit 1 on any violation.
#   tests/crash/run.sh [--short|--long] [--seed S] [--kills N] [--clients C] [--variant NAME] [--keep]
# --short: 50 kills, about a minute and a half; --long: 300 kills, and clients that sleep longer than a lease lasts.
set -euo pipefail
top=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
build=${TC_BUILD:-$top/build/release}
[ -e "$build/build.ninja" ] || cmake -S "$top" --preset release -B "$build" >/dev/null
cmake --build "$build" --target thermoclined crash_test crash_self_test >&2
"$build/bin/crash_self_test" --gtest_brief=1 >&2
exec "$build/bin/crash_test" "$@"
