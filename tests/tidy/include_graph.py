#!/usr/bin/env python3
"""Reads every #include of the tree and fails when one breaks the rules of the house.

  - Rooms are ordered, floor to roof; an include never points upwards or sideways (ROOMS).
  - Heavy headers stay behind their fences (FENCES), so that a change elsewhere compiles fast. A file outside of a fence
    may not reach the header through others either.
  - No cycles; every "quoted" include names a file of the tree from its root; every header has #pragma once; headers that
    clang 14 cannot read with g++ 12's library are not used (FORBIDDEN).

Usage: include_graph.py [ROOT]; include_graph.py --self-test checks that each kind of breach is noticed.
"""
import fnmatch
import os
import re
import sys
import tempfile

# A room and those whose headers it may include, besides its own.
ROOMS = {
    "base": set(),
    "hashing": {"base"},
    "proto": {"base", "hashing"},  # the translation of a space, which both sides of the wire need
    "kernels": {"base"},
    "catalog": {"base", "hashing", "proto", "kernels"},
    "tiers": {"base", "hashing", "proto", "kernels", "catalog"},
    "client": {"base", "hashing", "proto", "kernels", "catalog"},
    "daemon": {"base", "hashing", "proto", "kernels", "catalog", "tiers"},
    "engine": {"base", "hashing", "proto", "kernels", "catalog", "client"},
}
UNORDERED = ("bench", "tests")  # may include everything; nothing includes them but themselves

# name: (what is fenced, where it may be included). Tests and benches stand outside.
FENCES = {
    "RocksDB": (r"rocksdb/", ["tiers/disk_*"]),
    "gRPC": (r"grpc(pp)?/|grpcpp|thermocline/v1/\w+\.grpc\.pb\.h",
             # daemon/data_*: the calls of the Data service, one file each.
             ["daemon/grpc_*", "daemon/*_service.*", "daemon/data_*", "client/grpc_*"]),
    "Asio and Beast": (r"boost/(asio|beast)(/|\.hpp)",
                       ["base/executor*", "*/session*", "*/http_*", "tiers/remote_*"]),
    "CUDA": (r"(cuda|cublas|nv)\w*\.h$|cub/", ["kernels/*", "tiers/device_*", "client/device_*", "engine/cuda_*"]),
    "spdlog": (r"spdlog/", ["base/log.cc"]),
    "toml++": (r"toml\+\+/", ["base/options_toml.cc"]),
    "CLI11": (r"CLI/", ["client/*ctl*", "engine/main.cc", "engine/*options.cc", "engine/command*"]),
    "prometheus-cpp": (r"prometheus/", ["base/metrics.cc"]),
    "libsystemd": (r"systemd/", ["daemon/service_notify.cc"]),
    "xxHash": (r"xxhash\.h$", ["hashing/*"]),
    "PCRE2": (r"pcre2\.h$", ["engine/*"]),
}
FORBIDDEN = {"ranges", "source_location", "format"}

INCLUDE = re.compile(r'^[ \t]*#[ \t]*include[ \t]*(?:"([^"]+)"|<([^>]+)>)', re.MULTILINE)
SOURCES = (".h", ".cc", ".cu", ".cuh", ".inc")
OUTSIDE = "tests/client/package"  # a program of a user's, which includes what is installed


def sources(root):
    for directory, folders, files in os.walk(root):
        if os.path.relpath(directory, root) == OUTSIDE:
            continue
        folders[:] = [f for f in folders if not f.startswith(".") and not (directory == root and f == "build")]
        for name in files:
            if name.endswith(SOURCES):
                yield os.path.relpath(os.path.join(directory, name), root)


