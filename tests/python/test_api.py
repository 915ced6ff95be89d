# SPDX-License-Identifier: Apache-2.0
"""What the NumPy interface adds to the C++ library: arguments of every kind, arrays of every make, outputs, errors.

Values are judged elsewhere; here they are compared bit for bit with another call of backend="reference", whose
arithmetic does not depend on strides.
"""

import importlib.metadata
import re
import sys
import threading
import time
import types
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

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
INPUTS = dict(forward=["x", "offsets"], grad=["grad", "x", "offsets"], grad_grad=["grad", "x", "offsets", "gg_x", "gg_offsets"])
OUTPUTS = dict(forward=["y"], grad=["grad_x", "grad_offsets"], grad_grad=["grad_grad", "grad_x", "grad_offsets"])
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


# ------ Results


def test_worked_example():
    """docs/operators.md, "A worked example"."""
    x = np.array([[1, 2], [3, 4]], "float32").reshape(1, 2, 2, 1)
    offsets, grad = np.zeros((1, 2, 2, 3), "float32"), np.zeros((1, 2, 2, 1), "float32")
    offsets[0, 0, 0], grad[0, 0, 0] = (0.25, 0.5, 2), 1
    attributes = dict(ksize=[1, 1], strides=[1, 1, 1, 1], pads=[0, 0, 0, 0])
    y = tapfield.deformable_offsets(x, offsets, **attributes)
    assert y.ravel().tolist() == [4.5, 0, 0, 0]
    grad_x, grad_offsets = tapfield.deformable_offsets_grad(grad, x, offsets, **attributes)
    assert grad_x.ravel().tolist() == [0.75, 0.25, 0.75, 0.25]
    assert grad_offsets[0, 0, 0].tolist() == [2, 4, 2.25] and not grad_offsets[0, 1].any()
    # The tangent of y along x itself is y, as y is linear in x.
    jvp, *_ = tapfield.deformable_offsets_grad_grad(grad, x, offsets, x, None, **attributes)
    assert jvp.ravel().tolist() == [4.5, 0, 0, 0]


