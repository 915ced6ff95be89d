# SPDX-License-Identifier: Apache-2.0
"""Arrays divided among devices, and exported programs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from tapfield.jax import deform_conv2d, deformable_offsets

from jax_operands import assert_same_bits

ATTRIBUTES = dict(ksize=(3, 3), strides=(1, 1, 1, 1), pads=(1, 1, 1, 1))


def tensors():
    rng = np.random.default_rng(0)
    return rng.standard_normal((8, 6, 7, 4)), rng.standard_normal((8, 6, 7, 27))


def f(x, offsets):
    return deformable_offsets(x, offsets, **ATTRIBUTES)


def first(x, offsets):
    return jax.grad(lambda *t: (f(*t) ** 2).sum(), (0, 1))(x, offsets)


def second(x, offsets):
    return jax.grad(lambda *t: sum((g**2).sum() for g in first(*t)), (0, 1))(x, offsets)


def tangent(x, offsets):
    return jax.jvp(f, (x, offsets), (x, offsets))[1]


FUNCTIONS = [f, first, second, tangent]


def as_list(out):
    return [np.asarray(o) for o in (out if isinstance(out, tuple) else (out,))]


def mesh(kind=AxisType.Auto):
    return jax.make_mesh((4,), ("d",), axis_types=(kind,))


@pytest.mark.parametrize("function", FUNCTIONS)
def test_divided_by_n_nothing_is_gathered(function):
    want = as_list(function(*tensors()))
    divided = [jax.device_put(t, NamedSharding(mesh(), P("d"))) for t in tensors()]
    compiled = jax.jit(function).lower(*divided).compile()
    got = compiled(*divided)
    assert_same_bits(as_list(got), want)
    for o in jax.tree.leaves(got):
        assert o.sharding.spec == P("d")
    assert "all-gather" not in compiled.as_text() and "f64[2," in compiled.as_text()


@pytest.mark.parametrize(
    "specs", [(P(), P("d")), (P(None, None, None, "d"), P()), (P(None, None), P(None, None, "d"))]
)
def test_divided_otherwise(specs):
    if specs[1] == P(None, None, "d"):  # of axes that 4 divides
        given = [np.repeat(t, 4, 2)[:, :, :28] for t in tensors()]
    else:
        given = tensors()
    divided = [jax.device_put(t, NamedSharding(mesh(), spec)) for t, spec in zip(given, specs)]
    for function in f, first:
        assert_same_bits(as_list(jax.jit(function)(*divided)), as_list(function(*given)))


@pytest.mark.parametrize("function", FUNCTIONS)
def test_explicit_shardings(function):
    want = as_list(function(*tensors()))
    with jax.set_mesh(mesh(AxisType.Explicit)):
        got = jax.jit(function)(*(jax.device_put(t, P("d")) for t in tensors()))
        assert jax.typeof(jax.tree.leaves(got)[0]).sharding.spec[0] == "d"
    assert_same_bits(as_list(got), want)


@pytest.mark.parametrize("spec", [P(None, None, None, "d"), P("d", None, None, None)])
def test_explicit_shardings_of_one_argument(spec):
    """The result is divided as x's N is, whatever else is."""
    x, offsets = tensors()
    with jax.set_mesh(mesh(AxisType.Explicit)):
        got = jax.jit(f)(jax.device_put(x, spec), jax.device_put(offsets, P()))
        assert jax.typeof(got).sharding.spec == P(spec[0], None, None, None)
    assert_same_bits(as_list(got), as_list(f(x, offsets)))


@pytest.mark.parametrize("function", FUNCTIONS)
def test_shard_map(function):
    divided = jax.shard_map(function, mesh=mesh(), in_specs=(P("d"), P("d")), out_specs=P("d"))
    assert_same_bits(as_list(jax.jit(divided)(*tensors())), as_list(function(*tensors())))


def test_shard_map_with_one_argument_for_all():
    """Its gradient is the sum over the devices."""
    x, offsets = tensors()
    offsets = offsets[:1]
    loss = lambda x, o: (f(x, jnp.broadcast_to(o, (len(x), *o.shape[1:]))) ** 2).sum()
    local = jax.shard_map(
        lambda x, o: loss(x, o)[None], mesh=mesh(), in_specs=(P("d"), P()), out_specs=P("d")
    )
    got = jax.jit(jax.grad(lambda x, o: local(x, o).sum(), (0, 1)))(x, offsets)
    want = jax.grad(loss, (0, 1))(x, offsets)
    assert_same_bits(got[:1], as_list(want[0]))
    assert abs(got[1] - want[1]).max() <= 8 * 2.0**-52 * abs(want[1]).max()  # 8 images in another order


def test_layer_divided_by_n():
    x, offsets = (np.moveaxis(t, 3, 1) for t in tensors())
    weight = np.ones((5, 4, 3, 3))
    layer = lambda x, offset, mask: deform_conv2d(x, offset, weight, padding=1, mask=mask)
    given = x, offsets[:, :18], offsets[:, 18:]
    divided = [jax.device_put(t, NamedSharding(mesh(), P("d"))) for t in given]
    got = jax.jit(layer)(*divided)
    assert got.sharding.spec[0] == "d"
    want = layer(*given)
    assert abs(got - want).max() <= 36 * 2.0**-52 * abs(want).max()  # the product's order is XLA's


# ------ Export


CALLS = [
    export.DisabledSafetyCheck.custom_call(f"tapfield_{name}") for name in ("forward", "grad", "grad_grad")
]


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("sizes", ["8, 6", "n, h"])
def test_export(function, sizes):
    x, offsets = tensors()
    n, h = export.symbolic_shape(sizes)
    shapes = [jax.ShapeDtypeStruct((n, h, *t.shape[2:]), t.dtype) for t in (x, offsets)]
    exported = export.export(jax.jit(function), disabled_checks=CALLS)(*shapes)
    again = export.deserialize(exported.serialize())
    assert_same_bits(as_list(tuple(jax.tree.leaves(again.call(x, offsets)))), as_list(function(x, offsets)))


@pytest.mark.parametrize("function", FUNCTIONS)
def test_lowered_for_a_gpu(function):
    """No GPU is needed to write the program; the layer's calls there are of whole samples."""
    text = export.export(jax.jit(function), platforms=["cuda"], disabled_checks=CALLS)(
        *tensors()
    ).mlir_module()
    assert "tapfield_" in text and "columns = false" in text
    x, offsets = (np.moveaxis(t, 3, 1) for t in tensors())
    layer = lambda x, o: deform_conv2d(x, o[:, :18], np.ones((5, 4, 3, 3)), padding=1, mask=o[:, 18:])
    for platform, columns in ("cuda", "false"), ("cpu", "true"):
        text = export.export(jax.jit(layer), platforms=[platform], disabled_checks=CALLS)(
            x, offsets
        ).mlir_module()
        assert f"columns = {columns}" in text
