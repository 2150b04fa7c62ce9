"""The trials of tests/faults/faults_test.cc, done to peers as they come: Redis, Mooncake Store from its wheel, and the file
back end of LMCache from its own (bench/lmcache_peer.py has how that is loaded).

    PYTHON peers.py redis|mooncake|lmcache [--json FILE]      prints a row a trial, exit code 0 whatever the peers do

Run as `unshare --net PYTHON peers.py mooncake`: a client of Mooncake listens on every address whatever it is told. Values
are of 1 MiB; each begins with a mark, by which its copies are found in the memory of a process and in files.
"""

import json
import mmap
import os
import random
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "bench"))
import lmcache_peer  # noqa: E402  (found by the line above)
import mooncake_peer  # noqa: E402

MIB = 1 << 20
MARK = b"thermocline-fault-trial-value==="
FLIP_AT = 12345
FEW = 16
SOON_S = 2
HUNG_AFTER_S = 40
ROWS = []


def row(store, trial, verdict, outcome):
    print(f"{trial:<46} {verdict:<6} {outcome}", flush=True)
    ROWS.append({"trial": trial, "store": store, "verdict": verdict, "outcome": outcome})


def value(key, salt=0):
    return MARK + random.Random(key * 2 + salt).randbytes(MIB - len(MARK))


def tally(counts):
    return ", ".join(f"{count} {what}" for what, count in counts.items() if count) or "none"


def count_gets(store, keys):
    counts = {"right": 0, "wrong": 0, "missing": 0}
    for key in range(keys):
        got = store.get(key)
        counts["missing" if got is None else "right" if got == value(key) else "wrong"] += 1
    return counts


def timed(call):
    """(result or None, seconds, whether it came back at all): calls that may hang run in a thread of their own."""
    result = []

    def run():
        try:
            result.append(call())
        except OSError:
            pass  # the server was killed in the end

    thread = threading.Thread(target=run, daemon=True)
    start = time.monotonic()
    thread.start()
    thread.join(HUNG_AFTER_S)
    return (result[0] if result else None), time.monotonic() - start, not thread.is_alive()


def flip_in_memory(pid, but=range(0)):
    """Turns one bit over behind every mark in a process's memory, but for the addresses in `but`."""
    flips = 0
    with open(f"/proc/{pid}/maps", encoding="ascii") as maps, open(f"/proc/{pid}/mem", "r+b", buffering=0) as memory:
        for line in maps:
            span, mode = line.split()[:2]
            if not mode.startswith("rw"):
                continue
            begin, end = (int(word, 16) for word in span.split("-"))
            for base in range(begin, end, 64 * MIB):
                try:
                    memory.seek(base)
                    part = memory.read(min(64 * MIB, end - base))
                except (OSError, ValueError, OverflowError):
                    continue
                at = part.find(MARK)
                while at >= 0:
                    victim = base + at + FLIP_AT
                    if victim < end and victim not in but:
                        memory.seek(victim)
                        byte = memory.read(1)[0]
                        memory.seek(victim)
                        memory.write(bytes([byte ^ 0x10]))
                        flips += 1
                    at = part.find(MARK, at + 1)
    return flips


def flip_in_files(directory):
    flips = 0
    for folder, _, names in os.walk(directory):
        for name in names:
            with open(os.path.join(folder, name), "r+b") as file:
                content = file.read()
                at = content.find(MARK)
                while at >= 0 and at + FLIP_AT < len(content):
                    file.seek(at + FLIP_AT)
                    file.write(bytes([content[at + FLIP_AT] ^ 0x10]))
                    flips += 1
                    at = content.find(MARK, at + 1)
    return flips


