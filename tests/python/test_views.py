# SPDX-License-Identifier: Apache-2.0
"""Inputs of any strides are read in place, outputs of any strides are written fully and nowhere else."""

import numpy as np
import pytest

import calls
from cases import BFLOAT16, FLOAT32, FLOAT64, Tensors, case_named
from oracle import Oracle
from tolerance import check

ROWS = [(which, row) for which in calls.PASSES for row in [None, *calls.rows(which)]]
NAMES = ["c17_g1", "c16_g4", "c64_g1", "c64_g64", "all_attributes-open", "v1-open"]


def spaced(a):
    """Every second element of a buffer, along every axis."""
    buffer = np.zeros([2 * s for s in a.shape], a.dtype)
    view = buffer[tuple(slice(1, None, 2) for _ in a.shape)]
    view[...] = a
    return view


def shifted(a):
    """Dense, but one element past an allocation's start: aligned to its element only."""
    buffer = np.zeros(a.size + 1, a.dtype)
    view = buffer[1:].reshape(a.shape)
    view[...] = a
    return view


def permuted(*axes):
    return lambda a: np.ascontiguousarray(a.transpose(axes)).transpose(np.argsort(axes))


def reversed_along(*axes):
    def how(a):
        turn = tuple(slice(None, None, -1) if i in axes else slice(None) for i in range(a.ndim))
        return np.ascontiguousarray(a[turn])[turn]

    return how


def locked(a):
    a = a.copy()
    a.flags.writeable = False
    return a


def constant_along(*axes):
    """Other values, of stride 0."""
    return lambda a: np.broadcast_to(
        a[tuple(slice(0, 1) if i in axes else slice(None) for i in range(4))], a.shape
    )


VIEWS = {
    "spaced": spaced,
    "shifted": shifted,
    "channels_first": permuted(0, 3, 1, 2),
    "fortran": np.asfortranarray,
    "batch_innermost": permuted(1, 2, 3, 0),
    "transposed": permuted(0, 2, 1, 3),
    "all_reversed": reversed_along(0, 1, 2, 3),
    "channels_reversed": reversed_along(3),
    "rows_reversed": reversed_along(1),
    "read_only": locked,
    "one_image": constant_along(0),
    "one_pixel": constant_along(1, 2),
    "one_channel": constant_along(3),
    "one_value": constant_along(0, 1, 2, 3),
}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("which, row", ROWS)
def test_inputs(which, row, view, name):
    case = case_named(name)
    for dtype in (FLOAT32, BFLOAT16, FLOAT64)[: 3 if name == "c17_g1" else 2]:
        t = case.tensors(dtype).map(VIEWS[view])
        before = t.map(np.copy)
        outputs = calls.able(which, t, case.attributes("NHWC"), row) or ()
        sums = calls.truth(which, Oracle(t.x, t.offsets, **case.geometry), t)
        for output, got, want in zip(calls.OUTPUTS[which], outputs, sums):
            check(got, want, dtype, output)
        for f in Tensors.__dataclass_fields__:
            np.testing.assert_array_equal(getattr(t, f), getattr(before, f), err_msg=f"{f} was changed")


@pytest.mark.parametrize("which, row", ROWS)
@pytest.mark.parametrize("mixed", [0, 1])
def test_every_input_with_its_own_strides(which, row, mixed):
    case = case_named("c16_g4")
    views = list(VIEWS.values())
    t = case.tensors(FLOAT32)
    t = Tensors(
        *(
            views[(3 * i + 5 * mixed) % len(views)](getattr(t, f))
            for i, f in enumerate(Tensors.__dataclass_fields__)
        )
    )
    outputs = calls.able(which, t, case.attributes("NHWC"), row) or ()
    sums = calls.truth(which, Oracle(t.x, t.offsets, **case.geometry), t)
    for output, got, want in zip(calls.OUTPUTS[which], outputs, sums):
        check(got, want, FLOAT32, output)


SENTINEL = 123.0


def in_gaps(a, reverse):
    """A poisoned output of a's shape inside a buffer of sentinels: (buffer, view)."""
    buffer = np.full([3 * s + 1 for s in a.shape], SENTINEL, a.dtype)
    view = buffer[tuple(slice(1, 3 * s + 1, 3) for s in a.shape)]
    if reverse:
        view = view[:, ::-1, ::-1, ::-1]
    view[...] = np.nan
    return buffer, view


@pytest.mark.parametrize("reverse", [False, True], ids=["forwards", "backwards"])
@pytest.mark.parametrize("dtype", [FLOAT32, BFLOAT16], ids=str)
@pytest.mark.parametrize("name", [*NAMES, "dead-open", "scattered", "pads_large-open", "batch_0"])
@pytest.mark.parametrize("which, row", ROWS)
def test_outputs(which, row, name, dtype, reverse):
    """Poisoned outputs with gaps: every element is written, and the gaps keep their bytes."""
    case = case_named(name)
    t = case.tensors(dtype)
    dense = calls.call(which, case, t)
    buffers, views = zip(*(in_gaps(a, reverse) for a in dense))
    out = views[0] if which == "forward" else views
    if calls.able(which, t, case.attributes("NHWC") | {"out": out}, row) is None:
        return
    sums = calls.truth(which, Oracle(t.x, t.offsets, **case.geometry), t)
    for output, buffer, view, want in zip(calls.OUTPUTS[which], buffers, views, sums):
        check(view, want, dtype, output)
        view[...] = SENTINEL
        assert (buffer == SENTINEL).all(), f"{output} was written outside its elements"
