"""Draws the plots of a benchmark run: plot.py ROWS.json DIRECTORY. One SVG a benchmark, ratios and times as printed."""

import json
import os
import sys

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt  # noqa: E402  (the backend is chosen first)

INK = "#1b2a3a"
COLOURS = ["#c2410c", "#1d6fa5", "#5b8c3a", "#7b5ea7", "#8a6d3b", "#33475b"]
plt.rcParams.update({"svg.hashsalt": "thermocline", "axes.edgecolor": INK, "axes.spines.top": False,
                     "axes.spines.right": False, "font.size": 10, "legend.frameon": False})


def series(rows, benchmark, x):
    """{line name: {x: value}} of the rows whose case is name/x:N."""
    lines = {}
    for row in rows:
        if row["benchmark"] != benchmark or f"/{x}:" not in row["case"] or row["case"].count("/") != 1:
            continue
        name, number = row["case"].split(f"/{x}:")
        lines.setdefault(name, {})[int(number)] = row["value"]
    return lines


def finish(figure, axes, directory, name, title, x, y):
    axes.set_title(title, loc="left")
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.legend()
    figure.tight_layout()
    figure.savefig(os.path.join(directory, name + ".svg"), metadata={"Date": None})
    plt.close(figure)


def plot_lines(rows, directory, benchmark, title, x, y, levels=()):
    """A line a case by x, and a level for each of the cases that have none."""
    lines = series([row for row in rows if row["unit"] == y], benchmark, x)
    if not lines:
        return
    figure, axes = plt.subplots(figsize=(7, 4))
    for (name, points), colour in zip(lines.items(), COLOURS):
        xs = sorted(points)
        style = "--" if name in ("decode_step", "memory_read", "o_direct_read") else "-"
        axes.plot(xs, [points[x] for x in xs], style, marker="o", color=colour, label=name.replace("_", " "))
    for level, colour in zip(levels, reversed(COLOURS)):
        for row in rows:
            if row["benchmark"] == benchmark and row["case"] == level:
                axes.axhline(row["value"], linestyle="--", color=colour, label=level.replace("_", " "))
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    ticks = sorted({x for points in lines.values() for x in points})
    axes.set_xticks(ticks, [str(x) for x in ticks])
    finish(figure, axes, directory, benchmark, title, x, y)


def plot_bars(rows, directory, benchmark, title):
    """One bar a case and peer: ours / theirs."""
    rows = [row for row in rows if row["benchmark"] == benchmark and row["against"]]
    if not rows:
        return
    peers = sorted({row["against"] for row in rows})
    cases = list(dict.fromkeys(row["case"] for row in rows))
    figure, axes = plt.subplots(figsize=(8, 0.9 + 0.32 * len(cases)))
    height = 0.8 / len(peers)
    for i, peer in enumerate(peers):
        found = {row["case"]: row["ratio"] for row in rows if row["against"] == peer}
        axes.barh([k + i * height for k in range(len(cases))], [found.get(case, 0) for case in cases], height,
                  color=COLOURS[i], label="of " + peer)
    axes.axvline(1, color=INK, linewidth=1)
    axes.set_yticks([k + 0.4 - height / 2 for k in range(len(cases))], cases)
    axes.invert_yaxis()
    finish(figure, axes, directory, benchmark, title, "ratio, ours / theirs", "")


def main():
    with open(sys.argv[1], encoding="utf-8") as file:
        rows = json.load(file)
    directory = sys.argv[2]
    plot_lines(rows, directory, "ttft", "Time to first token, SmolLM2-135M, by cached prefix", "tokens", "ms")
    plot_lines(rows, directory, "match", "Finding and pinning a prefix among a million blocks", "blocks", "us",
               ("redis_exists_512", "mooncake_batch_is_exist_512", "grpc_unary"))
    plot_bars(rows, directory, "engine", "SmolLM2-135M on the CPU against llama.cpp")
    plot_bars(rows, directory, "warm", "Warm blocks: put and get")
    plot_bars([row for row in rows if row["case"].startswith(("read/", "write/"))], directory, "cold",
              "Blocks on a disk: the cold tier against fio, raw files and other stores")
    plot_bars(rows, directory, "peers", "Warm blocks against the peers")


if __name__ == "__main__":
    main()
