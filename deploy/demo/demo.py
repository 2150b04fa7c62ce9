"""The demo behind ./demo.sh: one document, five questions, five states of the cache.

Every question is asked twice: through the daemon as it is in that step, and without any cache. The answers' token ids must
be the same. Exit status 0 only if every step held: the expected tier served the document and the ids agree.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time

MAX_TOKENS = 48
START_SECONDS = 20
# The demo's programs do not depend on how the machine's own daemon is set up; where cuBLASLt lies is the machine's.
for variable in [name for name in os.environ if name.startswith("THERMOCLINE_") and name != "THERMOCLINE_CUBLASLT"]:
    del os.environ[variable]
os.environ["THERMOCLINE_CONFIG"] = os.devnull


class Demo:
    def __init__(self, programs, model, device, scratch):
        self.bin = programs
        self.model = model
        self.device = device
        here = os.path.dirname(os.path.abspath(__file__))
        with open(os.path.join(here, "document.txt"), encoding="utf-8") as file:
            self.document = file.read().strip()
        with open(os.path.join(here, "questions.txt"), encoding="utf-8") as file:
            self.questions = file.read().splitlines()
        self.scratch = scratch  # on disk: what survives a reboot
        self.arena = tempfile.mkdtemp(prefix="thermocline-demo.", dir="/dev/shm")
        self.socket = os.path.join(scratch, "thermocline.sock")
        self.daemon = None
        self.fell_back = None  # what the engine said when it found no GPU

    def start_daemon(self):
        """Starts thermoclined and waits until it serves. Returns the milliseconds that took."""
        begin = time.monotonic()
        log = open(os.path.join(self.scratch, "daemon.log"), "ab")
        self.daemon = subprocess.Popen(
            [os.path.join(self.bin, "thermoclined"), "--socket", self.socket,
             "--data-dir", os.path.join(self.scratch, "data"), "--arena-dir", self.arena, "--http", "off",
             "--warm-capacity", "128MiB", "--cold-capacity", "2GiB"],
            stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        while time.monotonic() - begin < START_SECONDS:
            if self.daemon.poll() is not None:
                break
            if self.control("status", check=False).returncode == 0:
                return (time.monotonic() - begin) * 1e3
            time.sleep(0.02)
        log.close()
        with open(log.name, encoding="utf-8", errors="replace") as file:
            sys.exit("demo: thermoclined did not start:\n" + file.read())

    def stop_daemon(self, how):
        if self.daemon is None:
            return
        self.daemon.send_signal(how)
        self.daemon.wait()
        self.daemon = None

    def control(self, *words, check=True):
        return subprocess.run([os.path.join(self.bin, "thermoctl"), "--socket", self.socket, *words, "--json"],
                              check=check, capture_output=True, text=True)

    def ask(self, question, cache):
        prompt = f"{self.document}\n\nAnswer the question using the handbook above. {question}"
        where = ["--socket", self.socket] if cache else ["--no-cache"]
        run = subprocess.run(
            [os.path.join(self.bin, "thermocline-engine"), "generate", "--model", self.model, "--chat", prompt,
             "--device", self.device, "--max-tokens", str(MAX_TOKENS), "--json", *where], capture_output=True, text=True)
        if run.returncode != 0:
            sys.exit("demo: the engine failed:\n" + run.stderr)
        self.fell_back = next((line for line in run.stderr.splitlines() if "on the CPU" in line), None)
        return json.loads(run.stdout)


def main():
    parser = argparse.ArgumentParser(prog="demo.sh", description=__doc__.splitlines()[0])
    parser.add_argument("--bin", metavar="DIR", required=True, help="where the programs were built")
    parser.add_argument("--model", metavar="FILE", required=True, help="a model in GGUF that can chat")
    parser.add_argument("--device", choices=("auto", "cuda", "cpu"), default="auto", help="what the engine computes on; auto: a GPU "
                        "if it can")
    parser.add_argument("--json", metavar="FILE", help="also write the table as JSON")
    arguments = parser.parse_args()

    scratch = tempfile.mkdtemp(prefix="thermocline-demo.")
    demo = Demo(arguments.bin, arguments.model, arguments.device, scratch)
    model_name = os.path.basename(arguments.model)
    restart_ms = 0.0

    def restart():
        nonlocal restart_ms
        demo.stop_daemon(signal.SIGKILL)
        restart_ms = demo.start_daemon()

    steps = [  # name, what the reader sees, what happens before, the tier expected
        ("cold", "first question", lambda: None, "none"),
        ("warm", "next question, same document", lambda: None, "warm"),
        ("restart", "after kill -9 and restart of the daemon", restart, "warm"),
        ("cold_tier", "after the warm tier was flushed to disk", lambda: demo.control("flush", "--tier", "warm"), "cold"),
        ("no_daemon", "with the daemon stopped", lambda: demo.stop_daemon(signal.SIGTERM), "none"),
    ]
    rows, answers = [], []
    held = True
    try:
        demo.start_daemon()
        print(f"{model_name} reads a document of {len(demo.document.split())} words, then answers.\n")
        print(f"{'':42}{'prompt':>7} {'cached':>7} {'first token':>12}  {'tier':5} same ids as uncached")
        for (name, title, before, expected), question in zip(steps, demo.questions):
            before()
            got = demo.ask(question, cache=True)
            plain = demo.ask(question, cache=False)
            tier = "+".join(sorted(got["cached_by_tier"])) or "none"
            identical = got["output_ids"] == plain["output_ids"]
            rows.append({"step": name, "prompt_tokens": len(got["prompt_ids"]), "cached_tokens": got["cached_tokens"],
                         "tier": tier, "ttft_ms": got["ttft_ms"], "identical": identical})
            answers.append((question, got["text"].strip()))
            held = held and identical and tier == expected
            print(f"{title:42}{len(got['prompt_ids']):7} {got['cached_tokens']:7} {got['ttft_ms']:9.1f} ms  {tier:5} "
                  f"{'yes' if identical else 'NO'}", flush=True)
    finally:
        demo.stop_daemon(signal.SIGTERM)
        shutil.rmtree(scratch, ignore_errors=True)
        shutil.rmtree(demo.arena, ignore_errors=True)

    if demo.fell_back:
        print(f"\n{demo.fell_back}")
    print(f"\nThe restarted daemon served again after {restart_ms:.0f} ms. What the model answered:")
    for question, answer in answers:
        print(f"  {question}  {answer}")
    if arguments.json:
        with open(arguments.json, "w", encoding="utf-8") as file:
            json.dump({"model": model_name, "rows": rows}, file, indent=1)
            file.write("\n")
    if not held:
        sys.exit("\ndemo: a step did not hold: see the table")


if __name__ == "__main__":
    main()
