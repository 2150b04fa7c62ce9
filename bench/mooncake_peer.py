"""Mooncake Store as a peer of a benchmark: starts it on the loopback, and does what standard input says.

    unshare -n PYTHON mooncake_peer.py own|shared|tcp          PYTHON: of an environment with the Mooncake wheel

own: this process holds the memory itself; shared: a mooncake_client process holds it and shares it with this one; tcp: a
mooncake_client process holds it, and the bytes come over TCP. A line in, a JSON line out, {"error"} when something failed:

    load BYTES                        sizes the buffers for values of up to so many bytes in all
    put BYTES BLOCKS BATCH            {"ms", "client_cpu_s", "server_cpu_s"}
    get BYTES BLOCKS BATCH            the same
    check BYTES BLOCKS BATCH          {"right"}: values that a client process of its own finds with the right content
    clear                             {}
    exist KEYS ASKED ROUNDS CALLS     {"us"}: of each round the mean of one batch_is_exist of ASKED keys among KEYS

It runs in a network namespace of its own, because a client of Mooncake listens on every address whatever it is told.
"""

import ctypes
import fcntl
import json
import mmap
import os
import random
import socket
import struct
import subprocess
import sys
import time

BIN = os.path.dirname(sys.executable)
MASTER = "127.0.0.1:50051"
OWNER = "127.0.0.1:50052"
MIB = 1 << 20
SEGMENT = 1 << 30
START_LIMIT_S = 20


def lift_loopback():
    with socket.socket() as any_socket:
        fcntl.ioctl(any_socket, 0x8914, struct.pack("16sh", b"lo", 0x1 | 0x40))  # SIOCSIFFLAGS: IFF_UP | IFF_RUNNING


