# SPDX-License-Identifier: Apache-2.0
"""The judgements of ./dev bench: what counts as moved, as enough, as more instructions. No timing."""

import io
import json
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
from rows import Row, parse  # noqa: E402

NAME = "grad/c/float32/std1/threads:1"


def row(low, x, high, name=NAME, ms=1.0, error=None):
    return Row(name, ms, x, low, high, floor_ms=ms / x, error=error)


@pytest.mark.parametrize(
    "old, new, change",
    [
        ((1.9, 2.0, 2.1), (2.3, 2.4, 2.5), 0.2),
        ((2.3, 2.4, 2.5), (1.9, 2.0, 2.1), -1 / 6),
        ((1.9, 2.0, 2.35), (2.3, 2.4, 2.5), 0),  # intervals overlap
        ((1.99, 2.0, 2.01), (2.07, 2.08, 2.09), 0),  # apart, but by less than LEAST
    ],
)
def test_moved(old, new, change):
    assert compare.moved(row(*old), row(*new)) == pytest.approx(change)


def document(*rows, processor="P"):
    """What Google Benchmark writes."""
    entries = []
    for r in rows:
        e = {"name": f"{r.name}/iterations:1/manual_time", "real_time": r.ms, "time_unit": "ms"}
        if r.error:
            e |= {"error_occurred": True, "error_message": r.error}
        else:
            e |= {"x": r.x, "x_low": r.low, "x_high": r.high, "floor_ms": r.floor_ms}
        entries.append(e)
    return {"context": {"processor": processor, "target": "AVX2", "compiler": "12"}, "benchmarks": entries}


def test_parse_gives_back_the_rows():
    rows = [row(1.9, 2.0, 2.1), row(2.9, 3.0, 3.1, name="forward/c/float32/std1/NCHW/threads:2")]
    assert parse(document(*rows))[1] == {r.name: r for r in rows}


def reported(tmp_path, old, new):
    for name, content in (("old", old), ("new", new)):
        (tmp_path / name).write_text(json.dumps(content))
    out = io.StringIO()
    return compare.report(tmp_path / "old", tmp_path / "new", Console(file=out, width=200)), out.getvalue()


def test_report_slower_and_faster(tmp_path):
    same, other = row(0.9, 1.0, 1.1, name="forward/a/float32/zero/threads:1"), "forward/b/float32/zero/threads:1"
    slow, quick = (1.9, 2.0, 2.1), (0.9, 1.0, 1.1)
    old = document(same, row(*quick), row(*slow, name=other))
    status, text = reported(tmp_path, old, document(same, row(*slow), row(*quick, name=other)))
    assert status == 1
    assert "+100%" in text and "-50%" in text and same.name not in text
    assert text.index(NAME) < text.index(other), "the worst first"
    assert "3 rows in both runs: 1 slower, 1 faster" in text
    status, text = reported(tmp_path, old, document(same, row(*quick), row(*quick, name=other)))
    assert status == 0 and "0 slower, 1 faster" in text


def test_report_failure_and_other_machine(tmp_path):
    status, text = reported(
        tmp_path, document(row(1.9, 2.0, 2.1)), document(row(0, 0.1, 0, error="scratch"), processor="Q")
    )
    assert status == 1 and "fails now" in text and "scratch" in text and "another processor" in text


def test_verdicts():
    assert [accept.verdict(f, 2.0) for f in (1.9, 2.0, 2.2, 2.31, float("nan"))] == ["ok", "ok", "slack", "over", "over"]


def two_threads(ms, x):
    """What accept says of a call that takes 1 ms on one thread."""
    (line,) = (ln for ln in required.lines() if ln.row == "grad/c/float32/dead/threads:2")
    rows = {line.base: row(2, 2, 2, ms=1.0), line.row: row(x, x, x, ms=ms)}
    return accept.judged(line, {None: rows})[3]


def test_two_threads_pass_by_time_or_by_floor():
    assert two_threads(ms=0.6, x=3.0) == "ok"  # 1.67 times as fast
    assert two_threads(ms=0.9, x=1.4) == "ok"
    assert two_threads(ms=0.7, x=3.0) == "slack"
    assert two_threads(ms=0.9, x=3.0) == "over"


def test_required_lines_name_cases_of_the_table():
    table = json.loads((ROOT / "tests" / "cases.json").read_text())["cases"]
    cases = {c["name"] for c in table if c.get("bench")}
    lines = required.lines()
    assert len({(ln.section, ln.row) for ln in lines}) == len(lines) > 100
    for line in lines:
        for name in [line.row] + [line.base] * bool(line.base):
            assert f"bench_{name.split('/')[1]}" in cases, name


@pytest.mark.parametrize(
    "was, now, wrong", [(1000, 1030, ""), (1000, 1031, "more"), (1000, 969, "fewer"), (1000, 970, "")]
)
def test_instructions_band(was, now, wrong):
    entry = lambda n, schedule="cpu.rows": {"schedule": schedule, "instructions": n}
    ((*_, said),) = instructions.judge({"case": entry(was)}, {"case": entry(now)})
    assert said == wrong
    ((*_, said),) = instructions.judge({"case": entry(was)}, {"case": entry(now, "cpu.taps")})
    assert said == "was cpu.rows"


def test_instructions_missing_and_new():
    entry = {"schedule": "cpu.rows", "instructions": 1}
    assert [line[-1] for line in instructions.judge({"old": entry}, {"new": entry})] == ["not stored", "no longer counted"]
