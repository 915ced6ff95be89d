# SPDX-License-Identifier: Apache-2.0
"""One small call per pass, for the tests of the NumPy interface.

Values are judged elsewhere; there they are compared bit for bit with another call of backend="reference", whose
arithmetic does not depend on strides.
"""

import ml_dtypes
import numpy as np
import pytest

import tapfield

bfloat16 = np.dtype(ml_dtypes.bfloat16)
DTYPES = [np.dtype(t) for t in ("float16", bfloat16, "float32", "float64")]
PASSES = ["forward", "grad", "grad_grad"]

# x [2, 5, 6, 4], G = 2, 3x2 kernel: y [2, 9, 12, 4], offsets [2, 3, 6, 36].
ATTRIBUTES = dict(
    ksize=(3, 2), strides=(1, 2, 1, 1), pads=(1, 1, 0, 1), dilations=(1, 1, 1, 1), deformable_groups=2
)
SHAPES = dict(
    x=(2, 5, 6, 4), offsets=(2, 3, 6, 36), grad=(2, 9, 12, 4), gg_x=(2, 5, 6, 4), gg_offsets=(2, 3, 6, 36)
)
INPUTS = dict(
    forward=["x", "offsets"],
    grad=["grad", "x", "offsets"],
    grad_grad=["grad", "x", "offsets", "gg_x", "gg_offsets"],
)
OUTPUTS = dict(
    forward=["y"], grad=["grad_x", "grad_offsets"], grad_grad=["grad_grad", "grad_x", "grad_offsets"]
)
OPERATORS = dict(
    forward=tapfield.deformable_offsets,
    grad=tapfield.deformable_offsets_grad,
    grad_grad=tapfield.deformable_offsets_grad_grad,
)
LIKE = dict(y="grad", grad_grad="grad", grad_x="x", grad_offsets="offsets")  # an output's shape


def tensors(which="forward", dtype="float32"):
    """Inputs of a pass by name, random multiples of 1/4 in [-2, 2]: exact in every dtype."""
    rng = np.random.default_rng(7)
    return {name: (rng.integers(-8, 9, SHAPES[name]) / 4).astype(dtype) for name in INPUTS[which]}


def call(which, inputs, **change):
    """The pass on the reference backend; always a tuple of outputs."""
    out = OPERATORS[which](*inputs.values(), **{**ATTRIBUTES, "backend": "reference", **change})
    return out if isinstance(out, tuple) else (out,)


def sentinels(which, dtype="float32"):
    return tuple(np.full(SHAPES[LIKE[name]], 77, dtype) for name in OUTPUTS[which])


def as_out(which, outputs):
    return outputs[0] if which == "forward" else outputs


def assert_same(got, want):
    assert len(got) == len(want)
    for g, w in zip(got, want):
        assert g.dtype == w.dtype and g.shape == w.shape
        assert np.any(np.asarray(w, "float64") != 0), "an output of zeros shows nothing"
        assert g.tobytes() == w.tobytes()


def assert_refused(which, inputs, error, message, **change):
    """With and without out; what there is in out stays."""
    out = sentinels(which)
    for given_out in {"out": as_out(which, out)}, {}:
        with pytest.raises(error) as caught:
            call(which, inputs, **{**given_out, **change})
        assert type(caught.value) is error and str(caught.value) == message
    assert all((a == 77).all() for a in out)
