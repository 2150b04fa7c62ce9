#!/usr/bin/env bash
# Sets everything up, builds, and shows the main job on this machine: a real language model answers questions about a long
# document, and skips reading the document again because a daemon kept its KV cache.
#   ./demo.sh [--json FILE] [--device auto|cpu|cuda]
set -euo pipefail
top=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
shm_kib=$(df --output=avail -k /dev/shm | tail -1)
if [ "$shm_kib" -lt 147456 ]; then
  echo "demo: /dev/shm has room for $((shm_kib / 1024)) MiB, the warm tier needs 144 (docker run --shm-size=256m)" >&2
  exit 1
fi
"$top/deploy/setup.sh" --no-tests
[ -e "$top/build/release/build.ninja" ] || cmake -S "$top" --preset release >/dev/null
cmake --build "$top/build/release" --target thermoclined thermoctl thermocline-engine
exec python3 "$top/deploy/demo/demo.py" --bin "$top/build/release/bin" \
  --model "$top/build/models/SmolLM2-135M-Instruct.Q4_1.gguf" "$@"
