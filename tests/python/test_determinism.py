# SPDX-License-Identifier: Apache-2.0
"""The same bits on every run and for every number of threads, whatever scratch held before."""

import dataclasses
import json

import numpy as np
import pytest
import tapfield

import calls
from cases import BFLOAT16, FLOAT32, LAYOUTS, case_named, expand

ROWS = [
    (which, row) for which in calls.PASSES for row in calls.rows(which) if not row.startswith("reference")
]
THREADS = [1, 2, 3, 5]
NAMES = [
    "tiles",
    "flow",
    "strips_c64",
    "one_cell_g8",
    "one_cell_long",
    "one_row",
    "one_row_g8",
    "cann_grad_sample",
    "scattered_g4",
    "huge-open",
    "ho_wo_1",
    "wide",
    "tall",
    "batch_5",
]


def larger(name, x, **more):
    """A case of the table at a size that splits over threads."""
    row = json.loads(json.dumps(case_named(name).row)) | {"name": name + "_larger", "x": x} | more
    return expand(row)[0]


LARGER = [
    larger("c64_g1", [2, 40, 48, 64]),
    larger("c64_g8", [1, 70, 65, 64]),
    larger("c17_g17", [1, 60, 66, 17]),
    larger("flow", [1, 64, 72, 16]),
    larger("one_row", [1, 30, 40, 64]),
    larger("scattered", [1, 48, 50, 32], groups=4),
]


@pytest.fixture
def threads():
    before = tapfield.get_num_threads()
    yield tapfield.set_num_threads
    tapfield.set_num_threads(before)


def bits(outputs):
    return [np.ascontiguousarray(a).view(np.uint8) for a in outputs]


def assert_same(got, want, which, what):
    for name, a, b in zip(calls.OUTPUTS[which], got, want):
        assert (a == b).all(), f"{name}: {(a != b).sum()} bytes differ {what}"


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [FLOAT32, BFLOAT16], ids=str)
@pytest.mark.parametrize("case", [*map(case_named, NAMES), *LARGER], ids=lambda c: c.name)
@pytest.mark.parametrize("which, row", ROWS)
def test_same_bits(which, row, case, dtype, layout, threads):
    t = case.tensors(dtype)
    other = case_named("c17_g1")
    dirt = dataclasses.replace(other.tensors(dtype), x=np.full(other.x, np.nan, dtype))
    first = None
    for n in THREADS:
        threads(n)
        runs = [calls.call(which, case, t, layout, row, run=calls.able) for _ in range(2)]
        if None in runs:
            return  # test_table.py demands that each row can take some case
        once, twice = map(bits, runs)
        assert_same(once, twice, which, f"between two runs on {n} threads")
        first = first or once
        assert_same(once, first, which, f"between {n} threads and 1")
        calls.call(which, other, dirt, layout)  # leaves NaN in scratch


def test_the_cases_are_sensitive_to_order():
    """Guards the test above: summing in another order does change bits, so equal bits mean an equal order."""
    case = case_named("one_cell_long")
    t = case.tensors(FLOAT32)
    grad = t.grad.reshape(-1, t.grad.shape[-1]).astype(np.float32)
    assert (grad.cumsum(axis=0)[-1] != grad[::-1].cumsum(axis=0)[-1]).any()
