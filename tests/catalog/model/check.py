#!/usr/bin/env python3
"""Runs the models of the catalog's protocol through Spin, exhaustively, and demands that each one fails once a fence or a
check is taken out of it.

    check.py [--right | --broken] [--only WORD] [--turns N] [--trail]

--right: only the models as they stand; --broken: only what must fail. --only: what has WORD in its name. --turns: how often
the writer acts (3; each more costs about ten times the time). --trail: prints how each failure comes about.
Exit: 0 all as it must be, 1 not, 77 skipped for want of Spin. Wants a C compiler (CC, or cc).
"""
import argparse
import concurrent.futures
import dataclasses
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import time

FOLDER = pathlib.Path(__file__).resolve().parent
MOST_SECONDS = 600  # for each step of one case
PAN_MEGABYTES = 3000


@dataclasses.dataclass
class Case:
    model: str
    memory: str  # "ordered": stores leave in order; "relaxed": releases only; "sequential": at once
    broken: str = ""
    must_fail: bool = False


def cases():
    """Every model as it stands, then every way of breaking it."""
    yield Case("catalog", "ordered")
    yield Case("catalog", "relaxed")
    yield Case("lease", "sequential")
    # Raised on waking, before the time is extended, the generation says enough.
    yield Case("lease", "sequential", "WITHOUT_RAISE_ON_SILENCE")
    for broken in [
            "WITHOUT_READER_FENCE",
            "WITHOUT_ADOPTER_FENCE",
            "WITHOUT_ADOPTER_LOOK",
            "WITHOUT_DROP_FENCE",
            "WITHOUT_MOVE_FENCE",
            "WITHOUT_REVALIDATION",
            "WITHOUT_ANCESTORS",  # only the last node of the path is looked at again
            "WITHOUT_VERSION",  # dropping does not raise it
            "WITHOUT_WORD_ZEROED",  # of a dropped place
            "WITHOUT_CLIMB",  # a pin does not mark what is above it
            "WITH_EARLY_WORDS",  # read before the reader's fence
            "WITH_PINS_DESCENDING",
            "WITH_CLIENT_PINNING_LATE",  # of what was committed, in place of the daemon's compare-and-swap
            "WITH_PIN_STORED",  # a plain store in its place
    ]:
        yield Case("catalog", "ordered", broken, True)
    yield Case("catalog", "relaxed", "WITHOUT_RELEASE_OF_WORD", True)
    for broken in [
            "WITH_CHECK_BEFORE_READ",
            "WITHOUT_GENERATION",
            "WITHOUT_UNTIL",
            "WITH_GENERATION_FIRST",  # loaded before lease_until
            "WITHOUT_RAISE_ON_WAKING",
            "WITHOUT_WAITING_FOR_THE_STRAND",
            "WITHOUT_GRACE",
            "WITH_HELLO_FIRST",  # back at the next daemon before the old leases are called off
    ]:
        yield Case("lease", "sequential", broken, True)


def run(case, options):
    """Returns whether `case` came out as it must, and its line of the table."""
    flags = [f"-DTURNS={options.turns}", "-DATTEMPTS=1"]
    flags += ["-DRELAXED"] if case.memory == "relaxed" else []
    flags += [f"-D{case.broken}"] if case.broken else []
    source = str(FOLDER / f"{case.model}.pml")
    # A process that was killed, or waits for ever for what does not come, is no error of the leases.
    pan_flags = ["-E"] if case.model == "lease" else []
    with tempfile.TemporaryDirectory(prefix="thermocline-model-") as scratch:
        def call(command):
            return subprocess.run(command, cwd=scratch, capture_output=True, text=True, timeout=MOST_SECONDS, check=False)

        compiler = os.environ.get("CC", "cc")
        began = time.monotonic()
        made = call(["spin", *flags, "-a", source])
        if made.returncode == 0:
            # What must fail does so early: it is compiled fast rather than well.
            optimise = "-O0" if case.must_fail else "-O1"
            made = call([compiler, optimise, "-w", "-DSAFETY", f"-DMEMLIM={PAN_MEGABYTES}", "-o", "pan", "pan.c"])
        if made.returncode != 0:
            return False, f"{case.model}: no checker could be made:\n{made.stdout}{made.stderr}"
        output = call(["./pan", *pan_flags, "-m100000", "-w22"]).stdout
        states = re.search(r"([\d.e+]+) states, stored", output)
        errors = re.search(r"errors: (\d+)", output)
        whole = errors is not None and "Search not completed" not in output and "max search depth too small" not in output
        failed = errors is not None and errors.group(1) != "0"
        right = failed if case.must_fail else (whole and not failed)
        what = re.search(r"pan:\d+: (assertion violated|invalid end state).*\(at depth (\d+)\)", output)
        verdict = f"{what.group(1)}, step {what.group(2)}" if what else "holds" if whole else "not searched whole"
        line = (f"{case.model:8} {case.memory:11} {case.broken or 'as it stands':32} "
                f"{states.group(1) if states else '?':>9} states {time.monotonic() - began:6.1f} s  "
                f"{verdict}{'' if right else '   <-- WRONG'}")
        if failed and (options.trail or not right):
            trail = call(["spin", *flags, "-t", "-p", "-k", f"{scratch}/{case.model}.pml.trail", source])
            line += "\n" + trail.stdout
        return right, line


def run_in_time(case, options):
    try:
        return run(case, options)
    except subprocess.TimeoutExpired as error:
        return False, f"{case.model} {case.memory} {case.broken}: {error.cmd[0]} took more than {MOST_SECONDS} s"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--right", action="store_true")
    parser.add_argument("--broken", action="store_true")
    parser.add_argument("--only", default="")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--trail", action="store_true")
    options = parser.parse_args()
    if shutil.which("spin") is None:
        print("skipped: Spin is not installed (deploy/setup.sh installs it)")
        return 77
    chosen = [
        case for case in cases()
        if not (options.right and case.must_fail or options.broken and not case.must_fail)
        and options.only in f"{case.model} {case.memory} {case.broken}"
    ]
    wrong = 0
    with concurrent.futures.ThreadPoolExecutor(max_workers=min(2, os.cpu_count() or 1)) as pool:
        for right, line in pool.map(lambda case: run_in_time(case, options), chosen):
            wrong += not right
            print(line, flush=True)
    print(f"{len(chosen)} models, {wrong} not as they must be")
    return 1 if wrong or not chosen else 0


if __name__ == "__main__":
    sys.exit(main())
