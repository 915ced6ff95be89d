# SPDX-License-Identifier: Apache-2.0
"""What moved between two runs of ./dev bench, beyond noise: compare.py OLD.json NEW.json

Ratios to the floor are compared. A row moved if the intervals that hold its medians (x_low to x_high, from the
pairs of a run) are disjoint and the medians are more than LEAST apart.
"""

import sys

import rows as bench

# Between two runs of one program, memory lies elsewhere: medians then differ more than pairs of one run do.
LEAST = 0.05


def moved(old, new):
    """new.x / old.x - 1 where that is more than noise, else 0."""
    change = new.x / old.x - 1
    apart = new.low > old.high or new.high < old.low
    return change if apart and abs(change) > LEAST else 0.0


def compare(old, new):
    """{name: Row} twice -> [(change, old row, new row)] of the rows that moved, the worst first."""
    both = [(old[n], new[n]) for n in new if n in old and not (old[n].error or new[n].error)]
    changes = [(moved(a, b), a, b) for a, b in both]
    return sorted((c for c in changes if c[0]), key=lambda c: -c[0])


def report(old_path, new_path, console):
    """Prints what moved; returns 1 if anything became slower or a row that ran fails, else 0."""
    (old_context, old), (new_context, new) = bench.load(old_path), bench.load(new_path)
    for key in ("processor", "target", "compiler"):
        if old_context.get(key) != new_context.get(key):
            console.print(f"[bold]another {key}:[/] {old_context.get(key)} before, {new_context.get(key)} now")
    failed = [n for n in new if n in old and new[n].error and not old[n].error]
    for name in failed:
        console.print(f"[red]fails now:[/] {name}: {new[name].error}")
    changes = compare(old, new)
    table = bench.table("change", "before", "now", "row")
    show = lambda row: f"{row.x:.2f} ({row.low:.2f} to {row.high:.2f})"
    for change, a, b in changes:
        table.add_row(f"[{'red' if change > 0 else 'green'}]{change:+.0%}", show(a), show(b), a.name)
    if changes:
        console.print(table)
    common = sum(n in old for n in new)
    slower = sum(change > 0 for change, _, _ in changes)
    console.print(
        f"{common} rows in both runs: {slower} slower, {len(changes) - slower} faster, the others within noise. "
        "Ratios to the floor: median (where it lies with 96%)."
    )
    return 1 if slower or failed else 0


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    sys.exit(report(*sys.argv[1:], bench.console()))
