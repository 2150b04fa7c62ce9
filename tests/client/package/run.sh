#!/bin/sh
# Stages an install of the build given, configures and builds a consumer against it from outside the
# tree, and runs that without a daemon, then twice with one: package/run.sh BUILD_DIR
set -eu
build=$1
source=$(cd "$(dirname "$0")" && pwd)
stage=$(mktemp -d /dev/shm/tc-package-XXXXXX) # the arena wants a tmpfs
daemon=
trap '[ -z "$daemon" ] || { kill "$daemon"; wait "$daemon" || true; }; rm -rf "$stage"' EXIT
cmake --install "$build" --component client --prefix "$stage/prefix" > "$stage/install.log"
cp "$source/CMakeLists.txt" "$source/consumer.cc" "$source/tour.cc" "$stage/"
cmake -S "$stage" -B "$stage/build" -G Ninja -DCMAKE_PREFIX_PATH="$stage/prefix" > "$stage/configure.log"
cmake --build "$stage/build"

# Nothing of how this machine's own daemon is set up.
for name in $(env | sed -n 's/^\(THERMOCLINE_[A-Z0-9_]*\)=.*/\1/p'); do unset "$name"; done
export THERMOCLINE_CONFIG=/dev/null THERMOCLINE_SOCKET="$stage/t.sock"
# expect WORDS: the consumer says them.
expect() {
  "$stage/build/consumer" > "$stage/said" || true
  cat "$stage/said"
  grep -q "$1" "$stage/said" || { echo "expected: $1"; cat "$stage/log"; exit 1; }
}
: > "$stage/log"
expect "thermoclined --socket $stage/t.sock"
mkdir -m 700 "$stage/arena" "$stage/data"
"$build/bin/thermoclined" --socket "$THERMOCLINE_SOCKET" --data-dir "$stage/data" --arena-dir "$stage/arena" \
  --warm-capacity 8MiB --cold-capacity 0 --http off > "$stage/log" 2>&1 &
daemon=$!
tries=0
until [ -S "$THERMOCLINE_SOCKET" ] || [ "$tries" -ge 300 ]; do
  sleep 0.1
  tries=$((tries + 1))
done
expect "attended 0, computed 5"
expect "attended 5, computed 0"
echo "consumer ran"
