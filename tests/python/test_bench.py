# SPDX-License-Identifier: Apache-2.0
"""The judgements of ./dev bench: what counts as moved, as enough, as more instructions. No timing."""

import io
import json
import math
import sys
from pathlib import Path

import pytest
from rich.console import Console

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT / "bench"))

import accept  # noqa: E402
import compare  # noqa: E402
import instructions  # noqa: E402
import required  # noqa: E402
import rows as bench  # noqa: E402
from rows import Row  # noqa: E402

NAME, OTHER = "grad/c/float32/std1/threads:1", "forward/c/float32/std1/NCHW/threads:2"
SLOW, QUICK, WIDE = [1.9, 2.0, 2.2], [0.9, 1.0, 1.1], [1.0, 1.6, 2.0]


def row(x, ms=(1.0, 1.0, 1.0), error=None):
    ms = list(ms)
    return Row(list(x), ms, [m / r for m, r in zip(ms, x)], [math.nan] * len(ms), error)


@pytest.mark.parametrize(
    "old, new, change",
    [
        (QUICK, SLOW, 1.0),
        (SLOW, QUICK, -0.5),
        (WIDE, SLOW, 0),  # ranges overlap
        ([1.99, 2.0, 2.01], [2.07, 2.08, 2.09], 0),  # apart, but by less than LEAST
    ],
)
def test_moved(old, new, change):
    assert compare.moved(row(old), row(new)) == pytest.approx(change)


def document(**figures):
    """What Google Benchmark writes of one round."""
    entries = []
    for name, x in figures.items():
        e = {"name": f"{name}/iterations:1/manual_time", "real_time": 2.0, "time_unit": "ms"}
        e |= {"x": x, "floor_ms": 2.0 / x} if x else {"error_occurred": True, "error_message": "scratch"}
        entries.append(e)
    return {"context": {}, "benchmarks": entries}


def test_parse_gathers_rounds():
    rows = bench.parse(
        [document(a=None, b=2, c=None), document(a=1, b=4, c=None), document(a=2, b=8, c=None)]
    )
    assert rows["b"] == Row([2, 4, 8], [2.0] * 3, [1, 0.5, 0.25], rows["b"].outside_us)
    assert bench.middle(rows["a"].x) == 1.5 and rows["a"].error is None, "a failed round is left out"
    assert math.isnan(bench.middle(rows["c"].x)) and rows["c"].error == "scratch"


def reported(tmp_path, old, new, processor="P"):
    bench.save(tmp_path / "old", {"processor": "P"}, old)
    bench.save(tmp_path / "new", {"processor": processor}, new)
    out = io.StringIO()
    return compare.report(tmp_path / "old", tmp_path / "new", Console(file=out, width=200)), out.getvalue()


def test_report_slower_and_faster(tmp_path):
    old = {"same": row(QUICK), NAME: row(QUICK), OTHER: row(SLOW)}
    status, text = reported(tmp_path, old, {"same": row(QUICK), NAME: row(SLOW), OTHER: row(QUICK)})
    assert status == 1
    assert "+100%" in text and "-50%" in text and "same" not in text
    assert text.index(NAME) < text.index(OTHER), "the worst first"
    assert "3 rows in both: 1 slower, 1 faster" in text
    status, text = reported(tmp_path, old, {NAME: row(QUICK), OTHER: row(QUICK)})
    assert status == 0 and "2 rows in both: 0 slower, 1 faster" in text


def test_report_failure_and_other_machine(tmp_path):
    broken = row([math.nan] * 3, error="scratch")
    status, text = reported(tmp_path, {NAME: row(SLOW)}, {NAME: broken}, processor="Q")
    assert status == 1 and "fails now" in text and "scratch" in text and "another processor" in text


def test_verdicts():
    assert [accept.verdict(f, 2.0) for f in (1.9, 2.0, 2.2, 2.31, float("nan"))] == [
        "ok",
        "ok",
        "slack",
        "over",
        "over",
    ]


def two_threads(ms, x):
    """What accept says of a call that takes 1 ms on one thread."""
    (line,) = (ln for ln in required.lines() if ln.row == "grad/c/float32/dead/threads:2")
    return accept.judged(line, {None: {line.base: row([2] * 3), line.row: row([x] * 3, [ms] * 3)}})[3]


def test_two_threads_pass_by_time_or_by_floor():
    assert two_threads(ms=0.6, x=3.0) == "ok"  # 1.67 times as fast
    assert two_threads(ms=0.9, x=1.4) == "ok"
    assert two_threads(ms=0.7, x=3.0) == "slack"
    assert two_threads(ms=0.9, x=3.0) == "over"


def test_a_failed_row_is_over():
    line = required.lines()[0]
    assert accept.judged(line, {None: {line.row: row([math.nan] * 3, error="scratch")}})[3:] == (
        "over",
        line.row,
        "scratch",
    )


def test_required_lines_name_cases_of_the_table():
    table = json.loads((ROOT / "tests" / "cases.json").read_text())["cases"]
    cases = {c["name"] for c in table if c.get("bench")}
    lines = required.lines()
    assert len({(ln.section, ln.row) for ln in lines}) == len(lines) > 100
    for line in lines:
        for name in [line.row] + [line.base] * bool(line.base):
            assert f"bench_{name.split('/')[1]}" in cases, name


@pytest.mark.parametrize(
    "was, now, wrong", [(1000, 1029, ""), (1000, 1031, "more"), (1000, 969, "fewer"), (1000, 971, "")]
)
def test_instructions_band(was, now, wrong):
    entry = lambda n, schedule="cpu.rows": {"schedule": schedule, "instructions": n}
    ((*_, said),) = instructions.judge({"case": entry(was)}, {"case": entry(now)})
    assert said == wrong
    ((*_, said),) = instructions.judge({"case": entry(was)}, {"case": entry(now, "cpu.taps")})
    assert said == "was cpu.rows"


def test_instructions_missing_and_new():
    entry = {"schedule": "cpu.rows", "instructions": 1}
    assert [line[-1] for line in instructions.judge({"old": entry}, {"new": entry})] == [
        "not stored",
        "no longer counted",
    ]
