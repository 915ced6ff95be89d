# SPDX-License-Identifier: Apache-2.0
"""The primitives are the library's operators: same bits as the NumPy functions, in columns too; shapes, vmap, errors,
threads. The values themselves are judged elsewhere."""

import functools
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tapfield
import tapfield.jax
from hypothesis import given, settings
from hypothesis import strategies as st
from tapfield import convert
from tapfield.jax import primitives
from tapfield.jax.primitives import _by_samples

import calls
from cases import CASES, DTYPES, LAYOUTS, case_named
from jax_operands import NAMES, OPERATORS, arrays, assert_same_bits, forward, in_columns, numpys

PRIMITIVES = dict(forward=primitives.forward, grad=primitives.grad, grad_grad=primitives.grad_grad)


def of_primitive(which, attributes, **more):
    """The attributes of a primitive."""
    tuples = {k: tuple(v) if isinstance(v, list) else v for k, v in attributes.items()}
    gg = dict(gg_x=True, gg_offsets=True) if which == "grad_grad" else {}
    return tuples | gg | dict(columns=False, deterministic=False) | more


def bind(which, inputs, attributes, **more):
    return PRIMITIVES[which].bind(*map(jnp.asarray, inputs), **of_primitive(which, attributes, **more))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("which", calls.PASSES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_same_bits_as_numpy(which, dtype, layout):
    for case in CASES if dtype == np.float32 else CASES[::4]:  # each is compiled
        inputs, attributes = arrays(which, case, dtype, layout), case.attributes(layout)
        assert_same_bits(bind(which, inputs, attributes), numpys(which, inputs, attributes))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("which", calls.PASSES)
def test_columns_are_the_samples_in_another_order(which, layout):
    """By the CPU's kernels, and as GPUs make them."""
    for case in [*CASES[::2], case_named("batch_0")]:
        inputs, attributes = arrays(which, case, np.float32, layout), case.attributes(layout)
        want = [*numpys(which, inputs, attributes)]
        if which != "forward":
            inputs[0] = in_columns(inputs[0], case, layout)
        if which != "grad":
            want[0] = in_columns(want[0], case, layout)
        assert_same_bits(bind(which, inputs, attributes, columns=True), want)
        if case in CASES[::8] or case.name == "batch_0":
            how = of_primitive(which, attributes, columns=True)
            assert_same_bits(_by_samples(PRIMITIVES[which], *map(jnp.asarray, inputs), **how), want)


@pytest.mark.parametrize("which", calls.PASSES)
def test_eager_and_jit(which):
    case = case_named("all_attributes-closed")
    inputs = arrays(which, case, np.float32)
    operator = functools.partial(OPERATORS[which], **case.attributes("NHWC"))
    want = numpys(which, inputs, case.attributes("NHWC"))
    assert_same_bits(operator(*inputs), want)
    assert_same_bits(jax.jit(operator)(*inputs), want)


@pytest.mark.parametrize("absent", ["gg_x", "gg_offsets"])
def test_absent_cotangents(absent):
    case = case_named("c6_g3")
    inputs, attributes = arrays("grad_grad", case, np.float64), case.attributes("NHWC")
    at = NAMES["grad_grad"].index(absent)
    given = [jnp.asarray(a) for i, a in enumerate(inputs) if i != at]
    got = primitives.grad_grad.bind(*given, **of_primitive("grad_grad", attributes, **{absent: False}))
    inputs[at] = None
    assert_same_bits(got, numpys("grad_grad", inputs, attributes))


@pytest.mark.parametrize("axes", [(0, 0), (1, None), (None, 2), (4, 0)])
def test_vmap(axes):
    case = case_named("c6_g3")
    x, offsets = arrays("forward", case, np.float32)
    many = lambda a, axis: a if axis is None else np.stack([a, a[::-1], 2 * a], axis)
    operator = lambda x, offsets: forward(x, offsets, **case.attributes("NHWC"))[0]
    batches = many(x, axes[0]), many(offsets, axes[1])
    got = jax.vmap(operator, in_axes=axes)(*batches)
    pick = lambda a, axis, i: a if axis is None else a.take(i, axis)
    want = [operator(*(pick(a, axis, i) for a, axis in zip(batches, axes))) for i in range(3)]
    assert_same_bits(got, map(np.asarray, want))
    loss = lambda x, offsets: jnp.sin(operator(x, offsets)).sum()
    got = jax.vmap(jax.grad(loss, (0, 1)), in_axes=axes)(*batches)
    for i in range(3):
        want = jax.grad(loss, (0, 1))(*(pick(a, axis, i) for a, axis in zip(batches, axes)))
        assert_same_bits([g[i] for g in got], map(np.asarray, want))


@settings(max_examples=30, deadline=None)
@given(
    n=st.integers(0, 2),
    size=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    ksize=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    strides=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    pads=st.tuples(*[st.integers(0, 2)] * 4),
    groups=st.integers(1, 3),
    modulated=st.booleans(),
    seed=st.integers(0, 99),
)
def test_any_shape(n, size, ksize, strides, pads, groups, modulated, seed):
    """The call is NumPy's, bit for bit, or both refuse it with the same words."""
    rng = np.random.default_rng(seed)
    attributes = dict(
        ksize=ksize, strides=(1, *strides, 1), pads=pads, deformable_groups=groups, modulated=modulated
    )
    x = rng.standard_normal((n, *size, 2 * groups)).astype("f")
    out = [(s + pads[2 * i] + pads[2 * i + 1] - ksize[i]) // strides[i] + 1 for i, s in enumerate(size)]
    channels = (3 if modulated else 2) * groups * ksize[0] * ksize[1]
    offsets = rng.standard_normal((n, *(max(o, 0) for o in out), channels)).astype("f")
    try:
        want = tapfield.deformable_offsets(x, offsets, **attributes)
    except ValueError as error:
        with pytest.raises(ValueError) as ours:
            tapfield.jax.deformable_offsets(x, offsets, **attributes)
        assert str(ours.value) == str(error)
    else:
        assert_same_bits(forward(x, offsets, **attributes), [want])


@pytest.mark.parametrize(
    "change",
    [
        dict(offsets=np.zeros((2, 5, 6, 26), "f")),
        dict(x=np.zeros((5, 6, 3), "f")),
        dict(x=np.zeros((2, 5, 6, 3), "d")),
        dict(x=np.zeros((2, 5, 6, 3), "i")),
        dict(ksize=[3]),
        dict(ksize=3),
        dict(ksize="33"),
        dict(ksize=[3.0, 3]),
        dict(strides=[1, 0, 1, 1]),
        dict(pads=[1, 1, 1, -1]),
        dict(deformable_groups=2),
        dict(deformable_groups="2"),
        dict(data_format="NHCW"),
        dict(border="half"),
        dict(border=1),
        dict(modulated=1),
        dict(ksize=[9, 3]),
        dict(ksize=[2**31, 2**31]),
    ],
    ids=lambda change: str(change)[:40],
)
@pytest.mark.parametrize("how", [lambda f: f, jax.jit], ids=["eager", "jit"])
def test_errors_are_the_librarys(change, how):
    case = case_named("c3_g1")
    x, offsets = arrays("forward", case, np.float32)
    given = dict(x=x, offsets=offsets) | case.attributes("NHWC") | change
    x, offsets = given.pop("x"), given.pop("offsets")
    with pytest.raises((ValueError, TypeError)) as numpys:
        tapfield.deformable_offsets(x, offsets, **given)
    with pytest.raises((ValueError, TypeError)) as ours:
        how(lambda x, offsets: tapfield.jax.deformable_offsets(x, offsets, **given))(x, offsets)
    assert type(ours.value) is type(numpys.value) and str(ours.value) == str(numpys.value)


PROGRAM = """
import hashlib, os, sys
import jax, numpy as np
rng = np.random.default_rng(0)
x, offsets = (rng.standard_normal(s, "f") for s in ((2, 64, 64, 32), (2, 64, 64, 27)))
warm = jax.jit(lambda x: x @ x.T)(x.reshape(-1, 32)).block_until_ready()
import tapfield.jax
threads = lambda: len(os.listdir("/proc/self/task"))
loss = lambda x, offsets: (tapfield.jax.deformable_offsets(
    x, offsets, ksize=(3, 3), strides=(1, 1, 1, 1), pads=(1, 1, 1, 1)) ** 2).sum()
f = jax.jit(jax.grad(loss, (0, 1))).lower(x, offsets).compile()
before = threads()
for _ in range(5):
    bits = b"".join(np.asarray(g).tobytes() for g in f(x, offsets))
print(hashlib.sha256(bits).hexdigest(), threads() - before)
"""


def test_runs_on_xlas_threads_with_the_same_bits_for_any_number():
    given = []
    for flags in "", "--xla_cpu_multi_thread_eigen=false", "--xla_force_host_platform_device_count=3":
        run = subprocess.run(
            [sys.executable, "-c", PROGRAM],
            capture_output=True,
            text=True,
            check=True,
            env=os.environ | {"XLA_FLAGS": flags},
        )
        given.append(run.stdout.split())
    assert given[0][1] == given[1][1] == "0", "tapfield made threads"
    assert len({bits for bits, _ in given}) == 1


def test_arrays_of_jax_through_numpys_functions():
    case = case_named("c3_g1")
    x, offsets = arrays("forward", case, np.float32)
    y = tapfield.deformable_offsets(jnp.asarray(x), jnp.asarray(offsets), **case.attributes("NHWC"))
    assert isinstance(y, jax.Array)
    assert_same_bits([y], [tapfield.deformable_offsets(x, offsets, **case.attributes("NHWC"))])


@pytest.mark.parametrize("transform", [jax.jit, jax.vmap, lambda f: jax.grad(lambda x: f(x).sum())])
def test_numpys_functions_inside_a_transformation(transform):
    case = case_named("c3_g1")
    x, offsets = arrays("forward", case, np.float32)
    with pytest.raises(
        TypeError, match="^x must be an array .*Tracer: inside JAX's transformations use tapfield.jax"
    ):
        transform(lambda x: tapfield.deformable_offsets(x, offsets, **case.attributes("NHWC")))(x)


def test_converters_give_arrays_of_jax():
    rng = np.random.default_rng(0)
    offset, mask, weight = (rng.standard_normal(s) for s in ((2, 18, 4, 5), (2, 9, 4, 5), (27, 3, 3, 3)))
    for data_format in LAYOUTS:
        how = dict(ksize=(3, 3), data_format=data_format)
        offsets = convert.offsets_from_torchvision(jnp.asarray(offset), jnp.asarray(mask), **how)
        assert isinstance(offsets, jax.Array)
        assert_same_bits([offsets], [convert.offsets_from_torchvision(offset, mask, **how)])
        assert_same_bits(convert.offsets_to_torchvision(offsets, **how), [offset, mask])
    assert_same_bits(
        convert.offset_conv_from_mmcv(jnp.asarray(weight), jnp.asarray(weight[:, 0, 0, 0])),
        convert.offset_conv_from_mmcv(weight, weight[:, 0, 0, 0]),
    )


def test_release_scratch():
    """Of 147,456 pixels with 9 taps each: enough that malloc gives it back to the system."""
    rng = np.random.default_rng(0)
    x, offsets = rng.standard_normal((1, 384, 384, 33), "f"), rng.standard_normal((1, 384, 384, 27), "f")
    how = dict(ksize=(3, 3), strides=(1, 1, 1, 1), pads=(1, 1, 1, 1))
    y, back = jax.vjp(lambda *t: tapfield.jax.deformable_offsets(*t, **how), x, offsets)
    jax.block_until_ready(back(y))
    resident = lambda: int(Path("/proc/self/statm").read_text().split()[1]) * 4096
    before = resident()
    tapfield.jax.release_scratch()
    assert before - resident() > 30e6


@pytest.mark.parametrize("how", ["disable_jit", "debug_nans"])
def test_debugging(how):
    case = case_named("c3_g1")
    x, offsets = arrays("forward", case, np.float32)
    operator = lambda x: tapfield.jax.deformable_offsets(x, offsets, **case.attributes("NHWC"))
    want = np.asarray(operator(x))
    if how == "disable_jit":
        with jax.disable_jit():
            assert_same_bits([operator(x)], [want])
    else:
        with jax.debug_nans(True):
            assert_same_bits([operator(x)], [want])
            with pytest.raises(FloatingPointError, match="deformable_offsets"):
                operator(np.full_like(x, np.inf))


def test_vmap_over_nothing():
    case = case_named("c3_g1")
    x, offsets = (np.zeros((0, *t.shape), "f") for t in arrays("forward", case, np.float32))
    operator = lambda *t: tapfield.jax.deformable_offsets(*t, **case.attributes("NHWC"))
    assert jax.vmap(operator)(x, offsets).shape == (0, *case.y)


SYMBOLIC = dict(x=("n", "h", 6, 3), offsets=("n", "h", 6, 27))


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(ksize=(3.5, 3)), "ksize must be a sequence of integers but is (3.5, 3)"),
        (dict(ksize=(3,)), "ksize must have 2 entries"),
        (dict(strides=(1, 0, 1, 1)), "strides must"),
        (dict(deformable_groups=1.5), "deformable_groups must be an integer but is 1.5"),
        (dict(deformable_groups=2), "deformable_groups must divide"),
        (dict(modulated="no"), "modulated must be a bool but is 'no'"),
        (dict(deterministic="no"), "deterministic must be a bool but is 'no'"),
        (dict(border="half"), "border must be"),
        (dict(data_format="NHCW"), "data_format must be"),
        (dict(offsets=("n", "h", 6, 26)), "offsets must have shape"),
        (dict(offsets=("n", "h", 7, 27)), "offsets must have shape"),
        (dict(x=("n", "h", 3)), "x must have 4 dimensions"),
        (dict(x=("n", "h", 6, "c")), "x must have a number of channels but has shape"),
        (dict(dtype="int32"), "x must be float16, bfloat16, float32 or float64 but is int32"),
    ],
    ids=str,
)
def test_errors_where_sizes_are_symbols(change, message):
    given = SYMBOLIC | case_named("c3_g1").attributes("NHWC") | change
    scope = jax.export.SymbolicScope()
    shapes = [
        jax.ShapeDtypeStruct(
            jax.export.symbolic_shape(", ".join(map(str, given.pop(name))), scope=scope),
            given.get("dtype", "float32"),
        )
        for name in ("x", "offsets")
    ]
    given.pop("dtype", None)
    with pytest.raises((ValueError, TypeError)) as caught:
        jax.eval_shape(lambda *t: tapfield.jax.deformable_offsets(*t, **given), *shapes)
    assert message in str(caught.value)


def test_lists_may_be_arrays():
    case = case_named("c3_g1")
    x, offsets = arrays("forward", case, np.float32)
    attributes = case.attributes("NHWC")
    arrays_of = {k: np.array(v) if isinstance(v, list) else v for k, v in attributes.items()}
    want = forward(x, offsets, **attributes)
    assert_same_bits(forward(x, offsets, **arrays_of), map(np.asarray, want))


def test_a_jaxlib_before_the_one_it_was_built_for():
    program = "import jaxlib; jaxlib.__version__ = '0.9.9'; import tapfield.jax"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert "ImportError: tapfield was built for jaxlib " in run.stderr
    assert "but 0.9.9 is installed: build again" in run.stderr
