# SPDX-License-Identifier: Apache-2.0
"""The NumPy interface: results, inputs read in place, outputs, threads and the rest."""

import ast
import re
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tapfield
from door import ATTRIBUTES, DTYPES, LIKE, OPERATORS, OUTPUTS, PASSES, SHAPES
from door import assert_same, bfloat16, call, sentinels, tensors

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
    out = (
        tuple(r[::2, ::-2, 1::2, ::2] for r in rooms)
        if kind == "strided"
        else [np.full_like(w, 77) for w in want]
    )
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
        (
            (None, None),
            TypeError,
            "grad_x must be an array (NumPy, or any that speaks DLPack 1.0) but is None",
        ),
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
    assert tapfield.output_size([5, 6], **attributes | dict(data_format="NCHW", strides=(1, 1, 2, 1))) == (
        3,
        6,
    )
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


def test_the_stub_names_what_the_module_has():
    package = Path(tapfield.__file__).parent
    stub = ast.parse((package / "_core.pyi").read_text())
    functions = {node.name for node in stub.body if isinstance(node, ast.FunctionDef)}
    assert functions | {"version"} == {name for name in dir(tapfield._core) if not name.startswith("_")}
    assert (package / "py.typed").exists()
