# SPDX-License-Identifier: Apache-2.0
"""The NumPy interface on arrays of a GPU, as CuPy has them: on the CUDA backend's stand-in, whose device memory is
NumPy's. Needs TAPFIELD_CUDA_LIBRARY to name it."""

import sys
import types

import numpy as np
import pytest
import tapfield

CALL = dict(ksize=(3, 3), strides=(1, 1, 1, 1), pads=(1, 1, 1, 1))


class Array:
    """NumPy's array that says it is a GPU's."""

    __module__ = "like_cupy.arrays"
    asked = []

    def __init__(self, array, index=0):
        self.array, self.index = array, index

    def __dlpack_device__(self):
        return 2, self.index

    def __dlpack__(self, *, stream=None, max_version=None):
        self.asked.append(stream)
        return self.array.__dlpack__(max_version=max_version)


@pytest.fixture(autouse=True)
def like_cupy(monkeypatch):
    module = types.ModuleType("like_cupy")
    module.from_dlpack = None
    module.empty_like = lambda a, dtype, order, shape: Array(np.empty(shape, dtype, order), a.index)
    monkeypatch.setitem(sys.modules, "like_cupy", module)
    return module


def tensors():
    rng = np.random.default_rng(1)
    shapes = dict(
        grad=(2, 12, 15, 4),
        x=(2, 4, 5, 4),
        offsets=(2, 4, 5, 27),
        gg_x=(2, 4, 5, 4),
        gg_offsets=(2, 4, 5, 27),
    )
    return {name: rng.standard_normal(shape) for name, shape in shapes.items()}


@pytest.mark.parametrize("which", ["forward", "grad", "grad_grad"])
def test_results_are_on_the_gpu(which):
    names = dict(forward="x offsets", grad="grad x offsets", grad_grad="grad x offsets gg_x gg_offsets")[
        which
    ].split()
    operator = getattr(tapfield, "deformable_offsets" + {"forward": ""}.get(which, "_" + which))
    given = [tensors()[name] for name in names]
    Array.asked.clear()
    got, want = operator(*map(Array, given), **CALL), operator(*given, **CALL, backend="reference")
    got, want = ((a,) if which == "forward" else a for a in (got, want))
    for g, w in zip(got, want, strict=True):
        assert type(g) is Array and g.array.dtype == w.dtype
        # eps times the longest chain, at most 3 x 9 taps of 4 channels, times terms below 4^4 in size.
        np.testing.assert_allclose(g.array, w, rtol=0, atol=2.0**-52 * 108 * 4**4)
    assert set(Array.asked) == {1}, "the default stream"


def test_out_and_other_devices():
    t = tensors()
    x, offsets, y = Array(t["x"]), Array(t["offsets"]), Array(np.full((2, 12, 15, 4), np.nan))
    assert tapfield.deformable_offsets(x, offsets, **CALL, out=y) is y and np.isfinite(y.array).all()
    with pytest.raises(ValueError, match="^offsets must be on x's device cuda:0 but is on cpu:0$"):
        tapfield.deformable_offsets(x, t["offsets"], **CALL)
    with pytest.raises(ValueError, match="^offsets must be on x's device cuda:0 but is on cuda:1$"):
        tapfield.deformable_offsets(x, Array(t["offsets"], 1), **CALL)


def test_a_library_without_empty_like_is_told_to_bring_out(like_cupy):
    like_cupy.empty_like = lambda a: None
    with pytest.raises(TypeError, match="^out is required for arrays of like_cupy on a GPU"):
        tapfield.deformable_offsets(Array(tensors()["x"]), Array(tensors()["offsets"]), **CALL)
