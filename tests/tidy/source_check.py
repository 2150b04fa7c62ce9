#!/usr/bin/env python3
"""Checks how the sources are written: length of files (600 lines at most), width of lines (100 columns), no tabs or
trailing blanks, clang-format 14. Usage: source_check.py [ROOT]; without clang-format-14 it exits with 77, a visible skip.
"""
import os
import shutil
import subprocess
import sys

MOST_LINES = 600
MOST_COLUMNS = 100
FORMATTED = (".h", ".cc", ".cu", ".cuh")
SCRIPTS = (".py", ".sh", ".proto", ".cmake", "CMakeLists.txt")
FILES_PER_RUN = 40


def files_of(root):
    """What git tracks, or without git (a source archive) all there is."""
    tracked = subprocess.run(["git", "-C", root, "ls-files", "-z"], capture_output=True, text=True)
    if tracked.returncode == 0:
        paths = [path for path in tracked.stdout.split("\0") if os.path.exists(os.path.join(root, path))]
    else:
        paths = []
        for directory, folders, files in os.walk(root):
            folders[:] = [f for f in folders if not f.startswith(".") and not (directory == root and f == "build")]
            paths += [os.path.relpath(os.path.join(directory, name), root) for name in files]
    return sorted(path for path in paths if path.endswith(FORMATTED + SCRIPTS))


def check_lines(root, path):
    with open(os.path.join(root, path), encoding="utf-8") as file:
        lines = file.read().split("\n")
    if lines[-1]:
        yield f"{path}: no newline at the end"
    if len(lines) - 1 > MOST_LINES:
        yield f"{path}: {len(lines) - 1} lines, at most {MOST_LINES}: divide it"
    for number, line in enumerate(lines, 1):
        if line != line.rstrip():
            yield f"{path}:{number}: blanks at the end of the line"
        if path.endswith(FORMATTED):
            if "\t" in line:
                yield f"{path}:{number}: a tab"
            if len(line) > MOST_COLUMNS:
                yield f"{path}:{number}: {len(line)} columns, at most {MOST_COLUMNS}"


def check_format(root, tool, paths):
    for begin in range(0, len(paths), FILES_PER_RUN):
        run = subprocess.run([tool, "--dry-run", "--Werror", *paths[begin:begin + FILES_PER_RUN]], cwd=root,
                             capture_output=True, text=True)
        if run.returncode != 0:
            wrong = sorted({line.split(":")[0] for line in run.stderr.splitlines() if "clang-format" in line})
            for path in wrong or [run.stderr.strip()]:
                yield f"{path}: not formatted; run {tool} -i {path}"


def main():
    root = sys.argv[1] if len(sys.argv) > 1 else os.path.join(os.path.dirname(os.path.abspath(__file__)), "../..")
    root = os.path.abspath(root)
    paths = list(files_of(root))
    errors = [error for path in paths for error in check_lines(root, path)]
    tool = shutil.which("clang-format-14")
    if tool:
        errors += check_format(root, tool, [path for path in paths if path.endswith(FORMATTED)])
    for error in errors:
        print(error)
    print(f"{len(paths)} files, {len(errors)} errors")
    if not errors and not tool:
        print("skipped: the format, for want of clang-format-14 (deploy/setup.sh installs it)")
        return 77
    return 1 if errors else 0


if __name__ == "__main__":
    sys.exit(main())
