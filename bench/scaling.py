# SPDX-License-Identifier: Apache-2.0
"""./dev bench scaling: how time grows with N, H, W, C, K, G and threads, one at a time from BASE. Writes
docs/scaling.png and prints the table of docs/performance.md.
"""

import os
import sys

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import rows as bench
from rows import middle

BASE = {"N": 1, "H": 64, "W": 64, "C": 128, "K": 3, "G": 1, "threads": 1}
VALUES = {
    "N": [1, 2, 4, 8, 16],
    "H": [16, 32, 64, 128, 256],
    "W": [16, 32, 64, 128, 256],
    "C": [16, 32, 64, 128, 256, 512],
    "K": [1, 3, 5, 7],
    "G": [1, 2, 4, 8, 16, 32, 64, 128],
    "threads": sorted({1, min(2, os.cpu_count()), os.cpu_count()}),
}
PASSES = {"forward": "C0", "grad": "C1", "grad_grad": "C2"}


def point(parameter, value):
    return BASE | {parameter: value}


def base():
    return ", ".join(f"{k} = {v}" for k, v in BASE.items())


def shape(p):
    return ",".join(str(p[k]) for k in "NHWCKG")


def row(which, p):
    return f"{which}/{shape(p)}/float32/own/threads:{p['threads']}"


def measure():
    points = [point(k, v) for k, values in VALUES.items() for v in values]
    shapes = dict.fromkeys(shape(p) for p in points)
    threads = ",".join(map(str, VALUES["threads"]))
    # Only the base is run with more than one thread.
    pattern = f"/({shape(BASE)}/.*|.*/threads:1)/iterations"
    arguments = [*(f"--shape={s}" for s in shapes), f"--threads={threads}", f"--benchmark_filter={pattern}"]
    context, measured = bench.run({None: arguments})
    return context, measured[None]


def plot(measured, path):
    figure, panels = plt.subplots(2, 4, figsize=(12, 5.6), sharey=True, layout="constrained")
    for panel, (parameter, values) in zip(panels.flat, VALUES.items()):
        for which, colour in PASSES.items():
            found = [measured[row(which, point(parameter, v))] for v in values]
            panel.plot(values, [middle(r.ms) for r in found], "o-", color=colour, label=which, markersize=3)
            panel.plot(
                values, [middle(r.floor_ms) for r in found], ":", color=colour, label=f"{which}: floor"
            )
        panel.set(xscale="log", yscale="log", xlabel=parameter)
        panel.set_xticks(values, map(str, values))
        panel.minorticks_off()
        panel.grid(alpha=0.3)
    for panel in panels[:, 0]:
        panel.set_ylabel("ms")
    last = panels.flat[-1]
    last.axis("off")
    last.legend(*panels.flat[0].get_legend_handles_labels(), loc="center", frameon=False)
    figure.suptitle(f"One call, float32; what a panel does not vary is {base()}", fontsize="medium")
    figure.savefig(path, dpi=120)


def table(measured):
    """Lines of Markdown: ratios to the floor, then milliseconds."""
    yield "| | " + " | ".join(f"{w}: x (ms)" for w in PASSES) + " |"
    yield "|---|" + "---|" * len(PASSES)
    for parameter, values in VALUES.items():
        for v in values:
            found = [measured[row(w, point(parameter, v))] for w in PASSES]
            cells = [f"{middle(r.x):.2f} ({middle(r.ms):.3g})" for r in found]
            yield f"| {parameter} = {v} | " + " | ".join(cells) + " |"


def main():
    context, measured = measure()
    if failed := [f"{name}: {r.error}" for name, r in measured.items() if r.error]:
        sys.exit("\n".join(failed))
    path = bench.ROOT / "docs" / "scaling.png"
    plot(measured, path)
    print(f"\n{bench.machine(context)}; {base()}\n")
    print("\n".join(table(measured)))
    print(f"\nwrote {path.relative_to(bench.ROOT)}")


if __name__ == "__main__":
    main()
