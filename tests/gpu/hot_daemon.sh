#!/usr/bin/env bash
# A daemon with a hot tier on a real device: files go in, rise to the device as memory gets short, and come back, the same to
# the byte, also when the daemon and the mover are killed. tests/gpu/hot_daemon.sh DIRECTORY_OF_PROGRAMS
set -uo pipefail
export PATH=$1:$PATH
files=8
memory=$(mktemp -d /dev/shm/tc-gpu.XXXXXX) disk=$(mktemp -d)
options=(--socket "$memory/socket" --arena-dir "$memory" --data-dir "$disk/data" --http 127.0.0.1:0 --warm-capacity 256MiB
  --cold-capacity 8GiB --hot-capacity 4GiB)
custodian='' daemon=''
trap 'kill -9 $daemon $custodian 2>/dev/null; rm -rf "$memory" "$disk"' EXIT
fail() { echo "hot_daemon: $1"; tail -20 "$memory/log"; exit 1; }
ctl() { thermoctl --socket "$memory/socket" "$@"; }
await() {  # CONDITION...
  for _ in $(seq 600); do "$@" >/dev/null 2>&1 && return; sleep 0.1; done
  fail "in vain: $*"
}
hot() { ctl --json status | python3 -c "import json, sys
print(next(tier for tier in json.load(sys.stdin)['tiers'] if tier['tier'] == 'hot')['$1'])"; }
pinned() { python3 -c "import urllib.request
text = urllib.request.urlopen('http://$(cat "$memory/socket.http")/metrics').read().decode()
print(int(float(text.split('\\nthermocline_arena_pinned_bytes ')[1].split()[0])))"; }
start() { thermoclined "${options[@]}" >>"$memory/log" 2>&1 & daemon=$!; await ctl status; }
put() { for i in $(seq $files); do ctl put --name "file$i" "$disk/$i" >/dev/null || fail "put $i"; done; }
compare() {  # each is used again by it
  for i in $(seq $files); do
    ctl get --name "file$i" "$memory/got" >/dev/null && cmp "$disk/$i" "$memory/got" || fail "file $i: $1"
  done
}

thermoclined --vram "${options[@]}" >>"$memory/log" 2>&1 & custodian=$!
await test -S "$memory/socket.vram"
start
for i in $(seq $files); do head -c 64M /dev/urandom >"$disk/$i"; done
put
is_used() { compare "at first" && [ "$(hot promotions)" -gt 100 ] && [ "$(hot demotions)" -gt 100 ]; }
await is_used
is_pinned() { [ "$(pinned)" -eq $((256 << 20)) ]; }
await is_pinned
echo "moved: $(hot promotions) blocks to the device, $(hot demotions) back; pinned: $(pinned) bytes"
kill -9 $daemon; wait $daemon 2>/dev/null
start
[ "$(hot blocks)" -gt 100 ] || fail "a new daemon finds $(hot blocks) blocks on the device"
echo "found by a new daemon: $(hot blocks) blocks"
compare "by a new daemon"
pkill -9 -P $daemon || fail "no mover runs"
compare "without a mover"
before=$(hot promotions)
is_moving() { compare "by a new mover" && [ "$(hot promotions)" -gt "$before" ] && [ "$(hot state)" = ok ]; }
await is_moving
ctl fsck >/dev/null || fail "fsck"
kill $daemon; wait $daemon || fail "the daemon ended with $?"
kill $custodian; wait $custodian || fail "the custodian ended with $?"
echo "all bytes right"