def cut_files(directory):
    """All of them, as some of the values may be in memory as well."""
    for folder, _, names in os.walk(directory):
        for name in names:
            path = os.path.join(folder, name)
            os.truncate(path, os.path.getsize(path) // 2)


# ---- Redis, as an engine would use it: memory only, over a unix socket


class Redis:
    def __init__(self, *options):
        self.directory = tempfile.mkdtemp(prefix="tc-fault-redis-")
        self.options = options
        self.start()

    def start(self):
        self.process = subprocess.Popen(
            ["redis-server", "--port", "0", "--unixsocket", "r.sock", "--save", "", "--appendonly", "no", *self.options],
            cwd=self.directory, stdout=subprocess.DEVNULL)
        for _ in range(200):
            try:
                self.connect()
                return
            except OSError:
                time.sleep(0.05)
        raise RuntimeError("redis-server does not start")

    def connect(self):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.connect(os.path.join(self.directory, "r.sock"))
        self.stream = self.socket.makefile("rb")

    def call(self, *words):
        message = b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in words)
        self.socket.sendall(message)
        line = self.stream.readline()
        if line[:1] == b"$":
            length = int(line[1:])
            return None if length < 0 else self.stream.read(length + 2)[:-2]
        if line[:1] == b"-":
            raise RuntimeError(line[1:].decode().strip())
        return line

    def put(self, key, data):
        return self.call(b"SET", b"%d" % key, data)

    def get(self, key):
        return self.call(b"GET", b"%d" % key)

    def stop(self):
        self.process.send_signal(signal.SIGCONT)
        self.process.kill()
        self.process.wait()
        subprocess.run(["rm", "-rf", self.directory], check=True)


def failed_puts(store, count):
    failed, why = 0, ""
    for key in range(count):
        try:
            store.put(key, value(key))
        except RuntimeError as error:
            failed, why = failed + 1, str(error)
    return failed, why


def try_redis():
    store = Redis()
    failed_puts(store, FEW)
    flips = flip_in_memory(store.process.pid)
    counts = count_gets(store, FEW)
    row("redis", "a byte flipped in memory", "wrong" if counts["wrong"] else "right", f"of {flips} copies {tally(counts)}")
    store.put(0, value(0, 1))
    row("redis", "another value put under a key", "right" if store.get(0) == value(0, 1) else "wrong",
        "acknowledged, and a get gives the new one")
    got, seconds, _ = timed(lambda: store.get(10**6))
    row("redis", "a key that was never put", "right" if got is None else "wrong", f"a miss, after {seconds * 1e3:.2f} ms")
    store.process.send_signal(signal.SIGSTOP)
    _, seconds, returned = timed(lambda: store.get(1))
    row("redis", "SIGSTOP of who holds the values", "right" if returned and seconds < SOON_S else "hung",
        f"a get {'took' if returned else 'had not returned after'} {seconds:.1f} s")
    store.process.send_signal(signal.SIGCONT)
    store.process.kill()
    store.process.wait()
    store.start()
    counts = count_gets(store, FEW)
    row("redis", "kill -9 of the server, and start", "right" if counts["right"] == FEW else "wrong",
        f"without persistence: {tally(counts)}")
    store.stop()
    for policy, options in (("by default", ()), ("allkeys-lru", ("--maxmemory-policy", "allkeys-lru"))):
        store = Redis("--maxmemory", "256mb", *options)
        failed, why = failed_puts(store, 600)
        counts = count_gets(store, 600)
        row("redis", "600 MiB put into 256 MiB", "wrong" if failed else "right",
            f"{policy}: {failed} of 600 puts failed{' (' + why.split('.')[0] + ')' if why else ''}; then {tally(counts)}")
        store.stop()


# ---- Mooncake


class Mooncake:
    """Two processes besides the master: one that holds the values, and this one."""

    def __init__(self):
        self.servers = mooncake_peer.Servers("tcp")
        self.client = mooncake_peer.Store("tcp", MIB)

    @property
    def owner(self):
        return self.servers.started[1]

    def put(self, key, data):
        mooncake_peer.ctypes.memmove(self.client.source, data, MIB)
        code = self.client.store.put_from(str(key), self.client.source, MIB)
        if code != 0:
            raise RuntimeError(f"error {code}")

    def get(self, key):
        read = self.client.store.get_into(str(key), self.client.target, MIB)
        return mooncake_peer.ctypes.string_at(self.client.target, MIB) if read == MIB else None

    def exists(self, key):
        return self.client.store.is_exist(str(key)) == 1

    def stop(self):
        for process in self.servers.started:
            if process.poll() is None:
                process.send_signal(signal.SIGCONT)
        self.client.store.close()
        self.servers.stop()


