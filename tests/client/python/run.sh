#!/usr/bin/env bash
# Builds the Python package from this tree, installs it into a virtual environment under build/, made once, and runs pytest
# over it beside the daemon of the build given. Usage: run.sh BUILD_DIR [pytest arguments]; exits with 77, a visible skip,
# where PyPI cannot be reached.
set -euo pipefail
build=$1
shift
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
top=$(cd "$here/../../.." && pwd)
venv=$top/build/python-venv
packages=(scikit-build-core==1.1.2 pybind11==3.1.0 pytest==9.2.0 numpy==2.4.6 mypy==2.4.1)

exec 9>"$venv.lock"
flock 9 # another build's test uses the same environment
if [ "$(cat "$venv/.complete" 2>/dev/null)" != "${packages[*]}" ]; then
  rm -rf "$venv"
  if ! { python3 -m venv "$venv" && "$venv/bin/pip" install --quiet --disable-pip-version-check "${packages[@]}"; } \
      >"$venv.log" 2>&1; then
    rm -rf "$venv"
    echo "SKIPPED: ${packages[*]} cannot be had; see $venv.log"
    exit 77
  fi
  echo "${packages[*]}" >"$venv/.complete"
fi

export CMAKE_BUILD_PARALLEL_LEVEL=1 # ctest runs another test beside it
"$venv/bin/pip" install --quiet --disable-pip-version-check --no-build-isolation --no-deps --force-reinstall \
  --config-settings=build-dir="$top/build/python-wheel" "$top/client/python"

# Nothing of how this machine's own daemon is set up.
for name in $(env | sed -n 's/^\(THERMOCLINE_[A-Z0-9_]*\)=.*/\1/p'); do unset "$name"; done
export THERMOCLINE_CONFIG=/dev/null TC_BIN=$build/bin TC_SOURCE=$top PYTHONDONTWRITEBYTECODE=1
cd "$here"
exec "$venv/bin/python" -m pytest -p no:cacheprovider -q "$@"
