# SPDX-License-Identifier: Apache-2.0
"""Arrays divided among devices, and exported programs."""

import re

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


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("specs", [(P("d"), P()), (P(), P("d")), (P(None, None, None, "d"), P())], ids=str)
def test_explicit_shardings_that_differ(specs, function):
    """y is divided as x's N is, a gradient as what it is the gradient of."""
    given, want = tensors(), as_list(function(*tensors()))
    with jax.set_mesh(mesh(AxisType.Explicit)):
        divided = [jax.device_put(t, spec) for t, spec in zip(given, specs)]
        got = jax.jit(function)(*divided)
        of_y = [P(*specs[0][:1], *[None] * (4 - len(specs[0][:1])))]
        expected = of_y if len(want) == 1 else [jax.typeof(t).sharding.spec for t in divided]
        assert [jax.typeof(o).sharding.spec for o in jax.tree.leaves(got)] == expected
    assert_same_bits(as_list(got), want)


@pytest.mark.parametrize("groups", [1, 2])
def test_layer_with_explicit_shardings(groups):
    x, offsets = (np.moveaxis(t, 3, 1) for t in tensors())
    weight = np.ones((6, 4 // groups, 3, 3))
    layer = lambda x, offset, w: deform_conv2d(x, offset, w, padding=1).sum()
    gradient = jax.grad(layer, (0, 1, 2))
    want = gradient(x, offsets[:, :18], weight)
    with jax.set_mesh(mesh(AxisType.Explicit)):
        got = jax.jit(gradient)(*(jax.device_put(t, P("d")) for t in (x, offsets[:, :18])), weight)
    for g, w in zip(got, want):  # a weight's element has 8*6*7 terms of up to 4, in an order of XLA's
        assert abs(np.asarray(g) - w).max() <= 2.0**-52 * 4 * 336 * abs(w).max()


def test_a_divided_batch_of_vmap():
    x, offsets = tensors()
    many = [np.stack([t[:2] + i for i in range(4)]) for t in (x, offsets)]
    compiled = (
        jax.jit(jax.vmap(f))
        .lower(*(jax.device_put(t, NamedSharding(mesh(), P("d"))) for t in many))
        .compile()
    )
    assert "all-gather" not in compiled.as_text()


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


def layer(x, offsets):
    x, offsets = (jnp.moveaxis(t, 3, 1) for t in (x, offsets))
    return deform_conv2d(x, offsets[:, :18], jnp.ones((5, 4, 3, 3)), padding=1, mask=offsets[:, 18:])


def layers_gradient(x, offsets):
    return jax.grad(lambda *t: layer(*t).sum(), (0, 1))(x, offsets)


@pytest.mark.parametrize("function", [layer, layers_gradient])
def test_export_of_a_layer(function):
    x, offsets = tensors()
    n, h = export.symbolic_shape("n, h")
    shapes = [jax.ShapeDtypeStruct((n, h, *t.shape[2:]), t.dtype) for t in (x, offsets)]
    exported = export.export(jax.jit(function), disabled_checks=CALLS)(*shapes)
    for got, want in zip(
        as_list(tuple(jax.tree.leaves(exported.call(x, offsets)))), as_list(function(x, offsets))
    ):
        assert abs(got - want).max() <= 45 * 4 * 2.0**-52 * abs(want).max()  # sums of up to 9*5 products


@pytest.mark.parametrize("function", [*FUNCTIONS, layer, layers_gradient])
def test_programs_for_other_machines(function):
    """No GPU is needed to write the program; a layer's calls there are of whole samples. There is none for a TPU."""
    write = lambda platform: export.export(jax.jit(function), platforms=[platform], disabled_checks=CALLS)(
        *tensors()
    )
    calls = lambda platform: re.findall(
        r"@(tapfield_\w+)\(.*columns = (true|false)", write(platform).mlir_module()
    )
    of_layer = function in (layer, layers_gradient)
    assert {name for name, _ in calls("cuda")} == {name for name, _ in calls("cpu")} != set()
    assert {columns for _, columns in calls("cuda")} == {"false"}
    assert {columns for _, columns in calls("cpu")} == {"true" if of_layer else "false"}
    with pytest.raises(NotImplementedError, match="deformable_offsets"):
        write("tpu")
