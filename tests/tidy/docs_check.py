#!/usr/bin/env python3
"""Checks that the generated documents say what the tables say. Usage: docs_check.py PRINT_DOCS [--write]"""
import difflib
import os
import subprocess
import sys

ROOT = os.path.abspath(os.path.join(os.path.dirname(os.path.abspath(__file__)), "../.."))
DOCUMENTS = {"metrics": "docs/metrics.md", "config": "docs/config.md", "sample": "deploy/thermocline.toml"}


def main():
    tool, write = sys.argv[1], "--write" in sys.argv[2:]
    wrong = 0
    for what, path in DOCUMENTS.items():
        expected = subprocess.run([tool, what], check=True, capture_output=True, text=True).stdout
        full = os.path.join(ROOT, path)
        if write:
            with open(full, "w", encoding="utf-8") as file:
                file.write(expected)
            continue
        found = ""
        if os.path.exists(full):
            with open(full, encoding="utf-8") as file:
                found = file.read()
        if found != expected:
            wrong += 1
            sys.stdout.writelines(difflib.unified_diff(found.splitlines(True), expected.splitlines(True), path, "table"))
    if wrong:
        print(f"{wrong} documents differ from their tables; run {sys.argv[0]} {tool} --write")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
