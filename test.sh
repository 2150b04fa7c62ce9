#!/usr/bin/env bash
# Sets everything up, builds, and runs all tests. ./test.sh [ctest arguments, e.g. -L unit or -R catalog]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
deploy/setup.sh
[ -e build/release/build.ninja ] || cmake --preset release >/dev/null
cmake --build --preset release
exec ctest --preset release "$@"
