# SPDX-License-Identifier: Apache-2.0
"""Runs tapfield_bench and reads what it measured."""

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parent.parent
PROGRAM = ROOT / "build-bench" / "bench" / "tapfield_bench"


@dataclass(frozen=True)
class Row:
    """One line of tapfield_bench; bench/measure.h says what the figures are."""

    name: str
    ms: float
    x: float
    low: float
    high: float
    floor_ms: float
    outside_us: float | None = None
    error: str | None = None


def parse(document):
    """Google Benchmark's JSON -> (context, {name: Row}), names without Google Benchmark's own endings."""
    rows = {}
    for b in document["benchmarks"]:
        name = b["name"].removesuffix("/manual_time").removesuffix("/iterations:1")
        if b.get("error_occurred"):
            rows[name] = Row(name, *[float("nan")] * 5, error=b["error_message"])
        else:
            figures = (b["real_time"], b["x"], b["x_low"], b["x_high"], b["floor_ms"])
            rows[name] = Row(name, *figures, outside_us=b.get("outside_us"))
    return document["context"], rows


def load(path):
    return parse(json.loads(Path(path).read_text(encoding="utf-8")))


def run(arguments, out):
    """Runs tapfield_bench with its table on the terminal and its JSON in `out`. Returns its exit status."""
    Path(out).parent.mkdir(parents=True, exist_ok=True)
    more = [f"--benchmark_out={out}", "--benchmark_out_format=json"]
    return subprocess.run([PROGRAM, *arguments, *more], check=False).returncode


def measure(names, out, *arguments):
    """Runs exactly the rows `names`; returns (context, {name: Row})."""
    pattern = "^(" + "|".join(sorted(names)) + ")/iterations:1/manual_time$"
    status = run(["--all", f"--benchmark_filter={pattern}", *arguments], out)
    context, rows = load(out)
    if missing := sorted(set(names) - set(rows)):
        sys.exit(f"tapfield_bench (exit status {status}) has no rows {', '.join(missing)}")
    return context, rows


def console():
    return Console(width=None if sys.stdout.isatty() else 150, highlight=False)


def table(*columns):
    """A rich table whose cells wrap where they must and are never cut."""
    t = Table(box=box.SIMPLE_HEAD)
    for column in columns:
        t.add_column(column, overflow="fold")
    return t