@pytest.mark.parametrize("which", PASSES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_outputs_are_new_dense_and_of_the_inputs_dtype(which, dtype):
    inputs = tensors(which, dtype)
    outputs = call(which, inputs)
    for name, out in zip(OUTPUTS[which], outputs):
        assert out.dtype == dtype and out.shape == SHAPES[LIKE[name]] and out.flags.c_contiguous
    assert_same(outputs, [w.astype(dtype) for w in call(which, tensors(which, "float64"))])


@pytest.mark.parametrize("which", PASSES)
def test_nchw(which):
    inputs = tensors(which)
    nchw = {name: np.moveaxis(a, 3, 1) for name, a in inputs.items()}
    change = dict(data_format="NCHW", strides=(1, 1, 2, 1))
    assert_same([np.moveaxis(a, 1, 3) for a in call(which, nchw, **change)], call(which, inputs))
    assert all(a.flags.c_contiguous for a in call(which, nchw, **change))


@pytest.mark.parametrize("given", ["float32", np.float32, np.dtype("float32"), "torch"])
def test_gradients_dtypes_are_the_callers_choice(given):
    class TorchDtype:
        def __str__(self):
            return "torch.float32"

    given = TorchDtype() if given == "torch" else given
    inputs = tensors("grad", bfloat16)
    grad_x, grad_offsets = call("grad", inputs, grad_x_dtype=given)
    assert (grad_x.dtype, grad_offsets.dtype) == (np.float32, bfloat16)
    grad_x, grad_offsets = call("grad", inputs, grad_offsets_dtype=given)
    assert (grad_x.dtype, grad_offsets.dtype) == (bfloat16, np.float32)


def test_bfloat16_by_name():
    grad_x, _ = call("grad", tensors("grad", bfloat16), grad_x_dtype="bfloat16")
    assert grad_x.dtype == bfloat16


def test_attributes_of_many_kinds():
    inputs = tensors()
    change = dict(
        ksize=np.array([3, 2]),
        strides=[np.int64(1), 2, 1, 1],
        pads=np.array([1, 1, 0, 1], "uint8"),
        dilations=(1, 1, 1, np.int8(1)),
        deformable_groups=np.uint16(2),
        modulated=np.True_,
        data_format=np.str_("NHWC"),
    )
    assert_same(call("forward", inputs, **change), call("forward", inputs))


@pytest.mark.parametrize("which", PASSES)
def test_empty_batch(which):
    outputs = call(which, {name: a[:0] for name, a in tensors(which).items()})
    assert [a.shape for a in outputs] == [(0, *SHAPES[LIKE[name]][1:]) for name in OUTPUTS[which]]


def test_absent_cotangents_are_zero():
    inputs = tensors("grad_grad")
    for name in ("gg_x", "gg_offsets"):
        absent, zero = {**inputs, name: None}, {**inputs, name: np.zeros_like(inputs[name])}
        got, want = call("grad_grad", absent), call("grad_grad", zero)
        assert all(g.tobytes() == w.tobytes() for g, w in zip(got, want)) and want[0].any()


# ------ Inputs are read in place


@given(st.data())
def test_views(data):
    """Any order of axes in memory, any step, either direction."""
    inputs = tensors()
    want = call("forward", inputs)
    views = {}
    for name, a in inputs.items():
        order = data.draw(st.permutations(range(4)))
        steps = data.draw(st.lists(st.sampled_from([-3, -2, -1, 1, 2]), min_size=4, max_size=4))
        slices = tuple(slice(None, None, step) for step in steps)
        room = np.full([a.shape[axis] * abs(steps[axis]) for axis in order], np.nan, a.dtype)
        view = room.transpose(np.argsort(order))[slices]
        view[...] = a
        views[name] = view
    assert_same(call("forward", views), want)


@pytest.mark.parametrize("which", PASSES)
def test_read_only(which):
    inputs = tensors(which)
    want = call(which, inputs)
    for a in inputs.values():
        a.flags.writeable = False
    assert_same(call(which, inputs), want)


def test_broadcast_input_is_not_copied():
    """1 TiB of x, 16 pixels of which are touched."""
    x = np.broadcast_to(np.float32(3), (1, 1 << 19, 1 << 19, 1))
    offsets = np.zeros((1, 4, 4, 3), "float32")
    offsets[..., 2] = 1
    stride = 1 << 17
    y = tapfield.deformable_offsets(
        x, offsets, ksize=(1, 1), strides=(1, stride, stride, 1), pads=(0, 0, 0, 0), backend="reference"
    )
    assert y.shape == (1, 4, 4, 1) and (y == 3).all()


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
        (lambda a: Foreign(a, device=(2, 0)), ValueError, "x must be on the CPU but is on DLPack's device 2"),
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


def assert_refused(which, inputs, error, message, **change):
    """With and without out; what there is in out stays."""
    out = sentinels(which)
    for given_out in {"out": as_out(which, out)}, {}:
        with pytest.raises(error) as caught:
            call(which, inputs, **{**given_out, **change})
        assert type(caught.value) is error and str(caught.value) == message
    assert all((a == 77).all() for a in out)


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


# ------ Outputs


@pytest.mark.parametrize("which", PASSES)
@pytest.mark.parametrize("kind", ["dense", "strided", "float32"])
def test_out(which, kind):
    """Written in place, each element of it and no other, and returned itself."""
    inputs = tensors(which, "float16" if kind == "float32" else "float32")
    dtypes = {"grad_x_dtype": "float32", "grad_offsets_dtype": "float32"}
    change = dtypes if kind == "float32" and which != "forward" else {}
    want = call(which, inputs, **change)
    rooms = [np.full([2 * size for size in w.shape], 77, w.dtype) for w in want]
    out = tuple(r[::2, ::-2, 1::2, ::2] for r in rooms) if kind == "strided" else [np.full_like(w, 77) for w in want]
    got = OPERATORS[which](
        *inputs.values(), **ATTRIBUTES, backend="reference", out=out[0] if which == "forward" else out
    )
    for g, o in zip(got if which != "forward" else [got], out):
        assert g is o
    assert_same(out, want)
    if kind == "strided":
        for room, o in zip(rooms, out):
            o[...] = 77
            assert (room == 77).all(), "written between the elements"


@pytest.mark.parametrize(
    "out, error, message",
    [
        (np.zeros(3), TypeError, "out must be a tuple (grad_x, grad_offsets) but is of type ndarray"),
        ((np.zeros(3),), TypeError, "out must be a tuple (grad_x, grad_offsets) but is of type tuple of 1"),
        ((None, None), TypeError, "grad_x must be an array (NumPy, or any that speaks DLPack 1.0) but is None"),
        ("ab", TypeError, "out must be a tuple (grad_x, grad_offsets) but is of type str"),
    ],
)
def test_refused_pair(out, error, message):
    with pytest.raises(error) as caught:
        call("grad", tensors("grad"), out=out)
    assert str(caught.value) == message


def test_refused_output():
    inputs, y = tensors(), np.full(SHAPES["grad"], 77, "float32")
    for out, error, message in [
        (y[:1], ValueError, "y must have shape [2, 9, 12, 4] (N, Ho*Kh, Wo*Kw, C) but has [1, 9, 12, 4]"),
        (y.astype("float64"), TypeError, "y must be float32, as x is, but is float64"),
        ([y], TypeError, "y must be an array (NumPy, or any that speaks DLPack 1.0) but is a list"),
        (np.broadcast_to(y[:1], y.shape), ValueError, "y is written but is read-only"),
    ]:
        with pytest.raises(error) as caught:
            call("forward", inputs, out=out)
        assert type(caught.value) is error and str(caught.value) == message
    assert (y == 77).all()
    with pytest.raises(ValueError, match="^grad_x must not overlap x"):
        call("grad", tensors("grad") | {"x": (x := inputs["x"])}, out=(x, inputs["offsets"].copy()))


@pytest.mark.parametrize("name", ["grad_x", "grad_offsets"])
def test_refused_dtypes(name):
    inputs = tensors("grad")
    for dtype, error, message in [
        ("abc", TypeError, f"{name}_dtype must be a dtype but is 'abc'"),
        ("int32", TypeError, f"{name} must be float16, bfloat16, float32 or float64 but is int32"),
        ("float16", TypeError, f"{name} must be float32, as"),
    ]:
        with pytest.raises(error, match="^" + re.escape(message)):
            call("grad", inputs, **{name + "_dtype": dtype})
    with pytest.raises(ValueError, match=f"^{name}_dtype must be None beside out"):
        call("grad", inputs, out=sentinels("grad"), **{name + "_dtype": "float32"})


# ------ The rest


def test_the_gil_is_released():
    """This thread goes on while another is in the operator: it would stand still otherwise."""
    x = np.zeros((1, 256, 256, 32), "float64")
    offsets = np.zeros((1, 256, 256, 27), "float64")
    attributes = dict(ksize=(3, 3), strides=(1, 1, 1, 1), pads=(1, 1, 1, 1), backend="reference")
    y = np.empty((1, 768, 768, 32))
    began, ended, ticks = threading.Event(), threading.Event(), 0

    def run():
        began.set()
        tapfield.deformable_offsets(x, offsets, **attributes, out=y)
        ended.set()

    thread = threading.Thread(target=run)
    thread.start()
    began.wait()
    while not ended.is_set():
        time.sleep(0.001)
        ticks += 1
    thread.join()
    assert ticks >= 10


def test_threads():
    before = tapfield.get_num_threads()
    try:
        for n in (1, np.int32(3)):
            tapfield.set_num_threads(n)
            assert tapfield.get_num_threads() == n
        for n, error, message in [
            (0, ValueError, "n must be from 1 to 2147483647 but is 0"),
            (2**31, ValueError, "n must be from 1 to 2147483647 but is 2147483648"),
            (2**64, ValueError, "n must fit 64 bits but is 18446744073709551616"),
            (1.5, TypeError, "n must be an integer but is 1.5"),
        ]:
            with pytest.raises(error) as caught:
                tapfield.set_num_threads(n)
            assert str(caught.value) == message and tapfield.get_num_threads() == 3
    finally:
        tapfield.set_num_threads(before)


def test_release_scratch():
    inputs = tensors("grad")
    want = tapfield.deformable_offsets_grad(*inputs.values(), **ATTRIBUTES)
    tapfield.release_scratch()
    assert_same(tapfield.deformable_offsets_grad(*inputs.values(), **ATTRIBUTES), want)


def test_output_size():
    attributes = {key: value for key, value in ATTRIBUTES.items() if key != "deformable_groups"}
    assert tapfield.output_size((5, 6), **attributes) == (3, 6)
    assert tapfield.output_size([5, 6], **attributes | dict(data_format="NCHW", strides=(1, 1, 2, 1))) == (3, 6)
    with pytest.raises(TypeError, match="^size must be a sequence of integers but is 5$"):
        tapfield.output_size(5, **attributes)
    with pytest.raises(ValueError, match="^ksize must fit the padded input"):
        tapfield.output_size((1, 1), **attributes | dict(pads=(0, 0, 0, 0)))


def test_backends():
    backends = {b.name: b for b in tapfield.backends()}
    assert backends["cpu"].available and backends["reference"].available
    assert all(b._fields == ("name", "device", "available", "reason") and b.reason for b in backends.values())


def test_version():
    cmake = (Path(__file__).parents[2] / "CMakeLists.txt").read_text()
    assert f"project(tapfield VERSION {tapfield.__version__} " in cmake
