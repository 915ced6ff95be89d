# SPDX-License-Identifier: Apache-2.0
"""Exact results, and values that are not numbers. (Non-finite offsets are in the table: test_table.py.)"""

import dataclasses

import numpy as np
import pytest

import calls
from cases import BFLOAT16, DTYPES, FLOAT16, FLOAT32, LAYOUTS, Tensors, case_named, finfo
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


def halves(dtype):
    """Pairs whose products are exact in float32, many halfway between neighbours of a 16-bit dtype: normal
    ones, subnormal ones, and around the greatest."""
    info = finfo(dtype)
    ulp, least, most = float(info.eps), float(info.smallest_subnormal), float(info.max)
    k = np.arange(64)
    a = np.concatenate([1 + k * ulp, -1 - k * ulp, least * k, -least * k, most * (1 - k / 2 * ulp)])
    b = np.concatenate([np.full(128, 1.5), np.full(128, 0.5), 1 + k % 3 * 2 * ulp])
    return a.astype(dtype), b.astype(dtype)


@pytest.mark.parametrize("dtype", [FLOAT16, BFLOAT16], ids=str)
@pytest.mark.parametrize("which, row", [r for r in ROWS if r[0] != "grad_grad"])
def test_ties_round_to_even(which, row, dtype):
    """Products of two 16-bit numbers, one rounding: y = m x, grad_x = grad m, grad_offsets(mask) = grad x."""
    a, b = halves(dtype)
    with np.errstate(over="ignore"):
        want = (a.astype(np.float32) * b.astype(np.float32)).astype(dtype).astype(float)
    n = len(a)
    case = dataclasses.replace(case_named("pixel_1x1-open"), x=(n, 1, 1, 1))
    column = lambda v: v.reshape(n, 1, 1, 1)
    zero, one = np.zeros(n, dtype), np.ones(n, dtype)
    offsets = lambda mask: np.stack([zero, zero, mask], axis=-1).reshape(n, 1, 1, 3)
    masked = Tensors(column(a), offsets(b), column(a), None, None)
    paired = Tensors(column(b), offsets(one), column(a), None, None)
    for t, output in [(masked, 0), (paired, 1)] if which == "grad" else [(masked, 0)]:
        outputs = run(which, case, t, "NHWC", row)
        if outputs:
            got = outputs[output].reshape(n, -1)[:, -1].astype(float)
            np.testing.assert_array_equal(got, want, err_msg=calls.OUTPUTS[which][output])


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
