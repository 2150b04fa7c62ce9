#!/usr/bin/env bash
# Lets clang 14 read every source of the project (no code is generated), once for each set of our macros that it has: its
# warnings, and its thread-safety analysis of the annotated locks, are errors.
# Usage: clang_check.sh BUILD_DIR, configured with the `tsa` preset.
set -euo pipefail
build=$1
# The generated headers, without compiling what is generated beside them.
ninja -C "$build" -t targets all | sed -n 's/^\(proto\/[^:]*\.pb\.h\):.*/\1/p' | xargs ninja -C "$build" >/dev/null
python3 - "$build/compile_commands.json" <<'PYTHON' | xargs -0 -P "$(nproc)" -n 1 bash -c
import json, shlex, sys
read = set()
for entry in json.load(open(sys.argv[1])):
    if entry["file"].endswith((".pb.cc", ".c")):
        continue
    words = shlex.split(entry["command"])
    if not any("clang++" in word for word in words):
        continue  # nvcc's
    words = words[words.index(next(w for w in words if "clang++" in w)):]  # without ccache
    cut = words.index("-o")
    words = words[:cut] + words[cut + 2:] + ["-fsyntax-only"]
    macros = [word for word in words if word.startswith("-DTC_") and "/" not in word]
    if any(macro.startswith("-DTC_BREAK_") for macro in macros):
        continue  # broken on purpose, in a line or two
    form = (entry["file"], *sorted(macros))
    if form in read:
        continue  # of another program, or optimised otherwise
    read.add(form)
    sys.stdout.write(f"cd {shlex.quote(entry['directory'])} && {shlex.join(words)}\0")
PYTHON