def isolated(trial):
    """A trial in a process of its own, because what a peer's library does after it is anybody's guess."""
    sys.stdout.flush()
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        trial()
        with os.fdopen(writer, "w") as pipe:
            json.dump(ROWS, pipe)
        os._exit(0)
    os.close(writer)
    before = len(ROWS)
    with os.fdopen(reader) as pipe:
        text = pipe.read()
    os.waitpid(child, 0)
    ROWS.extend(json.loads(text)[before:] if text else [])
    if not text:
        row("mooncake", trial.__name__, "wrong", "the trial's process died")


def mooncake_bytes():
    store = Mooncake()
    failed_puts(store, FEW)
    flips = flip_in_memory(store.owner.pid)
    counts = count_gets(store, FEW)
    row("mooncake", "a byte flipped in memory", "wrong" if counts["wrong"] else "right", f"of {flips} copies {tally(counts)}")
    store.put(100, value(100))
    store.put(100, value(100, 1))
    got = store.get(100)
    row("mooncake", "another value put under a key", "right" if got == value(100, 1) else "wrong",
        f"acknowledged, and a get gives the {'new' if got == value(100, 1) else 'old'} one")
    got, seconds, _ = timed(lambda: store.get(10**6))
    row("mooncake", "a key that was never put", "right" if got is None and seconds < SOON_S else "wrong",
        f"a miss, after {seconds * 1e3:.2f} ms")
    store.stop()


def mooncake_burst():
    servers = mooncake_peer.Servers("own")
    client = mooncake_peer.Store("own", 600 * MIB, segment=256 * MIB)
    for key in range(600):
        mooncake_peer.ctypes.memmove(client.source + key * MIB, value(key), MIB)
    codes = []
    for first in range(0, 600, 8):
        keys = range(first, first + 8)
        codes += client.store.batch_put_from([str(key) for key in keys], [client.source + key * MIB for key in keys], [MIB] * 8)
    failed = sum(code != 0 for code in codes)
    row("mooncake", "600 MiB put into 256 MiB", "wrong" if failed else "right",
        f"{failed} of 600 puts failed{f' (error {min(codes)})' if failed else ''}")
    client.store.close()
    servers.stop()


def mooncake_disk():
    """With its offload to disk, in front of which is less memory than there are values."""
    directory = tempfile.mkdtemp(prefix="tc-fault-mooncake-")
    master = mooncake_peer.start_master("--enable_offload=true")
    store = mooncake_peer.Store("own", MIB, segment=256 * MIB, offload=directory)
    acknowledged = []
    limit = time.monotonic() + 90
    for key in range(762):
        mooncake_peer.ctypes.memmove(store.source, value(key), MIB)
        code = store.store.put_from(str(key), store.source, MIB)
        while code != 0 and time.monotonic() < limit:  # full: what was offloaded is evicted in a while
            time.sleep(0.1)
            code = store.store.put_from(str(key), store.source, MIB)
        if code == 0:
            acknowledged.append(key)
    time.sleep(12)

    def gets():
        counts = {"right": 0, "wrong": 0, "missing": 0}
        for key in acknowledged:
            read = store.store.get_into(str(key), store.target, MIB)
            right = read == MIB and mooncake_peer.ctypes.string_at(store.target, MIB) == value(key)
            counts["right" if right else "wrong" if read == MIB else "missing"] += 1
        return counts

    counts = gets()
    row("mooncake", "762 MiB into memory and disk, read 12 s later", "right" if counts["right"] == len(acknowledged) else "wrong",
        f"of {len(acknowledged)} acknowledged puts {tally(counts)}")
    flips = flip_in_files(directory)
    counts = gets()
    row("mooncake", "a byte flipped on disk", "wrong" if counts["wrong"] else "right",
        f"{flips} values flipped there; of the acknowledged ones {tally(counts)}")
    flip_in_files(directory)  # back
    before = gets()
    cut_files(directory)
    counts = gets()
    row("mooncake", "a file on disk cut in half", "wrong" if counts["wrong"] else "right",
        f"all of its files: of {before['right']} that were right before {tally(counts)}")
    store.store.close()
    master.terminate()
    master.wait()
    subprocess.run(["rm", "-rf", directory], check=True)


