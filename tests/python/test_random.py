# SPDX-License-Identifier: Apache-2.0
"""Random calls against the oracle: shapes, attributes, dtypes, strides of every tensor, offsets, rows.

A failure prints how to replay it. With CI set, the same calls are made on every run.
"""

import os

import numpy as np
from hypothesis import HealthCheck, assume, given, note, settings
from hypothesis import strategies as st

import calls
from cases import DTYPES, FLOAT32, LAYOUTS, Case, Tensors, finfo, from_layout, is_16bit, to_layout
from oracle import Oracle
from tolerance import check

settings.register_profile(
    "tapfield",
    deadline=None,
    max_examples=400,
    derandomize=bool(os.environ.get("CI")),
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large],
)
settings.load_profile("tapfield")

# Around the lengths of vectors and of unrolled blocks.
CHANNELS = st.one_of(st.integers(1, 9), st.sampled_from([15, 16, 17, 31, 32, 33, 48, 63, 64, 65]))
DENSE = 150_000  # limits the oracle's matrices
WORK = 60_000  # limits taps * channels


@st.composite
def geometries(draw):
    pair = lambda lo, hi: (draw(st.integers(lo, hi)), draw(st.integers(lo, hi)))
    groups = draw(st.sampled_from([1, 1, 2, 3, 4, 8, 16]))
    n, (h, w) = draw(st.integers(0, 3)), pair(1, 10)
    ksize, strides, dilations = pair(1, 4), pair(1, 3), pair(1, 3)
    pads = pair(0, 4) + pair(0, 4)
    case = Case(
        name="random",
        x=(n, h, w, groups * draw(CHANNELS)),
        ksize=ksize,
        strides=strides,
        pads=pads,
        dilations=dilations,
        groups=groups,
        modulated=draw(st.booleans()),
        border=draw(st.sampled_from(["open", "closed"])),
        row={"offsets": draw(recipes())},
    )
    assume(min(case.output) >= 1)
    taps = n * case.output[0] * case.output[1] * ksize[0] * ksize[1]
    assume(taps * groups * h * w <= DENSE and taps * case.x[3] <= WORK)
    return case


def recipes():
    plain = [
        {"kind": k}
        for k in ("zero", "flow", "integer", "border", "huge", "nonfinite", "one_cell", "columns", "dead")
    ]
    return st.one_of(
        st.sampled_from([0.1, 0.5, 2.0, 30.0]).map(lambda std: {"kind": "normal", "std": std}),
        st.sampled_from(plain),
    )


def views():
    """A random view of the same values: axes in any order in memory, some backwards, some with gaps."""
    return st.tuples(st.permutations(range(4)), st.tuples(*[st.sampled_from([1, 1, -1, 2, -3])] * 4))


def as_view(a, how):
    axes, steps = how
    buffer = np.full(
        [a.shape[i] * abs(steps[i]) for i in axes], np.nan, a.dtype
    )  # what is in gaps must not matter
    view = buffer.transpose(np.argsort(axes))[tuple(slice(None, None, s) for s in steps)]
    view[...] = a
    return view


def special(draw, a):
    """Some elements become zeros, least subnormals, or large."""
    flat = a.ravel().copy()
    for _ in range(draw(st.integers(0, 4)) if flat.size else 0):
        least = float(finfo(a.dtype).smallest_subnormal)
        flat[draw(st.integers(0, flat.size - 1))] = draw(
            st.sampled_from([0.0, -0.0, least, -least, 100.0, -1.0])
        )
    return flat.reshape(a.shape)


@given(st.data())
def test_random_calls(data):
    draw = data.draw
    case = draw(geometries())
    which, layout = draw(st.sampled_from(calls.PASSES)), draw(st.sampled_from(LAYOUTS))
    row = draw(st.sampled_from([None, None, *calls.rows(which)]))
    dtype = draw(st.sampled_from(DTYPES))
    offsets_dtype = draw(st.sampled_from([dtype, FLOAT32])) if is_16bit(dtype) else dtype
    t = case.tensors(dtype, offsets_dtype, seed=draw(st.integers(0, 2**32 - 1)))
    t = Tensors(special(draw, t.x), t.offsets, special(draw, t.grad), t.gg_x, special(draw, t.gg_offsets))
    passed = t.map(lambda a: as_view(to_layout(a, layout), draw(views())))
    more = {}
    if which == "grad" and draw(st.booleans()):
        more = {
            "grad_x_dtype": FLOAT32 if is_16bit(dtype) else dtype,
            "grad_offsets_dtype": FLOAT32 if is_16bit(offsets_dtype) else offsets_dtype,
        }
    outputs = calls.able(which, passed, case.attributes(layout) | more, row)
    note(f"{which} by {row} in {dtype} with {offsets_dtype} offsets, {layout}")
    sums = calls.truth(which, Oracle(t.x, t.offsets, **case.geometry), t)
    for name, got, want in zip(calls.OUTPUTS[which], outputs or (), sums):
        check(from_layout(got, layout), want, dtype, name)
