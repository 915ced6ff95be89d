# SPDX-License-Identifier: Apache-2.0
"""Runs tapfield_bench in rounds and gathers what it measured.

A round is a process that measures every row. Noise of a shared machine lasts for seconds, and memory lies
elsewhere in each process: rounds see both, repetitions of one row in one process do not.
"""

import json
import math
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parent.parent
PROGRAM = ROOT / "build-bench" / "bench" / "tapfield_bench"
ROUNDS, PAIRS = 5, 3
FIGURES = {"x": "x", "ms": "real_time", "floor_ms": "floor_ms", "outside_us": "outside_us"}  # of Row: in JSON


def middle(values):
    """The median of those that are numbers."""
    return statistics.median(numbers(values) or [math.nan])


def numbers(values):
    return [v for v in values if not math.isnan(v)]


def spread(values):
    return f"{min(numbers(values)):.2f} to {max(numbers(values)):.2f}"


@dataclass
class Row:
    """A row's figures, one a round, nan where it failed; bench/measure.h says what they are."""

    x: list
    ms: list
    floor_ms: list
    outside_us: list  # nan where the call is too long to tell
    error: str | None = None  # of a row that failed in every round

    def of(self, base):
        """This row's time over another's, as the median of the rounds."""
        return middle([a / b for a, b in zip(self.ms, base.ms)])


def parse(documents):
    """Google Benchmark's JSON of each round -> {name: Row}, names without Google Benchmark's own endings."""
    rows = {}
    for document in documents:
        for b in document["benchmarks"]:
            row = rows.setdefault(b["name"].removesuffix("/iterations:1/manual_time"), Row([], [], [], []))
            failed = b.get("error_occurred", False)
            row.error = b["error_message"] if failed and (row.error or not row.x) else None
            for mine, theirs in FIGURES.items():
                getattr(row, mine).append(math.nan if failed else b.get(theirs, math.nan))
    return rows


def run(selections, rounds=ROUNDS, pairs=PAIRS):
    """selections: {key: arguments of tapfield_bench} -> (context, {key: {name: Row}}). The selections of a round run
    one after the other."""
    documents = {key: [] for key in selections}
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out.json"
        for n in range(rounds):
            begin = time.monotonic()
            for key, arguments in selections.items():
                options = [f"--pairs={pairs}", f"--benchmark_out={out}", "--benchmark_out_format=json"]
                done = subprocess.run(
                    [PROGRAM, *arguments, *options], capture_output=True, text=True, check=False
                )
                if done.returncode > 1:  # 1: a row failed, and says so
                    sys.exit(done.stderr.strip().splitlines()[-1])
                documents[key].append(json.loads(out.read_text(encoding="utf-8") or '{"benchmarks": []}'))
            print(f"round {n + 1} of {rounds}: {time.monotonic() - begin:.0f} s", file=sys.stderr)
    context = next(iter(documents.values()))[0].get("context", {})
    return context, {key: parse(found) for key, found in documents.items()}


def measure(needs, *arguments, rounds=ROUNDS):
    """needs: {target, or None for the best: names of rows} -> {target: {name: Row}}, exactly those."""
    selections = {}
    for target, names in needs.items():
        pattern = "^(" + "|".join(sorted(names)) + ")/iterations"
        selections[target] = ["--all", f"--benchmark_filter={pattern}", *arguments]
        if target:
            selections[target].append(f"--target={target}")
    _, measured = run(selections, rounds)
    for target, names in needs.items():
        if missing := sorted(set(names) - set(measured[target])):
            sys.exit(f"tapfield_bench has no rows {', '.join(missing)}")
    return measured


def save(path, context, rows):
    document = {"context": context, "rows": {name: asdict(row) for name, row in rows.items()}}
    Path(path).write_text(json.dumps(document, indent=1), encoding="utf-8")


def load(path):
    """(context, {name: Row}) of what save wrote."""
    document = json.loads(Path(path).read_text(encoding="utf-8"))
    return document["context"], {name: Row(**row) for name, row in document["rows"].items()}


def machine(context):
    """One line: where and when."""
    return ", ".join(context.get(k, "?")[:40] for k in ("processor", "target", "compiler", "date"))


def console():
    return Console(width=None if sys.stdout.isatty() else 150, highlight=False)


def table(*columns):
    """A rich table whose cells wrap where they must and are never cut."""
    t = Table(box=box.SIMPLE_HEAD)
    for column in columns:
        t.add_column(column, overflow="fold")
    return t
