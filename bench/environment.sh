#!/usr/bin/env bash
# A virtual environment under build/ for a peer or for plots, made once; false, visibly, when it cannot be had.
#   bench/environment.sh NAME PACKAGE...
set -euo pipefail
directory=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)/build/${1:?usage: bench/environment.sh NAME PACKAGE...}
shift
[ ! -e "$directory/.complete" ] || exit 0
echo "installing $* into $directory"
if python3 -m venv "$directory" && "$directory/bin/pip" install --quiet "$@" >"$directory.log" 2>&1; then
  touch "$directory/.complete"
else
  rm -rf "$directory"
  echo "SKIPPED: $* cannot be had; see $directory.log"
  exit 1
fi
