# SPDX-License-Identifier: Apache-2.0
"""The NumPy interface's arguments: arrays of every make, attributes of every kind, and each message."""

import sys
import types

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tapfield
from door import ATTRIBUTES, DTYPES, INPUTS, PASSES, SHAPES
from door import assert_refused, assert_same, bfloat16, call, tensors

# ------ Other libraries' arrays


class Foreign:
    """Only what DLPack asks of an array; numpy's own, or as the arguments say."""

    def __init__(self, array, capsule=None, device=(1, 0)):
        self.array, self.capsule, self.device = array, capsule, device

    def __dlpack_device__(self):
        return self.device

    def __dlpack__(self, *, max_version=None, **how):
        return self.capsule() if self.capsule else self.array.__dlpack__(max_version=max_version, **how)


class Old(Foreign):
    """From before DLPack 1: knows no max_version."""

    def __dlpack__(self, *, stream=None):
        return self.array.__dlpack__()


class BFloat16(Foreign):
    def __dlpack__(self, **how):
        return tapfield._core.relabel_bfloat16(self.array.view("uint16").__dlpack__(**how))


def library(from_dlpack):
    """An array class of a library with this from_dlpack, and the library."""
    module = types.ModuleType("foreign_library")
    module.from_dlpack = from_dlpack
    return module, type("Array", (Foreign,), {"__module__": "foreign_library.arrays"})


@pytest.mark.parametrize("make", [Foreign, Old])
@pytest.mark.parametrize("which", PASSES)
def test_dlpack(which, make):
    inputs = tensors(which)
    before = [sys.getrefcount(a) for a in inputs.values()]
    got = call(which, {name: make(a) for name, a in inputs.items()})
    assert all(type(a) is np.ndarray for a in got)  # Foreign has no from_dlpack
    assert_same(got, call(which, inputs))
    assert [sys.getrefcount(a) for a in inputs.values()] == before, "a capsule was not freed"


def test_dlpack_views_and_read_only():
    inputs = tensors()
    want = call("forward", inputs)
    views = {name: np.flip(np.ascontiguousarray(np.flip(a, (0, 3))), (0, 3)) for name, a in inputs.items()}
    for a in views.values():
        a.flags.writeable = False
    assert_same(call("forward", {name: Foreign(a) for name, a in views.items()}), want)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("find", ["module", "__array_namespace__"])
def test_results_are_of_the_library_of_x(monkeypatch, dtype, find):
    """Handed over through its from_dlpack, which sees the right dtype and the result's own memory."""
    received = []

    def from_dlpack(array):
        received.append(array)
        return "array of the library"

    module, Array = library(from_dlpack)
    if find == "module":
        monkeypatch.setitem(sys.modules, module.__name__, module)
    else:
        Array.__array_namespace__ = lambda self: module
    inputs = tensors("grad", dtype)
    own = BFloat16 if dtype == bfloat16 else Foreign
    x = type("X", (Array, own), {"__dlpack__": own.__dlpack__})(inputs["x"])
    assert call("grad", {**inputs, "x": x}) == ("array of the library",) * 2
    for array, want in zip(received, call("grad", inputs)):
        shape_and_code = tapfield._core.like("result", Foreign(None, array.__dlpack__))
        assert shape_and_code == (want.shape, DTYPES.index(dtype))
        array = getattr(array, "bits", array)
        assert array.tobytes() == want.tobytes()


def test_dlpack_output():
    inputs, (want,) = tensors(), call("forward", tensors())
    y = np.zeros_like(want)
    out = Foreign(y)
    assert tapfield.deformable_offsets(*inputs.values(), **ATTRIBUTES, backend="reference", out=out) is out
    assert_same([y], [want])


@pytest.mark.parametrize("kind", ["read-only array", "read-only DLPack", "older DLPack", "copy"])
def test_output_that_must_not_be_written(kind):
    y = np.full(SHAPES["grad"], 77, "float32")
    if kind == "copy":
        out = Foreign(y, lambda: y.__dlpack__(max_version=(1, 0), copy=True))
    elif kind == "older DLPack":
        out = Old(y)
    else:
        y.flags.writeable = False
        out = y if kind == "read-only array" else Foreign(y)
    with pytest.raises(ValueError, match="^y is written but is read-only$"):
        call("forward", tensors(), out=out)
    assert (y == 77).all()


class RequiresGrad(Foreign):
    requires_grad = True