def spawn(*words):
    environment = dict(os.environ, GLOG_minloglevel="2", GLOG_logtostderr="1")
    return subprocess.Popen([os.path.join(BIN, words[0]), *words[1:]], env=environment, stdin=subprocess.DEVNULL,
                            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def await_port(address, process):
    host, port = address.split(":")
    limit = time.monotonic() + START_LIMIT_S
    while time.monotonic() < limit:
        with socket.socket() as probe:
            if probe.connect_ex((host, int(port))) == 0:
                return
        if process.poll() is not None:
            break
        time.sleep(0.05)
    raise RuntimeError(f"{process.args[0]} does not listen at {address}")


def retry(call):
    """Sets something up that may need its servers to have met each other first."""
    limit = time.monotonic() + START_LIMIT_S
    while (code := call()) != 0:
        if time.monotonic() > limit:
            raise RuntimeError(f"setup failed: {code}")
        time.sleep(0.2)


def cpu_seconds(process):
    total = 0
    for task in os.listdir(f"/proc/{process.pid}/task"):
        with open(f"/proc/{process.pid}/task/{task}/schedstat", encoding="ascii") as file:
            total += int(file.read().split()[0])
    return total / 1e9


def content(bytes_):
    """The same in every process: the values are stretches of it."""
    return random.Random(7).randbytes(min(bytes_, 64 * MIB)) * -(-bytes_ // (64 * MIB))


def start_master(*options):
    master = spawn("mooncake_master", "--rpc_address=127.0.0.1", "--rpc_port=50051", "--metrics_host=127.0.0.1", *options)
    await_port(MASTER, master)
    return master


class Servers:
    def __init__(self, mode):
        self.started = [start_master()]
        if mode != "own":
            owner = spawn("mooncake_client", "--host=127.0.0.1", "--port=50052", f"--master_server_address={MASTER}",
                          "--metadata_server=P2PHANDSHAKE", f"--global_segment_size={SEGMENT // MIB} MB",
                          "--local_buffer_size=64 MB", "--protocol=tcp")
            self.started.append(owner)
            await_port(OWNER, owner)

    def cpu_seconds(self):
        return sum(cpu_seconds(process) for process in self.started)

    def stop(self):
        for process in reversed(self.started):
            process.terminate()
        for process in self.started:
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


class Store:
    """A client with two buffers of `capacity` bytes that it can put from and get into; `offload`: a directory on disk."""

    def __init__(self, mode, capacity, segment=SEGMENT, offload=None):
        from mooncake.store import MooncakeDistributedStore
        self.store = MooncakeDistributedStore()
        self.mode = mode
        if mode == "shared":
            retry(lambda: self.store.setup_dummy(2 * capacity, 64 * MIB, OWNER))
            self.source = self.store.alloc_from_mem_pool(2 * capacity)
        else:
            own = segment if mode == "own" else 0
            disk = (None, True, offload) if offload else ()
            retry(lambda: self.store.setup("127.0.0.1", "P2PHANDSHAKE", own, 64 * MIB, "tcp", "", MASTER, *disk))
            self.memory = mmap.mmap(-1, 2 * capacity)
            self.source = ctypes.addressof(ctypes.c_char.from_buffer(self.memory))
        self.target = self.source + capacity
        ctypes.memset(self.source, 1, 2 * capacity)
        if self.store.register_buffer(self.source, 2 * capacity) != 0:
            raise RuntimeError("register_buffer failed")

    def work(self, call, base, bytes_, blocks, batch):
        """Milliseconds of all blocks, `batch` a call."""
        keys = [f"{bytes_}.{batch}.{i}" for i in range(blocks)]
        places = [base + i * bytes_ for i in range(blocks)]
        if batch == 1:
            one = self.store.put_from if call == "put" else self.store.get_into
            start = time.perf_counter()
            results = [one(key, place, bytes_) for key, place in zip(keys, places)]
        else:
            many = self.store.batch_put_from if call == "put" else self.store.batch_get_into
            sizes = [bytes_] * batch
            start = time.perf_counter()
            results = []
            for i in range(0, blocks, batch):
                results += many(keys[i:i + batch], places[i:i + batch], sizes)
        ms = (time.perf_counter() - start) * 1e3
        right = 0 if call == "put" else bytes_
        wrong = [result for result in results if result != right]
        if wrong:
            raise RuntimeError(f"{call} of {bytes_} bytes: {len(wrong)} of {blocks} failed, the first with {wrong[0]}")
        return ms

    def clear(self):
        if self.store.remove_all(True) < 0:  # leased or not
            raise RuntimeError("remove_all failed")


class Peer:
    def __init__(self, mode):
        self.mode = mode
        self.servers = Servers(mode)
        self.store = None
        self.checker = None

    def load(self, capacity):
        self.store = Store(self.mode, capacity)
        ctypes.memmove(self.store.source, content(capacity), capacity)
        self.checker = subprocess.Popen([sys.executable, __file__, "--check", self.mode, str(capacity)],
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        return {}

    def transfer(self, call, bytes_, blocks, batch):
        base = self.store.source if call == "put" else self.store.target
        client, server = time.process_time(), self.servers.cpu_seconds()
        ms = self.store.work(call, base, bytes_, blocks, batch)
        return {"ms": ms, "client_cpu_s": time.process_time() - client, "server_cpu_s": self.servers.cpu_seconds() - server}

    def check(self, *words):
        self.checker.stdin.write(" ".join(map(str, words)) + "\n")
        self.checker.stdin.flush()
        return json.loads(self.checker.stdout.readline() or '{"error": "the client that checks has ended"}')

    def clear(self):
        self.store.clear()
        return {}

    def exist(self, keys, asked, rounds, calls):
        store = self.store
        names = [f"{i:032d}" for i in range(keys)]
        for i in range(0, keys, 4096):
            part = names[i:i + 4096]
            if any(store.store.batch_put_from(part, [store.source] * len(part), [64] * len(part))):
                raise RuntimeError("a small value could not be put")
        these = names[::keys // asked][:asked]
        times = []
        for _ in range(rounds):
            start = time.perf_counter()
            for _ in range(calls):
                found = sum(store.store.batch_is_exist(these))
            times.append((time.perf_counter() - start) / calls * 1e6)
            if found != asked:
                raise RuntimeError(f"{found} of {asked} keys exist")
        return {"us": times}

    def stop(self):
        if self.checker is not None:
            self.checker.stdin.close()
            self.checker.wait()
        if self.store is not None:
            self.store.store.close()
        self.servers.stop()


def check(mode, capacity):
    """The other client: gets what was put, and compares it. It lays no memory of its own under the store."""
    store = Store("tcp" if mode == "own" else mode, capacity)
    legal = content(capacity)
    for line in sys.stdin:
        bytes_, blocks, batch = map(int, line.split())
        store.work("get", store.target, bytes_, blocks, batch)
        got = ctypes.string_at(store.target, bytes_ * blocks)
        right = sum(got[i:i + bytes_] == legal[i:i + bytes_] for i in range(0, bytes_ * blocks, bytes_))
        answer({"right": right})


def answer(result):
    os.write(ANSWERS, (json.dumps(result) + "\n").encode())


def serve(mode):
    lift_loopback()
    peer = Peer(mode)
    verbs = {"load": peer.load, "check": peer.check, "clear": peer.clear, "exist": peer.exist,
             "put": lambda *words: peer.transfer("put", *words), "get": lambda *words: peer.transfer("get", *words)}
    try:
        for line in sys.stdin:
            verb, *numbers = line.split()
            try:
                answer(verbs[verb](*map(int, numbers)))
            except RuntimeError as error:
                answer({"error": str(error)})
    finally:
        peer.stop()


if __name__ == "__main__":
    ANSWERS = os.dup(1)  # the library's logs go to standard error, its own prints too
    os.dup2(2, 1)
    if sys.argv[1] == "--check":
        check(sys.argv[2], int(sys.argv[3]))
    else:
        serve(sys.argv[1])
