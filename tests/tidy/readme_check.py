#!/usr/bin/env python3
"""Checks that the C++ code that the README shows is a file that a test compiles and runs, to the letter.

Usage: readme_check.py [ROOT]
"""
import difflib
import os
import re
import sys

SHOWN = ["tests/client/package/tour.cc"]  # the blocks of the README, in order


def main():
    root = sys.argv[1] if len(sys.argv) > 1 else os.path.join(os.path.dirname(os.path.abspath(__file__)), "../..")
    with open(os.path.join(root, "README.md"), encoding="utf-8") as file:
        blocks = re.findall(r"^```cpp\n(.*?)^```$", file.read(), re.MULTILINE | re.DOTALL)
    if len(blocks) != len(SHOWN):
        print(f"README.md shows {len(blocks)} blocks of C++; tests compile {len(SHOWN)} of them")
        return 1
    wrong = 0
    for block, path in zip(blocks, SHOWN):
        with open(os.path.join(root, path), encoding="utf-8") as file:
            text = file.read()
        if block != text:
            wrong += 1
            sys.stdout.writelines(difflib.unified_diff(block.splitlines(True), text.splitlines(True), "README.md", path))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
