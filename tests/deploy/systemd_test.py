#!/usr/bin/env python3
"""The systemd units of deploy/systemd: read by systemd-analyze, then tried in a machine that is booted for it (machine.py).

Usage: systemd_test.py BUILD_DIRECTORY. The machine is installed by the commands of docs/deploy.md, to the letter. Then the
daemon must serve its user and nobody else, keep its blocks over kill -9 and restarts, be killed when it is stuck, and
see and do no more than the unit says. Without systemd, or where namespaces cannot be had, tests skip and say so.
"""
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import unittest

import machine

TOP = os.path.realpath(os.path.join(os.path.dirname(os.path.abspath(__file__)), "../.."))
UNITS = os.path.join(TOP, "deploy/systemd")
CONFIG = os.path.join(UNITS, "thermocline.toml")
MOST_EXPOSURE = 15  # in tenths; 100 is a service without any protection
MOST_EXPOSURE_AS_ROOT = 17  # with copy.conf
CAP_SYS_RESOURCE = 1 << 24  # of Linux
PATIENCE_S = 120
SECRET = "prompts" * 40_000  # some blocks


def read(path):
    with open(path, encoding="utf-8") as file:
        return file.read()


def commands(page, behind):
    """The lines of the first block of code behind a text of a page of docs/."""
    section = read(os.path.join(TOP, "docs", page)).split(behind)[1]
    lines = re.search(r"\n\n((?:    .*\n)+)", section).group(1).replace("\n    ", "\n").strip()
    return f"cd {TOP}\n" + lines.replace("sudo ", "").replace("build/release", BUILD)


class UnitTest(unittest.TestCase):
    """What can be said of the files."""

    def test_example_configuration_is_good_and_names_nothing_unknown(self):
        run = subprocess.run([os.path.join(BUILD, "bin/thermoclined"), "--check-config", "--config", CONFIG],
                             capture_output=True, text=True)
        self.assertEqual((run.returncode, run.stderr), (0, ""), run.stdout)
        self.assertIn("configuration is good", run.stdout)

    @unittest.skipUnless(shutil.which("systemd-analyze"), "no systemd-analyze here (deploy/setup.sh installs it)")
    def test_systemd_analyze_finds_no_fault_and_little_exposure(self):
        with tempfile.TemporaryDirectory() as directory:
            def copy_of(name):
                unit = os.path.join(directory, name)
                with open(unit, "w", encoding="utf-8") as file:
                    file.write(read(os.path.join(UNITS, name)).replace("/usr/local/bin", os.path.join(BUILD, "bin")))
                return unit

            unit, custodian = copy_of("thermoclined.service"), copy_of("thermocline-vram.service")
            mount = copy_of("run-thermocline.mount")

            def drop_in(of, name):
                os.makedirs(of + ".d", exist_ok=True)
                return shutil.copy(os.path.join(UNITS, os.path.basename(of) + ".d", name), of + ".d")

            def analyze(*arguments):
                run = subprocess.run(["systemd-analyze", *arguments], capture_output=True, text=True)
                self.assertEqual(run.returncode, 0, run.stdout + run.stderr)
                return run.stdout + run.stderr

            def exposure(threshold):
                seen = analyze("security", "--offline=true", f"--threshold={threshold}", unit)
                return re.search(r"Overall exposure level for .*: (\S+)", seen).group(1)

            page = read(os.path.join(TOP, "docs/deploy.md"))
            self.assertIn(f"says {exposure(MOST_EXPOSURE)} of 10", page)
            copies = drop_in(unit, "copy.conf")
            self.assertIn(f"with `copy.conf` {exposure(MOST_EXPOSURE_AS_ROOT)}", page)
            drop_in(unit, "hot.conf")
            drop_in(custodian, "copy.conf")
            self.assertEqual(analyze("verify", unit, custodian, mount), "", "an unknown or misspelled option")
            with open(copies, "a", encoding="utf-8") as file:
                file.write("BindReadonlyPath=/run\n")
            run = subprocess.run(["systemd-analyze", "verify", unit, mount], capture_output=True, text=True)
            self.assertIn("BindReadonlyPath", run.stdout + run.stderr, "the drop-in was not read")


