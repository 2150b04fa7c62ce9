"""A throw-away machine: this one's file system under an overlay, with a systemd of its own as process 1.

Namespaces, not virtualisation: processes, mounts, network, host name, IPC and cgroups are the machine's own, whatever it
writes is gone with it, and /sys and /proc/sys are read-only to it. Needs root, unshare, overlayfs and cgroup v2.
"""
import ctypes
import os
import shutil
import signal
import subprocess
import tempfile
import time

PR_SET_PDEATHSIG = 1  # of Linux
BOOT_S = 180
# In the cgroup that it makes, so that the machine's systemd finds it as the root of all.
OUTER = r"""
set -eu
mkdir "$T/cgroup"
mount -t cgroup2 cgroup2 "$T/cgroup"
own=$T/cgroup/thermocline-test-$$
mkdir "$own"
status=0
bash -c 'echo $$ > "$0/cgroup.procs"; exec setpriv --pdeathsig KILL unshare --cgroup --pid --mount --net --uts --ipc --fork \
  --kill-child bash -c "$INNER"' "$own" || status=$?
for try in 1 2 3 4 5 6 7 8 9 10; do
  find "$own" -depth -type d -exec rmdir {} + 2>/dev/null && break
  sleep .2
done
exit $status
"""
INNER = r"""
set -eu
overlay() {  # LOWER WHERE NAME
  mkdir -p "$T/$3/upper" "$T/$3/work"
  mount -t overlay overlay -o "lowerdir=$1,upperdir=$T/$3/upper,workdir=$T/$3/work" "$2"
}
mkdir "$T/root"
overlay / "$T/root" machine
cd "$T/root"
mount -t proc proc proc
mount --bind proc/sys proc/sys && mount -o remount,bind,ro proc/sys
mount -t sysfs sysfs sys -o ro
mount -t cgroup2 cgroup2 sys/fs/cgroup
for directory in dev run tmp; do mount -t tmpfs tmpfs $directory -o mode=755; done
chmod 1777 tmp
for tree in $TREES; do
  mkdir -p ".$tree"
  overlay "$tree" ".$tree" "tree$((number = ${number:-0} + 1))"
done
for node in null:3 zero:5 full:7 random:8 urandom:9; do mknod -m 666 "dev/${node%:*}" c 1 "${node#*:}"; done
mknod -m 666 dev/tty c 5 0
mkdir dev/shm dev/pts && mount -t tmpfs tmpfs dev/shm && mount -t devpts devpts dev/pts -o newinstance
ln -s /proc/self/fd dev/fd && ln -s pts/ptmx dev/ptmx
rm -f etc/systemd/system/default.target etc/machine-id && : > etc/machine-id
mkdir "$T/root/.old" && pivot_root . .old && cd /
umount -l /.old
exec setpriv --bounding-set -sys_module,-sys_time,-sys_boot,-syslog --inh-caps -all env -i container=test PATH=/usr/sbin:/usr/bin \
  /lib/systemd/systemd --system --unit=basic.target --show-status=no --log-target=journal
"""


def missing():
    """What keeps this machine from starting another; nothing: ""."""
    if os.geteuid() != 0:
        return "it takes root to boot a systemd in namespaces"
    if not os.path.exists("/lib/systemd/systemd"):
        return "no systemd here (deploy/setup.sh installs it)"
    probe = ('mount -t tmpfs t "$0" && mkdir "$0/u" "$0/w" "$0/r" "$0/c" && mount -t cgroup2 c "$0/c" && mkdir "$0/c/tc-probe-$$" && '
             'rmdir "$0/c/tc-probe-$$" && mount -t overlay o -o lowerdir=/,upperdir="$0/u",workdir="$0/w" "$0/r"')
    with tempfile.TemporaryDirectory() as directory:
        run = subprocess.run(["unshare", "--mount", "--pid", "--fork", "--net", "--cgroup", "bash", "-c", probe, directory],
                             capture_output=True, text=True)
    return "" if run.returncode == 0 else "namespaces, overlayfs or cgroup v2 cannot be had: " + run.stderr.strip()


class Machine:
    """`trees` are directories of this machine that may lie on file systems of their own."""

    def __init__(self, trees):
        self.directory = tempfile.mkdtemp(prefix="tc-machine-")
        self.log = os.path.join(self.directory, "console")
        trees = [tree for tree in map(os.path.realpath, trees)]
        environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "T": os.path.join(self.directory, "t"), "INNER": INNER,
                       "TREES": " ".join(tree for tree in trees if not any(tree.startswith(other + "/") for other in trees))}
        os.mkdir(environment["T"])
        with open(self.log, "wb") as console:
            self.process = subprocess.Popen(
                ["unshare", "--mount", "bash", "-c", 'mount -t tmpfs tmpfs "$T"\n' + OUTER], env=environment,
                stdin=subprocess.DEVNULL, stdout=console, stderr=console, preexec_fn=self.die_with_parent)
        self.init = None

    @staticmethod
    def die_with_parent():
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)

    def boot(self):
        end = time.monotonic() + BOOT_S
        while time.monotonic() < end and self.process.poll() is None:
            self.init = self.init or self.find_init()
            if self.init and self.run("systemctl is-active --quiet basic.target").returncode == 0:
                return
            time.sleep(0.1)
        with open(self.log, encoding="utf-8", errors="replace") as console:
            raise AssertionError("the machine did not boot:\n" + console.read())

    def find_init(self):
        """Our process number of its process 1: the only child of a child of ours that runs systemd."""
        pids = [self.process.pid]
        for pid in pids:
            try:
                with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as file:
                    pids += map(int, file.read().split())
                with open(f"/proc/{pid}/comm", encoding="ascii") as file:
                    if file.read() == "systemd\n":
                        return pid
            except OSError:
                continue  # it has gone
        return None

    def run(self, script, timeout=300):
        """Runs a script of bash's as root of the machine."""
        return subprocess.run(["nsenter", "--target", str(self.init), "--all", "env", "-i", "PATH=/usr/local/bin:/usr/sbin:/usr/bin",
                               "bash", "-euo", "pipefail", "-c", script],
                              stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout)

    def power_off(self):
        if self.init:
            os.kill(self.init, signal.SIGKILL)  # and with it all of its processes
        else:
            self.process.kill()
        self.process.wait()
        shutil.rmtree(self.directory)
