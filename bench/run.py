# SPDX-License-Identifier: Apache-2.0
"""./dev bench [--quick] [--json OUT] [--compare OLD.json] [--rounds N] [arguments of tapfield_bench]

Measures passes beside the memory floor; bench/README.md says what the rows are.
"""

import argparse
import sys

import compare
import rows as bench
from rows import middle, spread


def table(rows):
    t = bench.table("x", "rounds", "ms", "floor ms", "row")
    for name, r in rows.items():
        if r.error:
            t.add_row("[red]-", "", "", "", f"{name}: {r.error}")
        else:
            figures = (spread(r.x), f"{middle(r.ms):.3g}", f"{middle(r.floor_ms):.3g}")
            t.add_row(f"[bold]{middle(r.x):.2f}", *figures, name)
    return t


def main():
    parser = argparse.ArgumentParser(prog="./dev bench", usage=__doc__, allow_abbrev=False)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json")
    parser.add_argument("--compare")
    parser.add_argument("--rounds", type=int, default=bench.ROUNDS)
    arguments, rest = parser.parse_known_args()
    if arguments.quick:
        rest, arguments.rounds = ["--quick", *rest], 1
    context, measured = bench.run({None: rest}, arguments.rounds)
    rows, console = measured[None], bench.console()
    if not rows:
        sys.exit("no row is selected")
    console.print(table(rows))
    console.print(
        "x: times the memory floor, which is to move the call's own bytes once, with as many threads"
    )
    console.print(bench.machine(context))
    out = arguments.json or bench.PROGRAM.parent / "last.json"
    bench.save(out, context, rows)
    status = 1 if any(r.error for r in rows.values()) else 0
    if arguments.compare:
        status = max(status, compare.report(arguments.compare, out, console))
    return status


if __name__ == "__main__":
    sys.exit(main())
