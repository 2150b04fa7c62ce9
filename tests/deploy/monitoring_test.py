#!/usr/bin/env python3
"""Runs everything that deploy/grafana and deploy/prometheus ask for against a real daemon, scraped by a real Prometheus.

Usage: monitoring_test.py BIN_DIRECTORY. Both run on loopback, in a directory of their own under /dev/shm, with the scrape
configuration and the rules of deploy/ (only address and interval changed). While they run, thermoctl makes traffic of each
kind; then every query must parse, find its series and have data, every rule must evaluate, and a healthy daemon must raise
no alert but a stopped and a damaged one must. Without Debian's package prometheus it exits with 77, a visible skip.
"""
import contextlib
import ctypes
import glob
import json
import math
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import unittest
import urllib.error
import urllib.parse
import urllib.request

import monitoring

PATIENCE_S = 60  # for a process to come up, for a scrape to happen
ROUNDS, MOST_ROUNDS = 6, 60  # of traffic
SCRAPES = 4      # while there is traffic, at least
PR_SET_PDEATHSIG = 1  # of Linux
OPERATIONS = {"match", "load", "reserve", "commit", "release", "pin", "prefetch", "delete", "flush"}
# Grafana's variables; the ranges cover the whole run.
VARIABLES = {"$__rate_interval": "30m", "$__range": "30m", "$instance": ".*"}
# What a healthy daemon on a busy machine may be about to raise; never more, they all wait.
OF_A_BUSY_MACHINE = {"ThermoclineDown", "ThermoclineNotReady", "ThermoclineLoadSlow", "ThermoclineMatchSlow"}
# Series that a daemon without failures has not, whatever its traffic.
FAILURE_LABELS = ("code",)

# What is started here does not depend on how the machine's own daemon is set up.
for variable in [name for name in os.environ if name.startswith("THERMOCLINE_")]:
    del os.environ[variable]
os.environ["THERMOCLINE_CONFIG"] = os.devnull

HTTP = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # loopback: never through a proxy


