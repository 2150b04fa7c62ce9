"""What the process-level tests share: the programs of the build under test, a daemon on directories of its own, and a
small model made on the spot, so that most tests need no downloaded weights."""

import array
import json
import os
import random
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time

BUILD = os.path.abspath(sys.argv.pop(1)) if len(sys.argv) > 1 and os.path.isdir(sys.argv[1]) else "build/release"
SOURCE = os.path.abspath(os.path.join(os.path.dirname(__file__), "../.."))
MODELS = os.path.join(SOURCE, "../shared/data/models")
STORIES = os.path.join(MODELS, "stories260K.gguf")
SMOLLM2 = os.path.join(SOURCE, "build/models/SmolLM2-135M-Instruct.Q4_1.gguf")
PATIENCE_SECONDS = 60
# What is started here does not depend on how the machine's own daemon is set up.
for variable in [name for name in os.environ if name.startswith("THERMOCLINE_")]:
    del os.environ[variable]
os.environ["THERMOCLINE_CONFIG"] = os.devnull


def program(name):
    return os.path.join(BUILD, "bin", name)


def run(name, *words, stdin="", env=None, memory_bytes=None):
    """Runs a program of the build to its end; text in, text out, its line ends untouched. `memory_bytes`: of address
    space at most."""
    limit = ["prlimit", f"--as={memory_bytes}"] if memory_bytes else []
    done = subprocess.run([*limit, program(name), *map(str, words)], input=stdin.encode(), capture_output=True,
                          timeout=PATIENCE_SECONDS, env=None if env is None else {**os.environ, **env})
    done.stdout, done.stderr = (text.decode(errors="replace") for text in (done.stdout, done.stderr))
    return done


def engine(*words, **options):
    return run("thermocline-engine", *words, **options)


def generate(*words, **options):
    """The JSON that `generate` prints."""
    done = engine("generate", "--json", *words, **options)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


class Place:
    """Directories of one daemon, removed at the end; the arena's lies on a tmpfs."""

    def __init__(self):
        self.root = tempfile.mkdtemp(prefix="tc-e2e.")
        self.arena_dir = tempfile.mkdtemp(prefix="tc-e2e.", dir="/dev/shm")
        self.socket = os.path.join(self.root, "t.sock")
        self.data_dir = os.path.join(self.root, "data")

    def path(self, name):
        return os.path.join(self.root, name)

    def write(self, name, content):
        with open(self.path(name), "wb" if isinstance(content, bytes) else "w") as file:
            file.write(content)
        return self.path(name)

    def remove(self):
        shutil.rmtree(self.root, ignore_errors=True)
        shutil.rmtree(self.arena_dir, ignore_errors=True)

    def words(self, **options):
        """The daemon's command line."""
        given = {"socket": self.socket, "data-dir": self.data_dir, "arena-dir": self.arena_dir, "http": "off",
                 "warm-capacity": "64MiB", "cold-capacity": "128MiB"}
        given.update({key.replace("_", "-"): value for key, value in options.items()})
        return [f"--{key}={value}" for key, value in given.items()]


class Daemon:
    """A running thermoclined. With `with`: stopped at the end."""

    def __init__(self, place, **options):
        self.place = place
        self.log_path = place.path("log")
        with open(self.log_path, "ab") as log:
            self.process = subprocess.Popen([program("thermoclined"), *place.words(**options)], stdin=subprocess.DEVNULL,
                                            stdout=log, stderr=log)
        end = time.monotonic() + PATIENCE_SECONDS
        while run("thermoctl", "status", "--socket", place.socket).returncode != 0:
            assert self.process.poll() is None and time.monotonic() < end, self.log()
            time.sleep(0.02)

    def log(self):
        with open(self.log_path, encoding="utf-8", errors="replace") as file:
            return file.read()

    def stop(self, how=signal.SIGTERM):
        if self.process.poll() is None:
            self.process.send_signal(how)
        return self.process.wait(PATIENCE_SECONDS)

    def control(self, *words):
        done = run("thermoctl", *words, "--json", "--socket", self.place.socket)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop(signal.SIGKILL)


def refused(place, **options):
    """A daemon that must not come up: its exit code and what it says."""
    done = subprocess.run([program("thermoclined"), *place.words(**options)], capture_output=True, text=True,
                          timeout=PATIENCE_SECONDS)
    return done.returncode, done.stdout + done.stderr


def make_model(directory, *, layers=2, width=16, heads=4, kv_heads=2, head_dim=8, vocabulary=64, context=256, seed=1, end=2,
               name="model.safetensors"):
    """A llama model of seeded random weights, in safetensors: what it says is noise, how it says it is exact."""
    os.makedirs(directory, exist_ok=True)
    config = {"model_type": "llama", "hidden_size": width, "intermediate_size": 24, "num_hidden_layers": layers,
              "num_attention_heads": heads, "num_key_value_heads": kv_heads, "head_dim": head_dim,
              "vocab_size": vocabulary, "max_position_embeddings": context, "rms_norm_eps": 1e-5,
              "rope_theta": 10000.0, "tie_word_embeddings": True, "bos_token_id": 1, "eos_token_id": end}
    with open(os.path.join(directory, "config.json"), "w", encoding="utf-8") as file:
        json.dump(config, file)
    shapes = {"model.embed_tokens.weight": [vocabulary, width], "model.norm.weight": [width]}
    for layer in range(layers):
        block = f"model.layers.{layer}."
        shapes.update({
            block + "input_layernorm.weight": [width], block + "post_attention_layernorm.weight": [width],
            block + "self_attn.q_proj.weight": [heads * head_dim, width],
            block + "self_attn.k_proj.weight": [kv_heads * head_dim, width],
            block + "self_attn.v_proj.weight": [kv_heads * head_dim, width],
            block + "self_attn.o_proj.weight": [width, heads * head_dim],
            block + "mlp.gate_proj.weight": [24, width], block + "mlp.up_proj.weight": [24, width],
            block + "mlp.down_proj.weight": [width, 24]})
    draw = random.Random(seed)
    header, data = {}, bytearray()
    for tensor, shape in shapes.items():
        count = shape[0] * (shape[1] if len(shape) > 1 else 1)
        values = array.array("f", (draw.uniform(-1, 1) for _ in range(count)))
        header[tensor] = {"dtype": "F32", "shape": shape, "data_offsets": [len(data), len(data) + 4 * count]}
        data += values.tobytes()
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path = os.path.join(directory, name)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text + data)
    return directory


def ids(tokens):
    return ",".join(map(str, tokens))
