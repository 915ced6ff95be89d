# SPDX-License-Identifier: Apache-2.0
"""Exact results, and values that are not numbers. (Non-finite offsets are in the table: test_table.py.)"""

import dataclasses

import numpy as np
import pytest

import calls
from cases import DTYPES, FLOAT16, FLOAT32, LAYOUTS, case_named
from oracle import Oracle
from tolerance import check

ROWS = [(which, row) for which in calls.PASSES for row in [None, *calls.rows(which)]]
EXACT = [
    "worked_example-open",
    "worked_example-closed",
    "trap_above_minus_one-open",
    "trap_above_minus_one-closed",
]


def run(which, case, t, layout, row):
    return calls.call(which, case, t, layout, row, run=calls.able) or ()


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("which, row", [r for r in ROWS if r[0] != "grad_grad"])
@pytest.mark.parametrize("name", EXACT)
def test_exact(name, which, row, dtype, layout):
    """The worked example of docs/operators.md, and the trap just above -1."""
    case = case_named(name)
    expect = dict(case.row["expect"])
    planes = expect.pop("grad_offsets")
    expect["grad_offsets"] = np.stack([planes["along_w"], planes["along_h"], planes["mask"]], axis=-1)
    t = case.tensors(dtype)
    for output, got in zip(calls.OUTPUTS[which], run(which, case, t, layout, row)):
        want = np.reshape(np.array(expect[output], float), got.shape).astype(dtype)
        np.testing.assert_array_equal(got.astype(float), want.astype(float), err_msg=output)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("which, row", ROWS)
def test_a_dead_tap_is_zero_whatever_it_holds(which, row, dtype):
    """Not a sign, not a NaN: exactly 0 everywhere, though masks, x and grad are all NaN."""
    case = case_named("dead-open")
    t = case.tensors(dtype)
    nan = lambda a: np.full_like(a, np.nan)
    p = case.planes
    offsets = np.concatenate(
        np.split(t.offsets, p, axis=-1)[:2] + [nan(np.split(t.offsets, p, axis=-1)[2])], axis=-1
    )
    t = dataclasses.replace(t.map(nan), offsets=offsets)
    for name, got in zip(calls.OUTPUTS[which], run(which, case, t, "NHWC", row)):
        assert (got == 0).all(), name


def planted(t, name, value, seed):
    """t with `value` in one element of a tensor; of offsets only in the mask plane."""
    a = getattr(t, name).copy()
    rng = np.random.default_rng(seed)
    flat = a.reshape(-1, a.shape[-1])
    first = flat.shape[1] * 2 // 3 if name == "offsets" else 0
    flat[rng.integers(len(flat)), rng.integers(first, flat.shape[1])] = value
    return dataclasses.replace(t, **{name: flat.reshape(a.shape)})


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf], ids=str)
@pytest.mark.parametrize("name", ["x", "grad", "offsets", "gg_x", "gg_offsets"])
@pytest.mark.parametrize("which, row", ROWS)
@pytest.mark.parametrize("case_name", ["c17_g1", "c16_g4", "c64_g8", "c64_g1"])
def test_non_finite_values_go_where_they_enter(case_name, which, row, name, value):
    """A NaN or infinity makes exactly the results that it enters non-finite, and changes no other."""
    case = case_named(case_name)
    for dtype, seed in [(FLOAT32, 0), (FLOAT16, 1)]:
        t = planted(case.tensors(dtype), name, value, seed)
        sums = calls.truth(which, Oracle(t.x, t.offsets, **case.geometry), t)
        bad = [np.isnan(s.value) for s in sums]
        assert not all(b.all() for b in bad)
        for layout in LAYOUTS:
            for output, got, want in zip(calls.OUTPUTS[which], run(which, case, t, layout, row), sums):
                check(got, want, dtype, f"{output} with {value} in {name}")


def test_planted_values_are_seen():
    """Guards the test above: most of what it plants enters some result."""
    case, seen = case_named("c17_g1"), 0
    for name in ["x", "grad", "offsets", "gg_x", "gg_offsets"]:
        t = planted(case.tensors(FLOAT32), name, np.nan, 0)
        sums = calls.truth("grad_grad", Oracle(t.x, t.offsets, **case.geometry), t)
        seen += any(np.isnan(s.value).any() for s in sums)
    assert seen >= 4
