#!/usr/bin/env python3
"""Checks that the parts of deploy/kubernetes and deploy/container fit each other, the programs and the alerts.

Usage: manifests_test.py BUILD_DIRECTORY. No cluster and no container engine is asked: those are untried (docs/deploy.md).
"""
import os
import re
import subprocess
import sys
import tempfile
import tomllib
import unittest

import yaml

TOP = os.path.realpath(os.path.join(os.path.dirname(os.path.abspath(__file__)), "../.."))
UNITS = {"MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40, "Mi": 1 << 20, "Gi": 1 << 30, "Ti": 1 << 40}
# What debian:12-slim has; the program may ask for it without more.
OF_THE_BASE = {"libc6", "libgcc-s1", "libstdc++6", "zlib1g", "libxxhash0"}


def read(path):
    with open(os.path.join(TOP, path), encoding="utf-8") as file:
        return file.read()


def size(text):
    number, unit = re.fullmatch(r"(\d+)([KMGT]iB?)", text).groups()
    return int(number) * UNITS[unit]


class KubernetesTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        documents = list(yaml.safe_load_all(read("deploy/kubernetes/thermocline.yaml")))
        cls.by_kind = {document["kind"]: document for document in documents}
        assert len(cls.by_kind) == len(documents) == 3
        cls.toml = cls.by_kind["ConfigMap"]["data"]["thermocline.toml"]
        cls.options = tomllib.loads(cls.toml)
        cls.template = cls.by_kind["Deployment"]["spec"]["template"]
        cls.pod = cls.template["spec"]
        [cls.sidecar], [cls.engine] = cls.pod["initContainers"], cls.pod["containers"]

    def test_the_daemon_accepts_its_configuration(self):
        with tempfile.NamedTemporaryFile("w", suffix=".toml") as file:
            file.write(self.toml)
            file.flush()
            run = subprocess.run([os.path.join(BUILD, "bin/thermoclined"), "--check-config", "--config", file.name],
                                 capture_output=True, text=True)
        self.assertEqual((run.returncode, run.stderr), (0, ""))
        mount = {mount["name"]: mount["mountPath"] for mount in self.sidecar["volumeMounts"]}
        self.assertEqual(self.sidecar["args"], ["--config", mount["config"] + "/thermocline.toml"])

    def test_the_deployment_selects_its_own_pods(self):
        labels = self.template["metadata"]["labels"]
        selectors = [self.by_kind["Deployment"]["spec"]["selector"], self.by_kind["NetworkPolicy"]["spec"]["podSelector"],
                     yaml.safe_load(read("deploy/kubernetes/podmonitor.yaml"))["spec"]["selector"]]
        for selector in selectors:
            self.assertLessEqual(selector["matchLabels"].items(), labels.items())

    def test_volumes_are_there_and_the_two_containers_share_one(self):
        volumes = {volume["name"]: volume for volume in self.pod["volumes"]}
        for container in (self.sidecar, self.engine):
            for mount in container["volumeMounts"]:
                self.assertIn(mount["name"], volumes)
        paths = [{mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}["run"]
                 for container in (self.sidecar, self.engine)]
        self.assertEqual(paths, [self.options["arena_dir"]] * 2, "descriptors name paths")
        self.assertEqual(os.path.dirname(self.options["socket"]), paths[0])
        self.assertIn({"name": "THERMOCLINE_SOCKET", "value": self.options["socket"]}, self.engine["env"])
        self.assertEqual(volumes["config"]["configMap"]["name"], self.by_kind["ConfigMap"]["metadata"]["name"])
        self.assertEqual(volumes["run"]["emptyDir"]["medium"], "Memory")

    def test_sizes_hold_each_other(self):
        volumes = {volume["name"]: volume for volume in self.pod["volumes"]}
        warm, limit = size(self.options["warm_capacity"]), size(self.sidecar["resources"]["limits"]["memory"])
        self.assertGreater(size(volumes["run"]["emptyDir"]["sizeLimit"]), warm)
        self.assertGreaterEqual(limit, warm + size("2GiB"))
        self.assertGreaterEqual(limit, size(volumes["run"]["emptyDir"]["sizeLimit"]), "tmpfs counts as the container's memory")
        self.assertGreaterEqual(size(volumes["cold"]["emptyDir"]["sizeLimit"]), size(self.options["cold_capacity"]) + size("512MiB"),
                                "a segment more")

    def test_daemon_and_engine_are_one_user_without_rights(self):
        self.assertTrue(self.pod["shareProcessNamespace"])
        self.assertTrue(self.pod["securityContext"]["runAsNonRoot"])
        for container in (self.sidecar, self.engine):
            self.assertNotIn("runAsUser", container.get("securityContext", {}))
        self.assertIn(f"USER {self.pod['securityContext']['runAsUser']}:{self.pod['securityContext']['runAsGroup']}\n",
                      read("deploy/container/Containerfile"))
        context = self.sidecar["securityContext"]
        self.assertEqual((context["allowPrivilegeEscalation"], context["readOnlyRootFilesystem"], context["capabilities"]),
                         (False, True, {"drop": ["ALL"]}))

    def test_probes_and_scrapes_reach_the_port_that_listens(self):
        port = int(self.options["http"].rsplit(":", 1)[1])
        self.assertEqual(self.sidecar["ports"], [{"name": "metrics", "containerPort": port}])
        for probe, path in (("startupProbe", "/readyz"), ("readinessProbe", "/readyz"), ("livenessProbe", "/livez")):
            self.assertEqual(self.sidecar[probe]["httpGet"], {"path": path, "port": "metrics"})
        self.assertEqual(self.template["metadata"]["annotations"]["prometheus.io/port"], str(port))
        ports = [rule["ports"][0]["port"] for rule in self.by_kind["NetworkPolicy"]["spec"]["ingress"]]
        self.assertEqual(ports[0], port)
        [endpoint] = yaml.safe_load(read("deploy/kubernetes/podmonitor.yaml"))["spec"]["podMetricsEndpoints"]
        self.assertEqual((endpoint["port"], endpoint["path"]), ("metrics", "/metrics"))
        self.assertIn(f'up{{job="{endpoint["relabelings"][0]["replacement"]}"}}', read("deploy/prometheus/alerts.yml"))

    def test_there_is_time_to_shut_down(self):
        run = subprocess.run([os.path.join(BUILD, "bin/thermoclined"), "--print-config", "--config", os.devnull],
                             capture_output=True, text=True, check=True)
        shutdown = self.options.get("shutdown_timeout") or tomllib.loads(run.stdout)["shutdown_timeout"]
        self.assertGreater(self.pod["terminationGracePeriodSeconds"], int(shutdown.removesuffix("s")))


class ContainerTest(unittest.TestCase):
    def test_every_room_is_copied_into_the_build(self):
        rooms = re.search(r"foreach\(room (.*)\)", read("CMakeLists.txt")).group(1).split()
        copied = re.findall(r"^COPY (\w+) \w+$", read("deploy/container/Containerfile"), re.MULTILINE)
        self.assertEqual(copied, ["cmake", *rooms])

    def test_the_image_has_the_libraries_that_the_programs_ask_for_and_no_others(self):
        listed = re.search(r"--no-install-recommends (.*?) &&", read("deploy/container/Containerfile").replace("\\\n", ""), re.DOTALL)
        asked = set()
        for program in ("thermoclined", "thermoctl"):
            path = os.path.join(BUILD, "bin", program)
            dynamic = subprocess.run(["readelf", "--dynamic", path], capture_output=True, text=True, check=True).stdout
            needed = set(re.findall(r"\(NEEDED\).*\[(.*)\]", dynamic))
            found = subprocess.run(["ldd", path], capture_output=True, text=True, check=True).stdout
            for name, library in re.findall(r"^\s*(\S+) => (\S+)", found, re.MULTILINE):
                if name not in needed:
                    continue
                owner = subprocess.run(["dpkg", "--search", os.path.realpath(library)], capture_output=True, text=True)
                if owner.returncode != 0:
                    self.skipTest(f"{library} is of no Debian package")
                asked.add(owner.stdout.split(":")[0])
        self.assertEqual(asked - OF_THE_BASE, set(listed.group(1).split()) - OF_THE_BASE)


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    BUILD = os.path.realpath(sys.argv.pop(1))
    unittest.main(verbosity=2)
