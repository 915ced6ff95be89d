# SPDX-License-Identifier: Apache-2.0
"""What moved between two runs of ./dev bench --json, beyond noise: compare.py OLD.json NEW.json

Ratios to the floor are compared. A row moved if every round of one run is above every round of the other, and their
medians are more than LEAST apart. Of two runs of the same program, 5 rounds each, that happens to one row in 126.
"""

import sys

import rows as bench
from rows import middle, numbers, spread

LEAST = 0.05


def moved(old, new):
    """The new ratio over the old, less 1, where that is more than noise, else 0."""
    change = middle(new.x) / middle(old.x) - 1
    before, now = numbers(old.x), numbers(new.x)
    apart = min(now) > max(before) or max(now) < min(before)
    return change if apart and abs(change) > LEAST else 0.0


def compare(old, new):
    """{name: Row} twice -> [(change, name)] of the rows that moved, the worst first."""
    changes = [(moved(old[n], new[n]), n) for n in new if n in old and not (old[n].error or new[n].error)]
    return sorted((c for c in changes if c[0]), reverse=True)


def report(old_path, new_path, console):
    """Prints what moved; returns 1 if anything became slower or fails that ran, else 0."""
    (old_context, old), (new_context, new) = bench.load(old_path), bench.load(new_path)
    for key in ("processor", "target", "compiler"):
        if old_context.get(key) != new_context.get(key):
            console.print(
                f"[bold]another {key}:[/] {old_context.get(key)} before, {new_context.get(key)} now"
            )
    failed = [n for n in new if n in old and new[n].error and not old[n].error]
    for name in failed:
        console.print(f"[red]fails now:[/] {name}: {new[name].error}")
    changes = compare(old, new)
    table = bench.table("change", "before", "rounds", "now", "rounds", "row")
    show = lambda row: (f"{middle(row.x):.2f}", spread(row.x))
    for change, name in changes:
        table.add_row(
            f"[{'red' if change > 0 else 'green'}]{change:+.0%}", *show(old[name]), *show(new[name]), name
        )
    if changes:
        console.print(table)
    slower = sum(change > 0 for change, _ in changes)
    common = sum(n in old for n in new)
    console.print(
        f"{common} rows in both: {slower} slower, {len(changes) - slower} faster, the others within noise"
    )
    return 1 if slower or failed else 0


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    sys.exit(report(*sys.argv[1:], bench.console()))
