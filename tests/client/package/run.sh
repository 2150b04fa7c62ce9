#!/bin/sh
# Stages an install of the build given, makes a program against it from outside the tree, and runs that without a daemon,
# then twice with one. run.sh BUILD_DIR consumer: what the README shows, in C++; run.sh BUILD_DIR answer: what docs/c.md
# shows, in C99 and without a C++ compiler, by a library that exports what the header declares and nothing else.
set -eu
build=$1
program=$2
source=$(cd "$(dirname "$0")" && pwd)
stage=$(mktemp -d /dev/shm/tc-package-XXXXXX) # the arena wants a tmpfs
daemon=
trap '[ -z "$daemon" ] || { kill "$daemon"; wait "$daemon" || true; }; rm -rf "$stage"' EXIT
# shown LANGUAGE: the code block of that language.
shown() { sed -n "/^\`\`\`$1\$/,/^\`\`\`\$/p" "$source/../../../docs/c.md" | sed '1d;$d'; }
cmake --install "$build" --component client --prefix "$stage/prefix" > "$stage/install.log"
if [ "$program" = consumer ]; then
  cp "$source/CMakeLists.txt" "$source/consumer.cc" "$source/tour.cc" "$stage/"
else
  shown cmake > "$stage/CMakeLists.txt"
  shown c > "$stage/answer.c"
fi
cmake -S "$stage" -B "$stage/build" -G Ninja -DCMAKE_PREFIX_PATH="$stage/prefix" \
  -DCMAKE_C_FLAGS="-std=c99 -Wall -Wextra -Wpedantic -Werror" > "$stage/configure.log"
cmake --build "$stage/build"

# Nothing of how this machine's own daemon is set up.
for name in $(env | sed -n 's/^\(THERMOCLINE_[A-Z0-9_]*\)=.*/\1/p'); do unset "$name"; done
export THERMOCLINE_CONFIG=/dev/null THERMOCLINE_SOCKET="$stage/t.sock"
# expect WORDS: the program says them.
expect() {
  "$stage/build/$program" > "$stage/said" 2>&1 || true
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
if [ "$program" = answer ]; then
  grep -q "sum 40960" "$stage/said" # 4096 * (0 + 1 + 2 + 3 + 4)
  nm -D --defined-only "$(find "$stage/prefix" -name libthermocline_c.so)" | awk '{ print $3 }' | sort > "$stage/exported"
  grep -o 'thermocline_[a-z_]*(' "$stage/prefix/include/thermocline/thermocline.h" | tr -d '(' | sort -u > "$stage/declared"
  diff "$stage/declared" "$stage/exported"
fi
echo "$program ran"
