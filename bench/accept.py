# SPDX-License-Identifier: Apache-2.0
"""./dev bench accept [REGEX]: what the CPU backend must reach (bench/required.py) beside what it reaches.

REGEX picks lines by "SECTION: ROW". Exit status 1 if a figure is over what it must be by more than SLACK.
"""

import math
import os
import re
import statistics
import sys
import time

import numpy as np
import required
import rows as bench
import tapfield
from rows import middle, spread

ROUNDS = 3  # of 3 pairs
SLACK = 0.15  # medians of a shared machine move as much from run to run
OVERHEAD = "outside the kernel of a 1x64x8x8 layer, us"
TINY = {w: f"{w}/tiny/float32/std1/threads:1" for w in ("forward", "grad", "grad_grad")}


def figure(line, measured):
    """(its ratio, a note) of a Line; measured: {target: {name: Row}}."""
    row = measured[line.target][line.row]
    base = measured[None][line.base] if line.base else None
    if error := row.error or (base and base.error):
        return math.nan, error
    if not base:
        return middle(row.x), f"{spread(row.x)}, {middle(row.ms):.3g} ms"
    return row.of(
        base
    ), f"{middle(row.ms):.3g} of {middle(base.ms):.3g} ms, {middle(row.x):.2f} times its floor"


def verdict(figure, most):
    """ok; slack: over by no more than SLACK; or over, which a figure that is none is too."""
    return "ok" if figure <= most else "slack" if figure <= most * (1 + SLACK) else "over"


def judged(line, measured):
    """(figure, most, aim, verdict, row, note)"""
    is_, note = figure(line, measured)
    said = verdict(is_, line.most)
    if line.floor and said != "ok":  # the other way to pass
        other = verdict(middle(measured[line.target][line.row].x), line.floor)
        said = min(said, other, key=["ok", "slack", "over"].index)
    return is_, line.most, line.aim, said, line.row, note


def numpy_us(which):
    """Microseconds that a call through NumPy spends outside its kernel on the layer of TINY: a whole call that
    has one tap of one channel to compute, and what it takes to allocate the layer's outputs."""
    function = getattr(tapfield, {"forward": "deformable_offsets"}.get(which, f"deformable_offsets_{which}"))

    def call(size, channels, k, reuse=False):
        rng = np.random.default_rng(0)
        normal = lambda *shape: rng.standard_normal((1, *shape)).astype(np.float32)
        x, offsets = normal(size, size, channels), normal(size, size, 3 * k * k)
        grad = normal(size * k, size * k, channels)
        inputs, out = {
            "forward": ([x, offsets], grad),
            "grad": ([grad, x, offsets], (x.copy(), offsets.copy())),
            "grad_grad": ([grad, x, offsets, x, offsets], (grad.copy(), x.copy(), offsets.copy())),
        }[which]
        how = dict(ksize=(k, k), strides=(1, 1, 1, 1), pads=[k // 2] * 4, out=out if reuse else None)
        return lambda: function(*inputs, **how)

    def us(run, times=200):
        begin = time.perf_counter()
        for _ in range(times):
            run()
        return (time.perf_counter() - begin) / times * 1e6

    least, layer, reusing = call(1, 1, 1), call(8, 64, 3), call(8, 64, 3, reuse=True)
    return statistics.median(us(least) + us(layer) - us(reusing) for _ in range(15))


def overhead(tiny):
    """Judged lines of what a call costs besides its kernel; tiny: {name: Row}."""
    for which, name in TINY.items():
        outside = {"C++": middle(tiny[name].outside_us), "NumPy": numpy_us(which)}
        for door, most in required.OUTSIDE_US.items():
            note = f"the kernel takes {middle(tiny[name].ms) * 1e3 - outside['C++']:.0f}"
            yield outside[door], most, None, verdict(outside[door], most), f"{which} through {door}", note


def needs(lines):
    """{target: names of rows} that lines are made of."""
    all_of = {}
    for line in lines:
        for target, names in line.needs().items():
            all_of.setdefault(target, set()).update(names)
    return all_of


def cannot(line):
    """Why a Line says nothing on this machine, or None."""
    if "threads:2" in line.row and os.cpu_count() < 2:
        return "two threads, on one processor"
    if line.target and "SIMD target AVX3" not in tapfield.backends()[0].reason:
        return f"{line.target} against AVX-512, which this processor does not have"
    return None


def main(pattern=""):
    wanted = lambda section, row: re.search(pattern, f"{section}: {row}")
    can = [(line, cannot(line)) for line in required.lines() if wanted(line.section, line.row)]
    for why in dict.fromkeys(why for _, why in can if why):
        print(f"left out: {why}")
    lines = [line for line, why in can if not why]
    measured = bench.measure(needs(lines), "--threads=1,2", rounds=ROUNDS) if lines else {}
    sections = {}
    for line in lines:
        sections.setdefault(line.section, []).append(judged(line, measured))
    if wanted(OVERHEAD, "tiny"):
        sections[OVERHEAD] = list(overhead(bench.measure({None: set(TINY.values())}, rounds=ROUNDS)[None]))

    table = bench.table("is", "must", "aim", "", "row", "")
    counts = dict.fromkeys(["ok", "slack", "over"], 0)
    colours = {"ok": "green", "slack": "yellow", "over": "red"}
    for section, judgements in sections.items():
        table.add_row("", "", "", "", f"[bold]{section}")
        for is_, most, aim, said, name, note in judgements:
            counts[said] += 1
            aims = f"{aim:g}" if aim else ""
            table.add_row(f"{is_:.2f}", f"{most:.3g}", aims, f"[{colours[said]}]{said}", name, note)
        table.add_section()
    console = bench.console()
    console.print(table)
    console.print(f"{counts['ok']} ok, {counts['slack']} within {SLACK:.0%} of it, {counts['over']} over")
    return 1 if counts["over"] else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:2]))
