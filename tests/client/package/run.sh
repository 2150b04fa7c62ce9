#!/bin/sh
# Stages an install of the build given, then configures, builds and runs a consumer against it, from
# outside the tree: package/run.sh BUILD_DIR
set -eu
build=$1
source=$(cd "$(dirname "$0")" && pwd)
stage=$(mktemp -d /tmp/tc-package-XXXXXX)
trap 'rm -rf "$stage"' EXIT
cmake --install "$build" --component client --prefix "$stage/prefix" > "$stage/install.log"
cp "$source/CMakeLists.txt" "$source/consumer.cc" "$stage/"
cmake -S "$stage" -B "$stage/build" -G Ninja -DCMAKE_PREFIX_PATH="$stage/prefix" > "$stage/configure.log"
cmake --build "$stage/build"
"$stage/build/consumer"
echo "consumer ran"