def fails():
    raise BufferError("no such luck")


@pytest.mark.parametrize(
    "make, error, message",
    [
        (RequiresGrad, ValueError, "x must not require grad: use tapfield.torch, which is differentiable, or its .detach()"),
        (lambda a: Foreign(a, device=(4, 0)), ValueError, "x must be on the CPU or a CUDA GPU but is on DLPack's device 4"),
        (lambda a: Foreign(a, fails), ValueError, "x must be readable through DLPack but its __dlpack__ failed: no such luck"),
        (lambda a: Foreign(a, lambda: 3), TypeError, "x must give a DLPack capsule from __dlpack__ but gives an int"),
        (lambda a: Foreign(a, device="cpu"), ValueError, "x must be readable through DLPack but its __dlpack__ failed: 'str' object cannot be interpreted as an integer"),
        (lambda a: Foreign(a.astype("int32")), TypeError, "x must be float16, bfloat16, float32 or float64 but is of another DLPack type"),
        (lambda a: a.astype("complex64"), TypeError, "x must be float16, bfloat16, float32 or float64 but is complex64"),
        (lambda a: a.astype("int64"), TypeError, "x must be float16, bfloat16, float32 or float64 but is int64"),
        (lambda a: a.astype(object), TypeError, "x must be float16, bfloat16, float32 or float64 but is object"),
        (lambda a: a.astype(ml_dtypes.float8_e5m2), TypeError, "x must be float16, bfloat16, float32 or float64 but is float8_e5m2"),
        (lambda a: a.astype(">f4"), ValueError, "x must be in native byte order but is dtype('>f4')"),
        (lambda a: a.tolist(), TypeError, "x must be an array (NumPy, or any that speaks DLPack 1.0) but is a list"),
        (lambda a: None, TypeError, "x must be an array (NumPy, or any that speaks DLPack 1.0) but is None"),
        (lambda a: memoryview(a), TypeError, "x must be an array (NumPy, or any that speaks DLPack 1.0) but is a memoryview"),
        (lambda a: a[0, 0, 0, 0], TypeError, "x must be an array (NumPy, or any that speaks DLPack 1.0) but is a numpy.float32"),
        (lambda a: a[0], ValueError, "x must have 4 dimensions (N, H, W, C) but has shape [5, 6, 4]"),
        (lambda a: a[..., None], ValueError, "x must have 4 dimensions (N, H, W, C) but has shape [2, 5, 6, 4, 1]"),
        (lambda a: a[0, 0, 0, 0, None][0:1].reshape(()), ValueError, "x must have 4 dimensions (N, H, W, C) but has shape []"),
        (lambda a: np.zeros((1,) * 20, "float32"), ValueError, "x must have 4 dimensions (N, H, W, C) but has shape [1, 1, 1, 1, 1, 1, 1, 1, ...]"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("which", PASSES)
def test_refused_x(which, make, error, message):
    inputs = tensors(which)
    inputs["x"] = make(inputs["x"])
    assert_refused(which, inputs, error, message)


@pytest.mark.parametrize("which", PASSES)
def test_every_array_is_named(which):
    for name in INPUTS[which]:
        message = f"{name} must be an array (NumPy, or any that speaks DLPack 1.0) but is a str"
        assert_refused(which, {**tensors(which), name: "abc"}, TypeError, message)


def test_strides_of_no_whole_elements():
    packed = np.zeros(SHAPES["x"], np.dtype([("a", "u1"), ("b", "f4")]))
    message = "x must have strides of whole elements (4 bytes) but has one of 5 bytes"
    assert_refused("forward", {**tensors(), "x": packed["b"]}, ValueError, message)


def test_memory_error_of_dlpack_stays():
    def full():
        raise MemoryError

    with pytest.raises(MemoryError):
        call("forward", {**tensors(), "x": Foreign(None, full)})


# ------ Attributes


class NoRepr:
    def __repr__(self):
        raise RuntimeError


@pytest.mark.parametrize(
    "change, error, message",
    [
        (dict(strides="abc"), TypeError, "strides must be a sequence of integers but is 'abc'"),
        (dict(strides=b"abcd"), TypeError, "strides must be a sequence of integers but is b'abcd'"),
        (dict(strides=None), TypeError, "strides must be a sequence of integers but is None"),
        (dict(strides={1, 2}), TypeError, "strides must be a sequence of integers but is {1, 2}"),
        (dict(strides=np.array(1)), TypeError, "strides must be a sequence of integers but is array(1)"),
        (dict(ksize=3), TypeError, "ksize must be a sequence of integers but is 3"),
        (dict(ksize=(3, True)), TypeError, "ksize must be a sequence of integers but is (3, True)"),
        (dict(ksize=NoRepr()), TypeError, "ksize must be a sequence of integers but is a NoRepr"),
        (dict(ksize=["a" * 100]), TypeError, "ksize must be a sequence of integers but is ['" + "a" * 78 + "..."),
        (dict(ksize=(3,)), ValueError, "ksize must have 2 entries (Kh, Kw) but is [3]"),
        (dict(pads=(1, 1, 0, 1.0)), TypeError, "pads must be a sequence of integers but is (1, 1, 0, 1.0)"),
        (dict(pads=(1,) * 9), ValueError, "pads must have 4 entries (top, bottom, left, right) but is [1, 1, 1, 1, 1, 1, 1, 1, ...]"),
        (dict(pads=[0, 0, 0, 2**63]), ValueError, "pads must fit 64 bits but is [0, 0, 0, 9223372036854775808]"),
        (dict(pads=[0, 0, 0, -(2**64)]), ValueError, "pads must fit 64 bits but is [0, 0, 0, -18446744073709551616]"),
        (dict(dilations=(1, 2, 3, "1")), TypeError, "dilations must be a sequence of integers but is (1, 2, 3, '1')"),
        (dict(dilations=(1, 2, 10**5000, 1)), ValueError, "dilations must fit 64 bits but is a tuple"),
        (dict(deformable_groups=2.0), TypeError, "deformable_groups must be an integer but is 2.0"),
        (dict(deformable_groups=True), TypeError, "deformable_groups must be an integer but is True"),
        (dict(deformable_groups=2**64), ValueError, "deformable_groups must fit 64 bits but is 18446744073709551616"),
        (dict(modulated=1), TypeError, "modulated must be a bool but is 1"),
        (dict(modulated="False"), TypeError, "modulated must be a bool but is 'False'"),
        (dict(data_format=None), TypeError, "data_format must be a str but is None"),
        (dict(data_format=b"NHWC"), TypeError, "data_format must be a str but is b'NHWC'"),
        (dict(data_format="nhwc"), ValueError, 'data_format must be "NHWC" or "NCHW" but is "nhwc"'),
        (dict(data_format="NHWC\0"), ValueError, r"data_format must be plain text but is 'NHWC\x00'"),
        (dict(data_format="\udc80"), ValueError, r"data_format must be plain text but is '\udc80'"),
        (dict(border=0), TypeError, "border must be a str but is 0"),
        (dict(border="none"), ValueError, 'border must be "open" or "closed" but is "none"'),
        (dict(backend=1), TypeError, "backend must be a str but is 1"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("which", PASSES)
def test_refused_attribute(which, change, error, message):
    assert_refused(which, tensors(which), error, message, **change)


def test_attributes_are_keyword_only():
    inputs = tensors()
    with pytest.raises(TypeError, match="positional"):
        tapfield.deformable_offsets(inputs["x"], inputs["offsets"], (3, 2), **ATTRIBUTES)
    with pytest.raises(TypeError, match="positional"):
        tapfield.output_size((5, 6), (3, 2), (1, 2, 1, 1), (1, 1, 0, 1))


@pytest.mark.parametrize("name", ["ksize", "strides", "pads"])
def test_required_attributes(name):
    rest = {key: value for key, value in ATTRIBUTES.items() if key != name}
    with pytest.raises(TypeError, match=f"missing .*'{name}'"):
        tapfield.deformable_offsets(*tensors().values(), **rest)


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.binary(max_size=5),
    lambda inner: st.lists(inner, max_size=5) | st.tuples(inner, inner) | st.tuples(*[inner] * 4),
    max_leaves=6,
)


@given(
    st.sampled_from(PASSES),
    st.sampled_from([*ATTRIBUTES, "data_format", "modulated", "border", "backend"]),
    ANYTHING | st.lists(st.integers(-2, 2**62), min_size=2, max_size=4),
)
def test_any_attribute_is_taken_or_refused(which, name, value):
    """Never another exception, a crash, or an array too large to make."""
    try:
        call(which, tensors(which), **{name: value})
    except (TypeError, ValueError) as error:
        assert str(error)