MISSING = machine.missing()


@unittest.skipIf(MISSING, MISSING)
class ServiceTest(unittest.TestCase):
    """One life of one machine: the tests run in the order of their names."""

    @classmethod
    def setUpClass(cls):
        began = time.monotonic()
        cls.machine = machine.Machine([TOP, BUILD])
        cls.addClassCleanup(cls.machine.power_off)
        cls.machine.boot()
        print(f"booted in {time.monotonic() - began:.1f} s", flush=True)

    def run_in(self, script, code=0):
        """Standard output of a script that root runs there."""
        run = self.machine.run(script)
        if code is not None and run.returncode != code:
            log = self.machine.run("journalctl --no-pager -n 40 -u thermoclined; systemctl status --no-pager thermoclined").stdout
            raise AssertionError(f"{script}: {run.returncode}\n{run.stdout}{run.stderr}\n{log}")
        return run.stdout.strip()

    def show(self, attribute):
        return self.run_in(f"systemctl show --property {attribute} --value thermoclined")

    def wait_until(self, what, condition):
        end = time.monotonic() + PATIENCE_S
        while not condition():
            if time.monotonic() > end:
                self.fail(f"waited {PATIENCE_S} s in vain for {what}\n" + self.run_in("journalctl --no-pager -n 40", None))
            time.sleep(0.1)

    def wait_for_daemon_after(self, pid):
        self.wait_until("another daemon", lambda: self.show("SubState") == "running" and self.show("MainPID") not in (pid, "0"))

    def journal(self):
        return self.run_in("journalctl --no-pager --unit thermoclined")

    def thermoctl(self, arguments, code=0):
        return self.run_in("cd /tmp; runuser -u thermocline -- thermoctl " + arguments, code)

    def block_is_there(self, tier):
        self.thermoctl("get --name secret /tmp/back")
        self.assertEqual(self.run_in("cat /tmp/back; rm /tmp/back"), SECRET)
        table = self.thermoctl("status")
        self.assertRegex(table, rf"(?m)^ *{tier} +ok .* [1-9][0-9]* ", "blocks of that tier")

    def in_daemon(self, test):
        """Whether a path's test holds in the daemon's mount namespace, for its user."""
        user = self.run_in("id --user thermocline")  # there are no names where we go
        return self.machine.run(f"nsenter --target {self.show('MainPID')} --mount "
                                f"setpriv --reuid {user} --regid {user} --clear-groups test {test}").returncode == 0

    def test_1_the_page_installs_it_and_the_daemon_says_ready(self):
        self.run_in(commands("deploy.md", "\n## On a machine, with systemd\n"))
        self.assertEqual((self.show("ActiveState"), self.show("SubState")), ("active", "running"))
        self.assertEqual(self.show("StatusText"), "serving at /run/thermocline/thermocline.sock")
        self.assertEqual(self.run_in("systemd-analyze verify thermoclined.service run-thermocline.mount 2>&1"), "")
        self.assertEqual(self.run_in("stat --file-system --format %T /run/thermocline"), "tmpfs")
        self.assertEqual(self.run_in("findmnt --noheadings --output FSTYPE /run/thermocline"), "tmpfs", "one of its own")
        self.assertEqual(self.run_in("systemctl is-enabled thermoclined"), "enabled")

    def test_2_it_serves_its_user_and_nobody_else(self):
        self.run_in("printf 'prompts%.0s' $(seq 40000) > /tmp/secret; chmod 644 /tmp/secret")
        self.thermoctl("put --name secret /tmp/secret")
        self.block_is_there("warm")
        for user in ("nobody", "root"):
            run = self.machine.run(f"runuser -u {user} -- thermoctl --socket /run/thermocline/thermocline.sock status")
            self.assertNotEqual(run.returncode, 0, user)
        self.assertIn('"status": "ready"', self.run_in("exec 3<>/dev/tcp/127.0.0.1/9469; "
                                                       "printf 'GET /readyz HTTP/1.1\\r\\nHost: t\\r\\nConnection: close\\r\\n\\r\\n' >&3; cat <&3"))

    def test_3_it_sees_and_may_no_more_than_the_unit_says(self):
        status = self.run_in(f"cat /proc/{self.show('MainPID')}/status")
        for line in ("NoNewPrivs:\t1", "Seccomp:\t2", *(f"Cap{kind}:\t{0:016x}" for kind in ("Inh", "Prm", "Eff", "Bnd", "Amb"))):
            self.assertIn(line + "\n", status)
        if int(re.search(r"CapEff:\t(\w+)", read("/proc/self/status")).group(1), 16) & CAP_SYS_RESOURCE:
            self.assertEqual(self.run_in(f"cat /proc/{self.show('MainPID')}/oom_score_adj"), "-500")
        for writable in ("/run/thermocline", "/var/lib/thermocline"):
            self.assertTrue(self.in_daemon("-w " + writable), writable)
        for readable in ("/etc/thermocline/thermocline.toml", "/usr/local/bin/thermoclined"):
            self.assertTrue(self.in_daemon("-r " + readable) and not self.in_daemon("-w " + readable), readable)
        self.run_in("mkdir -p /home/someone /opt/thing && chmod 755 /home/someone")
        for hidden in ("/etc/passwd", "/home/someone", "/opt/thing", "/run/dbus", "/var/log", "/dev/kmsg", "/tmp/secret", "/proc/meminfo"):
            self.assertFalse(self.in_daemon("-e " + hidden), hidden)
        log = self.journal()
        self.assertNotIn(" WARNING ", log, "the sandbox takes away something that it misses")
        self.assertNotIn(" ERROR ", log)

    def test_3_a_reload_is_not_a_restart(self):
        pid = self.show("MainPID")
        self.run_in("systemctl reload thermoclined")
        time.sleep(0.5)
        self.assertEqual((self.show("MainPID"), self.show("SubState")), (pid, "running"))

    def test_4_blocks_outlive_kill_restart_and_stop(self):
        for how in ("kill --signal KILL thermoclined", "restart thermoclined", "stop thermoclined; systemctl start thermoclined"):
            with self.subTest(how):
                pid = self.show("MainPID")
                self.run_in("systemctl " + how)
                self.wait_for_daemon_after(pid)
                self.block_is_there("warm")
        self.thermoctl("flush --tier warm")
        self.thermoctl("get --name secret /tmp/back")
        self.assertEqual(self.run_in("cat /tmp/back; rm /tmp/back"), SECRET, "read from disk")

    def test_5_a_stuck_daemon_is_killed_and_comes_back(self):
        self.run_in("mkdir -p /run/systemd/system/thermoclined.service.d; "
                    "printf '[Service]\\nWatchdogSec=4s\\n' > /run/systemd/system/thermoclined.service.d/test.conf; "
                    "systemctl daemon-reload; systemctl restart thermoclined")
        pid, restarts = self.show("MainPID"), int(self.show("NRestarts"))
        time.sleep(9)
        self.assertEqual(self.show("MainPID"), pid, "it gives signs of life")
        self.run_in(f"kill -STOP {pid}")
        self.wait_for_daemon_after(pid)
        self.assertEqual(int(self.show("NRestarts")), restarts + 1)
        self.wait_until("the journal", lambda: "Watchdog timeout" in self.journal())
        self.thermoctl("get --name secret /tmp/back")
        self.assertEqual(self.run_in("cat /tmp/back; rm /tmp/back"), SECRET)

    def test_6_wrong_options_are_not_tried_again(self):
        self.run_in("echo 'warm_capasity = \"1GiB\"' > /etc/thermocline/thermocline.toml; systemctl restart thermoclined", 1)
        self.wait_until("the end", lambda: self.show("ActiveState") == "failed")
        self.assertEqual((self.show("ExecMainStatus"), self.show("NRestarts")), ("2", "0"))
        self.wait_until("the journal", lambda: "warm_capacity" in self.journal())

    def test_7_users_that_do_not_trust_each_other_are_served_from_copies(self):
        self.run_in("useradd --system alice; useradd --system mallory; "
                    "rm -f /run/systemd/system/thermoclined.service.d/test.conf; "
                    f"install -D -m 644 -t /etc/thermocline {UNITS}/thermocline.toml")
        self.run_in(f"install -D -m 644 -t /etc/systemd/system/thermoclined.service.d {UNITS}/thermoclined.service.d/copy.conf; "
                    "sed -i '/^arena_dir/a commit = \"copy\"\\narena_view = \"/run/thermocline-view\"' /etc/thermocline/thermocline.toml; "
                    "printf '\\n[[tenant]]\\nname = \"alice\"\\nuids = [%s]\\n' $(id -u alice) >> /etc/thermocline/thermocline.toml")
        self.run_in("systemctl stop thermoclined; find /run/thermocline -mindepth 1 -delete; systemctl daemon-reload; systemctl start thermoclined")
        self.assertEqual(self.run_in("stat --format %a /run/thermocline"), "711")
        self.assertIn("Read-only file system",
                      self.run_in(f"! nsenter --target {self.show('MainPID')} --mount touch /run/thermocline-view/x 2>&1"))
        ctl = "thermoctl --socket /run/thermocline/thermocline.sock"
        self.run_in(f"runuser -u alice -- {ctl} put --name hers /tmp/secret")
        self.run_in(f"install -d -o alice /tmp/alice; runuser -u alice -- {ctl} get --name hers /tmp/alice/back")
        self.assertEqual(self.run_in("cat /tmp/alice/back"), SECRET)
        self.run_in(f"! runuser -u mallory -- {ctl} status")
        self.assertNotIn(" ERROR ", self.run_in("journalctl --no-pager --unit thermoclined --since -1min"))

    def test_7_with_a_hot_tier_the_daemons_directory_stays_its_own(self):
        on_a_device = os.path.join(BUILD, "bin/thermoclined_on_fakecuda")
        if not os.path.exists(on_a_device):
            self.skipTest("there is no device, nor thermoclined_on_fakecuda")
        whose = "find /run/thermocline -printf '%p %u %m\\n' | sort"
        self.run_in(f"install {on_a_device} /usr/local/bin/thermoclined; "
                    f"install -D -m 644 -t /etc/systemd/system/thermocline-vram.service.d {UNITS}/thermocline-vram.service.d/copy.conf; "
                    "sed -i 's/^hot_capacity.*/hot_capacity = \"128MiB\"/' /etc/thermocline/thermocline.toml")
        before = self.run_in(whose)
        self.assertIn("/run/thermocline root 711\n", before)
        script = commands("hot.md", "As a service")
        begin, restart = script.rsplit("\n", 1)
        self.run_in(begin)
        self.assertEqual(self.run_in(whose), before)
        self.run_in(restart)
        state = r"(?m)^ *hot +ok "
        ctl = "thermoctl --socket /run/thermocline/thermocline.sock status"
        self.assertRegex(self.run_in(ctl), state)
        self.assertRegex(self.run_in(f"runuser -u alice -- {ctl}"), state)
        before = self.run_in(whose)
        self.run_in("systemctl restart thermocline-vram")
        self.assertEqual(self.run_in(whose), before)
        self.run_in(f"runuser -u alice -- {ctl}")
        self.assertNotIn(" ERROR ", self.run_in("journalctl --no-pager --unit thermocline-vram"))
        self.run_in("systemctl stop thermocline-vram")

    def test_8_memory_is_given_back(self):
        self.run_in("systemctl stop thermoclined run-thermocline.mount; ! findmnt /run/thermocline")


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    BUILD = os.path.realpath(sys.argv.pop(1))
    unittest.main(verbosity=2)
