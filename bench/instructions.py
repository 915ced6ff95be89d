# SPDX-License-Identifier: Apache-2.0
"""./dev bench instructions [--update]: instructions that the kernels execute on small fixed cases, against
those in bench/instructions.json. Exit status 1 if one is more than BAND away.

Counted by valgrind's callgrind, so free of noise; valgrind has no AVX-512, and dispatch under it chooses AVX2.
Counts belong to a compiler and that target: elsewhere they are shown, not judged.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import rows as bench

STORED = bench.ROOT / "bench" / "instructions.json"
PROGRAM = bench.PROGRAM.with_name("tapfield_count")
BAND = 0.03


def count():
    """(compiler, target, {case: {"schedule": row of the backend table, "instructions": count}})"""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "callgrind.out"
        # Nothing is collected but what runs inside counted(), which ends with a file of its own each time.
        when = ["--toggle-collect=counted", "--dump-after=counted"]
        command = ["valgrind", "--tool=callgrind", *when, f"--callgrind-out-file={out}", PROGRAM]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            sys.exit(f"{done.stderr}\nfailed: {' '.join(map(str, command))}")
        *lines, last = done.stdout.splitlines()
        files = sorted(Path(folder).glob("callgrind.out.*"), key=lambda f: int(f.suffix[1:]))
        totals = [int(re.search(r"^totals: (\d+)", f.read_text(), re.M).group(1)) for f in files]
    dumps = [t for t in totals if t]  # the last file, written at exit, has nothing
    if len(dumps) != len(lines):
        sys.exit(f"{len(lines)} cases ran, but callgrind counted {len(dumps)}")
    counts, targets = {}, set()
    for line, instructions in zip(lines, dumps):
        case, schedule, target = line.split()
        counts[case] = {"schedule": schedule, "instructions": instructions}
        targets.add(target)
    return last.removeprefix("compiler "), targets.pop(), counts


def judge(old, new):
    """{case: ...} twice -> [(case, old, new, change or None, what is wrong or "")]"""
    lines = []
    for case in [*new, *(c for c in old if c not in new)]:
        a, b = old.get(case), new.get(case)
        if not a or not b:
            lines.append((case, a, b, None, "not stored" if b else "no longer counted"))
            continue
        change = b["instructions"] / a["instructions"] - 1
        wrong = "more" if change > BAND else "fewer" if change < -BAND else ""
        if a["schedule"] != b["schedule"]:
            wrong = f"was {a['schedule']}"
        lines.append((case, a, b, change, wrong))
    return lines


def show(lines, console):
    table = bench.table("change", "stored", "now", "case", "schedule", "")
    number = lambda entry: f"{entry['instructions']:,}" if entry else ""
    for case, a, b, change, wrong in lines:
        changes = "" if change is None else f"{change:+.1%}"
        table.add_row(
            changes, number(a), number(b), case, (b or a)["schedule"], f"[red]{wrong}" if wrong else ""
        )
    console.print(table)


def main():
    parser = argparse.ArgumentParser(prog="./dev bench instructions", description=__doc__)
    parser.add_argument("--update", action="store_true", help="store what was counted")
    update = parser.parse_args().update
    console = bench.console()
    compiler, target, new = count()
    made_by = {"compiler": compiler, "target": target}
    stored = json.loads(STORED.read_text(encoding="utf-8")) if STORED.exists() else {"cases": {}}
    lines = judge(stored["cases"], new)
    show(lines, console)
    if update:
        if target != "AVX2":
            sys.exit(f"not stored: these counts are of {target}, not of AVX2")
        STORED.write_text(json.dumps(made_by | {"cases": new}, indent=1) + "\n", encoding="utf-8")
        console.print(f"{len(new)} counts stored in {STORED.relative_to(bench.ROOT)}")
        return 0
    for key, value in made_by.items():
        if stored.get(key) != value:
            console.print(f"not judged: stored counts are of {key} {stored.get(key)}, these of {value}")
            return 0
    wrong = [line for line in lines if line[-1]]
    console.print(
        f"{len(wrong)} of {len(lines)} beyond {BAND:.0%}; if so wanted: ./dev bench instructions --update"
    )
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