def mooncake_owner_killed():
    store = Mooncake()
    failed_puts(store, FEW)
    store.owner.kill()
    store.owner.wait()
    start = time.monotonic()
    while store.exists(0) and time.monotonic() - start < HUNG_AFTER_S:
        time.sleep(0.05)
    claimed = time.monotonic() - start
    got, seconds, returned = timed(lambda: store.get(1))
    row("mooncake", "kill -9 of who holds the values", "wrong" if claimed > SOON_S else "right",
        f"is_exist said 1 for {claimed:.1f} s; then a get took {seconds:.1f} s: {'a miss' if got is None else 'a value'}")
    store.stop()


def mooncake_owner_stopped():
    store = Mooncake()
    failed_puts(store, FEW)
    store.owner.send_signal(signal.SIGSTOP)
    got, seconds, returned = timed(lambda: store.get(1))
    row("mooncake", "SIGSTOP of who holds the values", "right" if returned and seconds < SOON_S else "hung",
        f"a get {'took' if returned else 'had not returned after'} {seconds:.1f} s")
    store.stop()


def mooncake_restart():
    store = Mooncake()
    failed_puts(store, FEW)
    store.servers.started[0].kill()
    store.servers.started[0].wait()
    store.servers.started[0] = mooncake_peer.start_master()
    time.sleep(15)
    counts = count_gets(store, FEW)
    row("mooncake", "kill -9 of the server, and start", "right" if counts["right"] == FEW else "wrong",
        f"of the master; 15 s later {tally(counts)}")
    store.stop()


def try_mooncake():
    mooncake_peer.lift_loopback()
    for trial in (mooncake_bytes, mooncake_disk, mooncake_burst, mooncake_owner_killed, mooncake_owner_stopped, mooncake_restart):
        isolated(trial)


# ---- LMCache, whose back end keeps a file a value, and has no server


class Lmcache:
    def __init__(self):
        self.directory = tempfile.mkdtemp(prefix="tc-fault-lmcache-")
        self.files = os.path.join(self.directory, "files")
        self.client = lmcache_peer.load_extension(self.directory).LMCacheFSClient(self.files, 1)
        self.room = memoryview(mmap.mmap(-1, MIB))

    def finish(self):
        """Of the one value that a batch was of: whether it was there."""
        select.select([self.client.event_fd()], [], [])
        _, done, error, found = self.client.drain_completions()[0]
        if not done:
            raise RuntimeError(error)
        return found and found[0]

    def put(self, key, data):
        self.room[:] = data
        self.client.submit_batch_set([lmcache_peer.Peer.key(key)], [self.room])
        self.finish()

    def get(self, key):
        self.client.submit_batch_get([lmcache_peer.Peer.key(key)], [self.room])
        return bytes(self.room) if self.finish() else None

    def stop(self):
        self.client.close()
        subprocess.run(["rm", "-rf", self.directory], check=True)


def try_lmcache():
    store = Lmcache()
    failed_puts(store, FEW)
    flips = flip_in_files(store.files)
    counts = count_gets(store, FEW)
    row("lmcache", "a byte flipped on disk", "wrong" if counts["wrong"] else "right", f"of {flips} values {tally(counts)}")
    flip_in_files(store.files)  # back
    cut_files(store.files)
    counts = count_gets(store, FEW)
    failed_puts(store, FEW)
    row("lmcache", "a file on disk cut in half", "wrong" if counts["wrong"] else "right",
        f"each: {tally(counts)}; put again, {tally(count_gets(store, FEW))}")
    store.put(100, value(100))
    store.put(100, value(100, 1))
    got = store.get(100)
    row("lmcache", "another value put under a key", "right" if got == value(100, 1) else "wrong",
        f"acknowledged, and a get gives the {'new' if got == value(100, 1) else 'old'} one")
    got, seconds, _ = timed(lambda: store.get(10**6))
    row("lmcache", "a key that was never put", "right" if got is None else "wrong", f"a miss, after {seconds * 1e3:.2f} ms")
    store.stop()


def main():
    {"redis": try_redis, "mooncake": try_mooncake, "lmcache": try_lmcache}[sys.argv[1]]()
    if len(sys.argv) > 3:
        with open(sys.argv[3], "w", encoding="utf-8") as file:
            json.dump(ROWS, file)


if __name__ == "__main__":
    main()
