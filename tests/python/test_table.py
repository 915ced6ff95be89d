# SPDX-License-Identifier: Apache-2.0
"""Every case of the table, in every dtype and layout, by every row that can take it, against the oracle."""

import functools

import numpy as np
import pytest

import calls
from cases import BFLOAT16, CASES, DTYPES, FLOAT16, FLOAT32, LAYOUTS
from oracle import Oracle
from tolerance import check, check_elements

ROWS = {which: calls.rows(which) for which in calls.PASSES}


@functools.lru_cache(maxsize=2)
def known(case, dtype, offsets_dtype):
    t = case.tensors(dtype, offsets_dtype)
    return t, Oracle(t.x, t.offsets, **case.geometry)


@functools.lru_cache(maxsize=4)
def truth(which, case, dtype, offsets_dtype):
    t, oracle = known(case, dtype, offsets_dtype)
    return t, calls.truth(which, oracle, t)


def parameters(dtypes, layouts):
    """In an order that makes each truth once."""
    return [
        pytest.param(case, dtype, which, layout, row, id=f"{row}/{which}/{case.name}/{dtype}/{layout}")
        for case in CASES
        for dtype in dtypes
        for which in calls.PASSES
        for layout in layouts
        for row in ROWS[which]
    ]


def run(which, case, tensors, layout, row, **more):
    return calls.call(which, case, tensors, layout, row, run=calls.able, **more)


def compare(which, outputs, sums, dtype):
    for name, got, want in zip(calls.OUTPUTS[which], outputs or (), sums):
        check(got, want, dtype, name)


@pytest.mark.parametrize("case, dtype, which, layout, row", parameters(DTYPES, LAYOUTS))
def test_case(case, dtype, which, layout, row):
    t, sums = truth(which, case, dtype, dtype)
    outputs = run(which, case, t, layout, row)
    for got in outputs or ():
        assert got.dtype == dtype
    compare(which, outputs, sums, dtype)


@pytest.mark.parametrize("case, dtype, which, layout, row", parameters([FLOAT16, BFLOAT16], LAYOUTS[:1]))
def test_float32_offsets(case, dtype, which, layout, row):
    """16-bit x with float32 offsets; the gradients' dtypes are those of x and offsets."""
    t, sums = truth(which, case, dtype, FLOAT32)
    outputs = run(which, case, t, layout, row)
    if which != "forward" and outputs:
        assert [o.dtype for o in outputs[-2:]] == [dtype, FLOAT32]
    compare(which, outputs, sums, dtype)


@pytest.mark.parametrize("which, row", [(w, row) for w in ("grad", "grad_grad") for row in ROWS[w]])
@pytest.mark.parametrize("dtype", [FLOAT16, BFLOAT16], ids=str)
@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_float32_gradients(case, dtype, which, row):
    """Gradients, and cotangents of gradients, of 16-bit tensors in float32: nothing is rounded to 16 bits."""
    t = case.tensors(dtype, cotangents=FLOAT32)
    sums = calls.truth(which, known(case, dtype, dtype)[1], t)
    outputs = run(which, case, t, "NHWC", row, grad_x_dtype=np.float32, grad_offsets_dtype=np.float32)
    assert not outputs or [o.dtype for o in outputs[-2:]] == [FLOAT32, FLOAT32]
    compare(which, outputs, sums, dtype)


def test_every_row_can_take_some_case():
    """Guards against passing over a row everywhere."""
    for which in calls.PASSES:
        for row in ROWS[which]:
            assert any(run(which, c, c.tensors(FLOAT32), "NHWC", row) is not None for c in CASES), (
                which,
                row,
            )


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("which", calls.PASSES)
@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_magnitudes(case, which, dtype):
    """reference.magnitudes, from which bounds can be made, is the oracle's sum of |terms|."""
    t, sums = truth(which, case, dtype, dtype)
    outputs = calls.call(which, case, t, backend="reference.magnitudes")
    for name, got, want in zip(calls.OUTPUTS[which], outputs, sums):
        check_elements(got, want.of_magnitudes(), dtype, name)