def get(url):
    """Status and body."""
    try:
        with HTTP.open(url, timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def wait_for(what, condition, patience_s=PATIENCE_S):
    end = time.monotonic() + patience_s
    while True:
        result = condition()
        if result:
            return result
        if time.monotonic() > end:
            raise AssertionError(f"waited {patience_s} s in vain for {what}")
        time.sleep(0.1)


def free_port():
    """That somebody else may have by the time that it is used."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def die_with_parent():
    """So that nothing outlives a test that was killed."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


class Process:
    """A program that is ours: its output goes to a file, and it is stopped by its pid."""

    def __init__(self, arguments, log):
        self.log = log
        with open(log, "ab") as output:
            self.process = subprocess.Popen(arguments, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                                            preexec_fn=die_with_parent)

    def has_exited(self):
        return self.process.poll() is not None

    def running(self):
        if self.has_exited():
            raise AssertionError(f"{self.process.args[0]} has exited:\n{monitoring.read(self.log)}")
        return True

    def stop(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(PATIENCE_S)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        return self.process.returncode


class Daemon:
    def __init__(self, binaries, directory):
        self.binaries, self.directory = binaries, directory
        self.socket = os.path.join(directory, "t.sock")
        self.address = "127.0.0.1:0"
        self.process = None

    def start(self):
        self.process = Process(
            [os.path.join(self.binaries, "thermoclined"), "--socket", self.socket,
             "--data-dir", os.path.join(self.directory, "data"), "--arena-dir", os.path.join(self.directory, "arena"),
             "--warm-capacity", "4MiB", "--cold-capacity", "6MiB", "--pin-quota", "100", "--http", self.address],
            os.path.join(self.directory, "daemon.log"))
        where = self.socket + ".http"
        wait_for("the daemon's HTTP address", lambda: self.process.running() and os.path.exists(where))
        self.address = monitoring.read(where).strip()  # the same one when it comes back
        wait_for("the daemon", lambda: self.process.running() and get(f"http://{self.address}/readyz")[0] == 200)

    def stop(self):
        return self.process.stop() if self.process else 0

    def thermoctl(self, *arguments, code=0):
        run = subprocess.run([os.path.join(self.binaries, "thermoctl"), *arguments, "--json", "--socket", self.socket],
                             capture_output=True, text=True, timeout=PATIENCE_S)
        if run.returncode != code:
            raise AssertionError(f"thermoctl {' '.join(arguments)}: {run.returncode}, {run.stdout}{run.stderr}")
        return json.loads(run.stdout)

    def metrics(self):
        return get(f"http://{self.address}/metrics")[1]

    def sum_of(self, series, *labels):
        """The sum of the series of that name whose labels include these, e.g. 'tier="warm"'."""
        lines = re.findall(rf"^{series}(?:{{(.*)}})? (\S+)$", self.metrics(), re.MULTILINE)
        return sum(float(value) for found, value in lines if all(label in found for label in labels))


class Prometheus:
    def __init__(self, directory, target):
        self.directory, self.target = directory, target
        self.process = None

    def start(self):
        """With the configuration of deploy/, but scraping our daemon, and fast."""
        config = monitoring.read(monitoring.SCRAPE)
        for given, ours in (("127.0.0.1:9469", self.target), ("scrape_interval: 15s", "scrape_interval: 1s"),
                            ("evaluation_interval: 15s", "evaluation_interval: 1s")):
            assert config.count(given) == 1, f"prometheus.yml does not say {given} once"
            config = config.replace(given, ours)
        with open(os.path.join(self.directory, "prometheus.yml"), "w", encoding="utf-8") as file:
            file.write(config)
        shutil.copy(monitoring.RULES, self.directory)
        log = os.path.join(self.directory, "prometheus.log")

        def ready():
            if self.process and "address already in use" not in monitoring.read(log):
                self.process.running()
            if self.process is None or self.process.has_exited():
                address = f"127.0.0.1:{free_port()}"
                self.url = f"http://{address}"
                self.process = Process(
                    ["prometheus", "--config.file", os.path.join(self.directory, "prometheus.yml"), "--log.level=warn",
                     "--storage.tsdb.path", os.path.join(self.directory, "tsdb"), f"--web.listen-address={address}"], log)
            with contextlib.suppress(OSError):
                return get(self.url + "/-/ready")[0] == 200
            return False
        wait_for("Prometheus", ready)

    def stop(self):
        if self.process:
            self.process.stop()

    def api(self, path, **parameters):
        status, body = get(f"{self.url}/api/v1/{path}?{urllib.parse.urlencode(parameters)}")
        answer = json.loads(body)
        if status != 200 or answer["status"] != "success":
            raise AssertionError(f"{path} {parameters}: {answer.get('error', body)}")
        if answer.get("warnings"):
            raise AssertionError(f"{path} {parameters}: {answer['warnings']}")
        return answer["data"]

    def query(self, expression):
        """(labels, value) of each sample at this moment."""
        result = self.api("query", query=expression)["result"]
        return [(sample["metric"], float(sample["value"][1])) for sample in result]

    def scrapes(self):
        return sum(value for _, value in self.query('sum(sum_over_time(up{job="thermocline"}[30m]))'))

    def alerts(self):
        """(name, state) of those that fire or are about to."""
        return {(alert["labels"]["alertname"], alert["state"]) for alert in self.api("alerts")["alerts"]}


def fill(expression):
    for variable, value in VARIABLES.items():
        expression = expression.replace(variable, value)
    return expression


class Traffic:
    """Every operation, in every tier: capacities are small, so that blocks sink, rise and are evicted."""

    def __init__(self, daemon, directory, seed):
        self.daemon, self.directory = daemon, directory
        self.random = random.Random(seed)
        self.round = 0

    def put(self, name, size, *more, code=0):
        """Returns what was put."""
        content = self.random.randbytes(size)
        path = os.path.join(self.directory, name)
        with open(path, "wb") as file:
            file.write(content)
        self.daemon.thermoctl("put", "--name", name, path, *more, code=code)
        os.unlink(path)
        return content

    def make(self):
        self.round += 1
        name, ctl = f"file{self.round}", self.daemon.thermoctl
        self.put(name, 1_500_000)
        ctl("get", "--name", name, os.path.join(self.directory, "out"))
        ctl("flush", "--tier", "warm")
        ctl("get", "--name", name, os.path.join(self.directory, "out"))  # up again
        pin = ctl("pin", "--name", name, "--ttl", "1h", "--tier", "warm")["pin"]
        ctl("prefetch", "--name", name)
        ctl("unpin", str(pin))
        ctl("unpin", str(pin), code=1)  # an error of the caller's
        if self.round % 3 == 0:
            ctl("delete", "--name", name)


class MonitoringTest(unittest.TestCase):
    """One life of one daemon: the tests run in the order of their names, and from test_2 on it has troubles."""

    @classmethod
    def setUpClass(cls):
        seed = int(os.environ.get("TC_SEED", time.time_ns() % 2**32))
        print(f"TC_SEED={seed}", flush=True)
        cls.directory = tempfile.mkdtemp(prefix="tc-monitoring-", dir="/dev/shm")
        cls.addClassCleanup(shutil.rmtree, cls.directory)
        for name in ("data", "arena"):
            os.mkdir(os.path.join(cls.directory, name), 0o700)
        cls.daemon = Daemon(BINARIES, cls.directory)
        cls.addClassCleanup(cls.daemon.stop)
        cls.daemon.start()
        cls.prometheus = Prometheus(cls.directory, cls.daemon.address)
        cls.addClassCleanup(cls.prometheus.stop)
        cls.prometheus.start()
        cls.traffic = Traffic(cls.daemon, cls.directory, seed)
        for _ in range(MOST_ROUNDS):
            cls.traffic.make()
            if cls.traffic.round >= ROUNDS and cls.prometheus.scrapes() >= SCRAPES:
                break
        else:
            raise AssertionError(f"Prometheus did not scrape {SCRAPES} times in {MOST_ROUNDS} rounds of traffic")
        cls.traffic.put("last", 500_000)  # stays in memory
        seen = cls.prometheus.scrapes()
        wait_for("scrapes of the last traffic", lambda: cls.prometheus.scrapes() >= seen + 2)

    def test_1_promtool_accepts_configuration_rules_and_their_tests(self):
        for arguments in (["check", "config", monitoring.SCRAPE], ["check", "rules", monitoring.RULES],
                          ["test", "rules", monitoring.RULES_TEST]):
            run = subprocess.run(["promtool", *arguments], capture_output=True, text=True)
            self.assertEqual(run.returncode, 0, run.stdout + run.stderr)

    def test_1_promtool_finds_no_fault_with_the_metrics(self):
        run = subprocess.run(["promtool", "check", "metrics"], input=self.daemon.metrics(), capture_output=True, text=True)
        self.assertEqual((run.returncode, run.stdout + run.stderr), (0, ""))

    def test_1_the_daemon_exposes_the_whole_table(self):
        exposed = set(re.findall(r"^(thermocline_\w+)", self.daemon.metrics(), re.MULTILINE))
        self.assertEqual(exposed, set(monitoring.metric_table()))

    def test_1_traffic_moves_the_metrics(self):
        for name, *labels in [("lookups_total",), ("lookup_requested_tokens_total",), ("committed_blocks_total",),
                              ("miss_blocks_total", 'reason="absent"'), ("evicted_blocks_total", 'tier="cold"'),
                              ("promoted_blocks_total", 'tier="warm"'), ("demoted_blocks_total", 'tier="warm"'),
                              ("operation_errors_total", 'operation="pin"', 'code="not_found"'), ("places",), ("spaces",)]:
            self.assertGreater(self.daemon.sum_of("thermocline_" + name, *labels), 0, name)
        for tier in ('tier="warm"', 'tier="cold"'):
            for name in ("lookup_hit_tokens_total", "hit_blocks_total", "hit_bytes_total", "tier_written_bytes_total",
                         "tier_read_bytes_total", "tier_capacity_bytes", "tier_used_bytes", "tier_blocks"):
                self.assertGreater(self.daemon.sum_of("thermocline_" + name, tier), 0, name + " " + tier)
        for operation in OPERATIONS:
            series = f'operation="{operation}"'
            self.assertGreater(self.daemon.sum_of("thermocline_operation_seconds_count", series), 0, operation)
        self.assertEqual(self.daemon.sum_of("thermocline_ready"), 1)
        self.assertEqual(self.daemon.sum_of("thermocline_corrupt_blocks_total"), 0)

    def test_1_commits_hits_and_movements_add_up(self):
        of = self.daemon.sum_of
        committed, block = of("thermocline_committed_blocks_total"), 64 * 1024
        # A file's first block is its length, the last one is not full: all take a whole slot.
        promoted = of("thermocline_promoted_blocks_total", 'tier="warm"')
        written = of("thermocline_tier_written_bytes_total", 'tier="warm"')
        self.assertEqual(written, (committed + promoted) * block)
        self.assertEqual(of("thermocline_tier_read_bytes_total", 'tier="cold"'), promoted * block)
        for tier in ('tier="warm"', 'tier="cold"'):
            self.assertEqual(of("thermocline_hit_bytes_total", tier), of("thermocline_hit_blocks_total", tier) * block)
            used, capacity = of("thermocline_tier_used_bytes", tier), of("thermocline_tier_capacity_bytes", tier)
            self.assertLessEqual(used, capacity)

    def test_1_every_query_of_the_dashboard_has_data(self):
        for where, expression, legend in monitoring.dashboard_queries():
            with self.subTest(where):
                samples = self.prometheus.query(fill(expression))
                self.assertTrue([value for _, value in samples if not math.isnan(value)], f"no data: {expression}")
                for label in re.findall(r"{{(\w+)}}", legend):
                    self.assertTrue(all(label in labels for labels, _ in samples), f"no label {label}: {expression}")

    def test_1_grafana_finds_the_instance(self):
        values = self.prometheus.api("label/instance/values", **{"match[]": "thermocline_build_info"})
        self.assertEqual(values, [self.daemon.address])

    def test_1_every_series_that_is_asked_for_is_there(self):
        expressions = [expression for _, expression, _ in monitoring.dashboard_queries()]
        expressions += [rule["query"] for rule in self.rules()]
        wanted = {name + braces for expression in expressions
                  for name, braces in monitoring.selectors(fill(expression))}
        self.assertGreater(len(wanted), 30)
        for selector in sorted(wanted):
            if any(label + "=" in selector for label in FAILURE_LABELS):
                continue
            with self.subTest(selector):
                self.assertTrue(self.prometheus.query(selector))

    def rules(self):
        return [rule for group in self.prometheus.api("rules")["groups"] for rule in group["rules"]]

    def test_1_every_rule_evaluates_and_a_healthy_daemon_raises_none(self):
        rules = self.rules()
        self.assertEqual({rule["name"] for rule in rules}, set(monitoring.alert_blocks()))
        for rule in rules:
            with self.subTest(rule["name"]):
                self.assertEqual((rule["health"], rule.get("lastError", "")), ("ok", ""))
                self.prometheus.query(rule["query"])
                allowed = {"inactive", "pending"} if rule["name"] in OF_A_BUSY_MACHINE else {"inactive"}
                self.assertIn(rule["state"], allowed)

    def test_2_a_spoiled_block_is_told(self):
        content = self.traffic.put("spoiled", 100_000)
        arena, = glob.glob(os.path.join(self.directory, "arena", "*.arena"))
        with open(arena, "r+b") as file:
            at = file.read().index(content[:4096])
            file.seek(at)
            file.write(bytes([content[0] ^ 1]))
        self.daemon.thermoctl("flush", "--tier", "warm")  # what sinks is verified
        self.assertEqual(self.daemon.sum_of("thermocline_corrupt_blocks_total"), 1)
        wait_for("the alert", lambda: ("ThermoclineCorruptBlocks", "firing") in self.prometheus.alerts())

    def test_3_memory_full_of_pins_refuses_and_is_told(self):
        self.traffic.put("kept", 3_500_000)
        self.daemon.thermoctl("pin", "--name", "kept", "--ttl", "1h", "--tier", "warm")
        before = self.daemon.sum_of("thermocline_refused_reservations_total")
        self.traffic.put("more", 2_000_000, "--timeout", "5s", code=1)
        self.assertGreater(self.daemon.sum_of("thermocline_refused_reservations_total"), before)
        self.assertEqual(self.daemon.sum_of("thermocline_pins"), 1)
        wait_for("the alert", lambda: ("ThermoclineMemoryFull", "pending") in self.prometheus.alerts())

    def test_4_a_stopped_daemon_is_told(self):
        self.assertEqual(self.daemon.stop(), 0)
        wait_for("the alert", lambda: ("ThermoclineDown", "pending") in self.prometheus.alerts())

    def test_5_a_store_set_aside_is_told(self):
        self.daemon.stop()
        with open(os.path.join(self.directory, "data/store/db/CURRENT"), "wb") as file:
            file.write(b"no store\n")
        self.daemon.start()
        self.assertEqual(self.daemon.sum_of("thermocline_tier_degraded", 'tier="cold"'), 1)
        self.assertEqual(self.daemon.sum_of("thermocline_tier_degraded", 'tier="warm"'), 0)
        wait_for("the alert", lambda: ("ThermoclineTierDegraded", "pending") in self.prometheus.alerts())


if __name__ == "__main__":
    BINARIES = sys.argv.pop(1)
    missing = [tool for tool in ("promtool", "prometheus") if not shutil.which(tool)]
    if missing:
        print(f"skipped for want of {', '.join(missing)} (Debian's package prometheus; deploy/setup.sh installs it)")
        sys.exit(77)
    unittest.main(verbosity=2)