class Graph:
    def __init__(self, root):
        self.text = {}
        self.inner = {}  # file -> files of the tree
        self.outer = {}  # file -> other headers, generated ones included
        self.errors = []
        for path in sorted(sources(root)):
            with open(os.path.join(root, path), encoding="utf-8") as file:
                self.text[path] = file.read()
        for path, text in self.text.items():
            self.inner[path], self.outer[path] = [], []
            for quoted, angled in INCLUDE.findall(text):
                if quoted in self.text:
                    self.inner[path].append(quoted)
                elif angled in self.text:
                    self.errors.append(f"{path}: <{angled}> is a file of the tree; include it in quotes")
                else:
                    self.outer[path].append(quoted or angled)
                    if quoted and not quoted.endswith(".pb.h"):
                        self.errors.append(f'{path}: "{quoted}" is no file of the tree; name it from the root')

    def check(self):
        for path in self.text:
            self.check_rooms(path)
            self.check_fences(path)
            for header in self.outer[path]:
                if header in FORBIDDEN:
                    self.errors.append(f"{path}: <{header}> is outside of the subset that clang 14 reads")
            if path.endswith((".h", ".cuh")) and "#pragma once" not in self.text[path]:
                self.errors.append(f"{path}: no #pragma once")
        self.check_cycles()
        return self.errors

    def check_rooms(self, path):
        room = path.split("/")[0]
        if room in UNORDERED:
            return
        if room not in ROOMS:
            self.errors.append(f"{path}: the folder {room} is no room of the house (include_graph.py, ROOMS)")
            return
        rooms = [(include, include.split("/")[0]) for include in self.inner[path]]
        rooms += [(include, "proto") for include in self.outer[path] if include.startswith("thermocline/v1/")]
        for include, other in rooms:
            if other != room and other not in ROOMS[room]:
                self.errors.append(f"{path}: {room} may not include {other}: {include}")

    def check_fences(self, path):
        if path.split("/")[0] in UNORDERED:
            return
        for name, (pattern, allowed) in FENCES.items():
            if any(fnmatch.fnmatch(path, glob) for glob in allowed):
                continue
            found = self.find_outer(path, re.compile(pattern))
            if found:
                self.errors.append(f"{path}: {name} is fenced to {', '.join(allowed)}, reached by {' > '.join(found)}")

    def find_outer(self, path, pattern):
        """The way from `path` to a header that matches, or nothing."""
        queue, seen = [(path, [])], {path}
        while queue:
            at, way = queue.pop(0)
            for header in self.outer[at]:
                if pattern.match(header):
                    return way + [f"<{header}>"]
            for include in self.inner[at]:
                if include not in seen:
                    seen.add(include)
                    queue.append((include, way + [include]))
        return None

    def check_cycles(self):
        state = {}  # 1 on the way down, 2 done

        def visit(path, way):
            state[path] = 1
            for include in self.inner[path]:
                if state.get(include) == 1:
                    cycle = way[way.index(include):] + [include]
                    self.errors.append(f"{path}: a cycle: {' > '.join(cycle)}")
                elif include not in state:
                    visit(include, way + [include])
            state[path] = 2

        for path in self.text:
            if path not in state:
                visit(path, [path])


def self_test():
    once = "#pragma once\n"
    cases = {
        "an include upwards": {"base/a.h": once + '#include "tiers/b.h"\n', "tiers/b.h": once},
        "the client includes the daemon's tiers": {"client/a.cc": '#include "tiers/b.h"\n', "tiers/b.h": once},
        "an unknown room": {"attic/a.cc": ""},
        "generated messages in base": {"base/a.cc": "#include <thermocline/v1/types.pb.h>\n"},
        "RocksDB in the daemon": {"daemon/a.cc": "#include <rocksdb/db.h>\n"},
        "Asio through a header": {
            "daemon/a.cc": '#include "daemon/session_x.h"\n',
            "daemon/session_x.h": once + "#include <boost/asio/post.hpp>\n"},
        "spdlog outside of the log": {"base/executor.cc": "#  include <spdlog/spdlog.h>\n"},
        "a cycle": {"base/a.h": once + '#include "base/b.h"\n', "base/b.h": once + '#include "base/a.h"\n'},
        "a header included by itself": {"base/a.h": once + '#include "base/a.h"\n'},
        "a relative include": {"base/a.cc": '#include "b.h"\n', "base/b.h": once},
        "a missing file": {"base/a.cc": '#include "base/none.h"\n'},
        "no #pragma once": {"base/a.h": ""},
        "a header that clang 14 cannot read": {"base/a.cc": "#include <format>\n"},
    }
    good = {
        "base/executor.cc": "#include <boost/asio/post.hpp>\n#include <vector>\n",
        "daemon/x_service.cc": '#include "tiers/t.h"\n#include "thermocline/v1/control.grpc.pb.h"\n',
        "tiers/t.h": once,
        "tests/tiers/t_test.cc": '#include <rocksdb/db.h>\n#include "daemon/d.h"\n',
        "daemon/d.h": once,
    }
    failed = [name for name, files in cases.items() if not errors_of(files)]
    if errors_of(good):
        failed.append("a good tree: " + "; ".join(errors_of(good)))
    for name in failed:
        print(f"not noticed: {name}")
    print(f"{len(cases)} kinds of breach, {len(failed)} failures")
    return 1 if failed else 0


def errors_of(files):
    with tempfile.TemporaryDirectory() as root:
        for path, text in files.items():
            os.makedirs(os.path.dirname(os.path.join(root, path)), exist_ok=True)
            with open(os.path.join(root, path), "w", encoding="utf-8") as file:
                file.write(text)
        return Graph(root).check()


def main():
    if sys.argv[1:] == ["--self-test"]:
        return self_test()
    root = sys.argv[1] if len(sys.argv) > 1 else os.path.join(os.path.dirname(os.path.abspath(__file__)), "../..")
    graph = Graph(os.path.abspath(root))
    errors = graph.check()
    for error in errors:
        print(error)
    print(f"{len(graph.text)} files, {sum(map(len, graph.inner.values()))} inner includes, {len(errors)} errors")
    return 1 if errors else 0


if __name__ == "__main__":
    sys.exit(main())
