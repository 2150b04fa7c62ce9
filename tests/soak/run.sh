#!/usr/bin/env bash
# Ten minutes of mixed load with clients killed, stopped and started at random, and the daemon killed and restarted in the
# first half of it: one table, last line the verdict, exit 1 on any violation.
#   tests/soak/run.sh [--seconds N] [--seed S] [--clients C] [--keep]
set -euo pipefail
top=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
build=${TC_BUILD:-$top/build/release}
[ -e "$build/build.ninja" ] || cmake -S "$top" --preset release -B "$build" >/dev/null
cmake --build "$build" --target thermoclined soak_test >&2
exec "$build/bin/soak_test" "$@"
