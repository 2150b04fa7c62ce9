"""LMCache's native file back end (LMCacheFSClient, a file a chunk, O_DIRECT) as a peer of bench/cold.

    PYTHON lmcache_peer.py DIRECTORY CONTENT BYTES        PYTHON: of an environment with the LMCache wheel

Block i holds the i-th stretch of BYTES bytes of the file CONTENT, which is taken to repeat. A line in, a JSON line out:

    write WORKERS BATCH FIRST COUNT        {"seconds", "cpu_s", "device_bytes"}
    read WORKERS BATCH BLOCK...            the same, and "get_ms", of each call
    check BLOCK                            {"right"}
    drop FIRST COUNT                       {}

The wheel's extension names the libraries of torch, two gigabytes, and uses no symbol of theirs: empty ones stand in.
"""

import ctypes
import glob
import importlib.util
import json
import mmap
import os
import select
import subprocess
import sys
import sysconfig
import time

NAMED_ONLY = ("libc10", "libtorch", "libtorch_cpu", "libtorch_python")
ROOM_BYTES = 32 << 20


def load_extension(scratch):
    for name in NAMED_ONLY:
        path = os.path.join(scratch, name + ".so")
        subprocess.run(["cc", "-shared", f"-Wl,-soname,{name}.so", "-o", path, "-x", "c", os.devnull], check=True)
        ctypes.CDLL(path, ctypes.RTLD_GLOBAL)
    found = glob.glob(os.path.join(sysconfig.get_paths()["platlib"], "lmcache", "lmcache_fs*.so"))
    spec = importlib.util.spec_from_file_location("lmcache_fs", found[0])
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def device_bytes():
    with open("/proc/self/io", encoding="ascii") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("write_bytes"))


class Peer:
    def __init__(self, directory, content, bytes_):
        os.makedirs(directory)
        self.module = load_extension(directory)
        self.files = os.path.join(directory, "files")
        self.bytes = bytes_
        with open(content, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            self.content = memoryview(mmap.mmap(-1, size))
            file.readinto(self.content)
        self.room = memoryview(mmap.mmap(-1, ROOM_BYTES))
        self.room[:] = bytes(ROOM_BYTES)
        self.clients = {}

    def client(self, workers):
        if workers not in self.clients:
            self.clients[workers] = self.module.LMCacheFSClient(self.files, workers, "", True)
        return self.clients[workers]

    def payload(self, block):
        start = block % (len(self.content) // self.bytes) * self.bytes
        return self.content[start:start + self.bytes]

    def place(self, nth):
        start = nth % (ROOM_BYTES // self.bytes) * self.bytes
        return self.room[start:start + self.bytes]

    @staticmethod
    def key(block):
        return f"bench@0@{block:032x}"

    @staticmethod
    def finish(client):
        select.select([client.event_fd()], [], [])
        for _, right, error, _ in client.drain_completions():
            if not right:
                raise RuntimeError(error)

    def measure(self, work):
        start, cpu, device = time.perf_counter(), time.process_time(), device_bytes()
        work()
        return {"seconds": time.perf_counter() - start, "cpu_s": time.process_time() - cpu,
                "device_bytes": device_bytes() - device}

    def write(self, workers, batch, first, count):
        client = self.client(workers)

        def work():
            for at in range(first, first + count, batch):
                blocks = range(at, min(at + batch, first + count))
                client.submit_batch_set([self.key(i) for i in blocks], [self.payload(i) for i in blocks])
                self.finish(client)
        return self.measure(work)

    def read(self, workers, batch, *blocks):
        client = self.client(workers)
        get_ms = []

        def work():
            for at in range(0, len(blocks), batch):
                some = blocks[at:at + batch]
                start = time.perf_counter()
                client.submit_batch_get([self.key(i) for i in some],
                                        [self.place(at + i) for i in range(len(some))])
                self.finish(client)
                get_ms.append((time.perf_counter() - start) * 1e3)
        return dict(self.measure(work), get_ms=get_ms)

    def check(self, block):
        self.room[:self.bytes] = bytes(self.bytes)
        self.read(1, 1, block)
        return {"right": self.place(0) == self.payload(block)}

    def drop(self, first, count):
        client = self.client(1)
        client.submit_batch_delete([self.key(i) for i in range(first, first + count)])
        self.finish(client)
        return {}


def main():
    answers = os.dup(1)
    os.dup2(2, 1)
    peer = Peer(sys.argv[1], sys.argv[2], int(sys.argv[3]))
    verbs = {"write": peer.write, "read": peer.read, "check": peer.check, "drop": peer.drop}
    for line in sys.stdin:
        verb, *numbers = line.split()
        try:
            answer = verbs[verb](*map(int, numbers))
        except (RuntimeError, OSError) as error:
            answer = {"error": str(error)}
        os.write(answers, (json.dumps(answer) + "\n").encode())


if __name__ == "__main__":
    main()
