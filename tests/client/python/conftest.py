"""A real thermoclined for each test, on directories of its own. TC_BIN names the folder of the programs."""
import hashlib
import os
import pathlib
import shutil
import signal
import subprocess
import tempfile
import time

import pytest

import thermocline

BIN = pathlib.Path(os.environ["TC_BIN"])
BLOCK_BYTES = 64 * 1024
PATIENCE = 60.0  # seconds, of calls on a busy machine


class Daemon:
    def __init__(self, directory=None, *more):
        self.directory = directory or new_directory()
        self.socket = str(self.directory / "t.sock")
        for name in ("arena", "data"):
            (self.directory / name).mkdir(mode=0o700)
        self.more = more
        self.process = None
        self.start()

    def start(self):
        with open(self.directory / "log", "a") as log:
            self.process = subprocess.Popen(
                [BIN / "thermoclined", "--socket", self.socket, "--data-dir", self.directory / "data",
                 "--arena-dir", self.directory / "arena", "--warm-capacity", "128MiB", "--cold-capacity",
                 "256MiB", "--http", "off", *self.more], stdout=log, stderr=log)
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                thermocline.connect(self.socket, timeout=PATIENCE).close()
                return
            except thermocline.UnavailableError:
                if self.process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"the daemon did not start:\n{(self.directory / 'log').read_text()}")
                time.sleep(0.02)

    def stop(self, number=signal.SIGTERM):
        self.process.send_signal(number)
        self.process.wait(PATIENCE)

    def ctl(self, *arguments):
        subprocess.run([BIN / "thermoctl", "--socket", self.socket, *arguments], check=True, timeout=60,
                       stdout=subprocess.DEVNULL)


    def remove(self):
        if self.process.poll() is None:
            self.stop(signal.SIGKILL)
        shutil.rmtree(self.directory)


def new_directory():
    return pathlib.Path(tempfile.mkdtemp(prefix="tc-py-", dir="/dev/shm"))


@pytest.fixture
def daemon():
    running = Daemon()
    yield running
    running.remove()


# Of one authority, for a daemon and a client.
MAKE_CERTIFICATES = """
new='-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes'
openssl req -x509 $new -days 2 -subj /CN=CA -keyout ca.key -out ca.pem
echo 'subjectAltName=IP:127.0.0.1' >ext
for name in server client; do
  openssl req -new $new -subj /CN=$name -keyout $name.key -out $name.csr
  openssl x509 -req -in $name.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile ext -out $name.pem
done
"""


@pytest.fixture
def tls_daemon():
    """A daemon that is reached over TLS, too; `remote` is what lets a client in."""
    if shutil.which("openssl") is None:
        pytest.skip("needs the program openssl")
    directory = new_directory()
    subprocess.run(["sh", "-ec", MAKE_CERTIFICATES], cwd=directory, check=True, capture_output=True, timeout=60)
    token = "0123456789abcdef0123456789abcdef"
    for name, text in (("tokens", f"{hashlib.sha256(token.encode()).hexdigest()} default writer t\n"), ("token", token)):
        (directory / name).touch(mode=0o600)
        (directory / name).write_text(text)
    running = Daemon(directory, "--grpc-listen", "127.0.0.1:0", "--tls-certificate", directory / "server.pem",
                     "--tls-key", directory / "server.key", "--tls-client-ca", directory / "ca.pem", "--token-file",
                     directory / "tokens")
    running.remote = thermocline.RemoteOptions(
        "tls://" + (directory / "t.sock.tcp").read_text().strip(), str(directory / "ca.pem"),
        str(directory / "client.pem"), str(directory / "client.key"), str(directory / "token"))
    yield running
    running.remove()


@pytest.fixture
def client(daemon):
    with thermocline.connect(daemon.socket, "pytest", timeout=PATIENCE) as connected:
        yield connected


def spec(**changes):
    fields = dict(model="test", kv_dtype="f16", layers=2, kv_heads=2, head_dim=8, layout="lkht.v1",
                  parts=[thermocline.Part(BLOCK_BYTES)])
    return thermocline.SpaceSpec(**{**fields, **changes})


@pytest.fixture
def space(client):
    return client.open_space(spec())


def prompt(seed, places):
    return [seed * 100_003 + i for i in range(16 * places)]


def content(seed, place, part=0, nbytes=BLOCK_BYTES):
    """The only legal bytes of a block."""
    return bytes((seed * 31 + place * 7 + part * 3 + i) % 251 for i in range(251)) * (nbytes // 251 + 1)


def contents(seed, places):
    return [content(seed, place)[:BLOCK_BYTES] for place in range(places)]


def eventually(condition, seconds=PATIENCE):
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True
