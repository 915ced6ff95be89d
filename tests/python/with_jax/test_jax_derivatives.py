# SPDX-License-Identifier: Apache-2.0
"""Derivatives in every mode that there is: bit for bit the library's passes where one pass is all, finite differences
off the kinks elsewhere; what there is none of raises."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tapfield.jax import deformable_offsets, primitives

import calls
from cases import CASES, LAYOUTS, case_named
from jax_operands import arrays, assert_same_bits, check_derivatives, grad, grad_grad, numpys, smooth

SMOOTH = ["c3_g1", "c6_g3", "all_attributes-closed", "v1_g4"]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_reverse_mode(layout):
    for case in CASES[::4]:
        attributes = case.attributes(layout)
        inputs = arrays("grad_grad", case, np.float32, layout)
        assert_same_bits(grad(*inputs[:3], **attributes), numpys("grad", inputs[:3], attributes))
        assert_same_bits(grad_grad(*inputs, **attributes), numpys("grad_grad", inputs, attributes))


@pytest.mark.parametrize("case", CASES[::4], ids=lambda case: case.name)
def test_forward_mode_is_the_second_derivatives(case):
    attributes = case.attributes("NHWC")
    c, x, offsets, gg_x, gg_offsets = inputs = arrays("grad_grad", case, np.float32)
    primals, tangents = (x, offsets), (gg_x, gg_offsets)
    want = numpys("grad_grad", inputs, attributes)
    operator = functools.partial(deformable_offsets, **attributes)
    assert_same_bits([jax.jvp(operator, primals, tangents)[1]], want[:1])
    moved = jax.jvp(lambda x, offsets: grad(c, x, offsets, **attributes), primals, tangents)[1]
    assert_same_bits(moved, want[1:])
    along = lambda x, offsets: jax.jvp(operator, (x, offsets), tangents)[1]
    assert_same_bits(jax.vjp(along, *primals)[1](c), want[1:])


@pytest.mark.parametrize("name", SMOOTH)
def test_finite_differences(name):
    case = case_named(name)
    x, offsets = smooth(case)
    f = lambda x, offsets: jnp.sin(deformable_offsets(x, offsets, **case.attributes("NHWC")))
    check_derivatives(f, (x, offsets), ["fwd", "rev"])
    first = lambda x, offsets: jax.grad(lambda *t: f(*t).sum(), (0, 1))(x, offsets)
    check_derivatives(first, (x, offsets), ["fwd", "rev"])
    tangent = lambda x, offsets: jax.jvp(f, (x, offsets), (jnp.cos(x), jnp.cos(offsets)))[1]
    check_derivatives(tangent, (x, offsets), ["rev"])


@pytest.mark.parametrize("only", [0, 1], ids=["x", "offsets"])
def test_one_argument_alone(only):
    case = case_named("c6_g3")
    t = smooth(case)
    f = lambda a: deformable_offsets(*(a if i == only else t[i] for i in (0, 1)), **case.attributes("NHWC"))
    loss = lambda a: jnp.sin(f(a)).sum()
    check_derivatives(loss, (t[only],), ["rev"])
    check_derivatives(jax.grad(loss), (t[only],), ["rev"])
    tangent = lambda a: jax.jvp(loss, (a,), (jnp.cos(a),))[1]
    check_derivatives(tangent, (t[only],), ["rev"])
    v = jnp.cos(t[only])
    forward_over_reverse = jax.jvp(jax.grad(loss), (t[only],), (v,))[1]
    reverse_over_reverse = jax.grad(lambda a: (jax.grad(loss)(a) * v).sum())(t[only])
    reverse_over_forward = jax.grad(lambda a: jax.jvp(loss, (a,), (v,))[1])(t[only])
    size = float(abs(forward_over_reverse).max())
    for other in reverse_over_reverse, reverse_over_forward:  # three orders of sums of up to 400 terms
        assert abs(other - forward_over_reverse).max() <= 400 * 2.0**-52 * 4 * size


def test_linear_in_x():
    """The transpose of y's map of x is grad_x; its own is y again."""
    case = case_named("c6_g3")
    x, offsets = smooth(case)
    f = lambda x: deformable_offsets(x, offsets, **case.attributes("NHWC"))
    back = lambda c: jax.vjp(f, x)[1](c)[0]
    c = jnp.cos(f(x))
    assert_same_bits(jax.vjp(back, c)[1](x), [np.asarray(jax.jvp(f, (x,), (x,))[1])])
    assert_same_bits(jax.linear_transpose(f, x)(c), [np.asarray(back(c))])


@pytest.mark.parametrize("only", [0, 1, None], ids=["grad_x", "grad_offsets", "both"])
def test_linear_in_the_cotangent(only):
    """The transpose of the gradient's map of it is y's tangent."""
    case = case_named("c6_g3")
    x, offsets = smooth(case)
    pick = lambda g: g if only is None else g[only]
    back = lambda c: pick(grad(c, x, offsets, **case.attributes("NHWC")))
    along = jnp.cos(x), jnp.cos(offsets)
    y, want = jax.jvp(
        lambda *t: deformable_offsets(*t, **case.attributes("NHWC")),
        (x, offsets),
        tuple(t if only in (i, None) else jnp.zeros_like(t) for i, t in enumerate(along)),
    )
    (got,) = jax.linear_transpose(back, y)(pick(along))
    # Of absent tangents no terms are added; the sums have 16.
    assert abs(got - want).max() <= 16 * 2.0**-52 * abs(want).max()


def test_16_bits_and_float32_offsets():
    case = case_named("c6_g3")
    t = case.tensors(np.dtype(jnp.bfloat16), np.dtype("f"))
    got = grad(t.grad, t.x, t.offsets, **case.attributes("NHWC"))
    assert [g.dtype for g in got] == [jnp.bfloat16, jnp.float32]
    assert_same_bits(got, calls.raw("grad", t, case.attributes("NHWC")))


def _third(f):
    return jax.grad(lambda x: jax.grad(lambda x: (jax.grad(lambda x: f(x).sum())(x) ** 2).sum())(x).sum())


@pytest.mark.parametrize(
    "derive",
    [
        lambda f, o: _third(lambda o: jnp.sin(f(o)))(o),
        lambda f, o: jax.jvp(lambda o: jax.jvp(f, (o,), (o,))[1], (o,), (o,)),
        lambda f, o: jax.jvp(lambda o: jax.jvp(jax.grad(lambda o: f(o).sum()), (o,), (o,))[1], (o,), (o,)),
    ],
    ids=["third", "tangent of a tangent", "tangent of a gradient's tangent"],
)
def test_what_there_is_none_of(derive):
    case = case_named("c3_g1")
    x, offsets = smooth(case)
    f = lambda offsets: deformable_offsets(x, offsets, **case.attributes("NHWC"))
    with pytest.raises(NotImplementedError, match="has a first and a second derivative"):
        derive(f, offsets)


@pytest.mark.parametrize("which", ["grad", "grad_grad"])
def test_primitives_refuse_what_they_cannot_derive(which):
    """Reached behind forward's refusal only; alone each must raise and not be silently wrong."""
    case = case_named("c3_g1")
    attributes = {k: tuple(v) if isinstance(v, list) else v for k, v in case.attributes("NHWC").items()}
    attributes |= dict(columns=False, deterministic=False)
    c, x, offsets, *gg = map(jnp.asarray, arrays("grad_grad", case, np.float64))
    if which == "grad":
        first = lambda o: jax.jvp(lambda o: primitives.grad.bind(c, x, o, **attributes), (o,), (offsets,))[1]
    else:
        first = lambda o: primitives.grad_grad.bind(c, x, o, *gg, gg_x=True, gg_offsets=True, **attributes)
    with pytest.raises(NotImplementedError, match="has a first and a second derivative"):
        jax.jvp(first, (offsets,), (offsets,))


def test_remat_and_scan():
    case = case_named("c3_g1")
    x, offsets = smooth(case)
    loss = lambda x, offsets: jnp.sin(deformable_offsets(x, offsets, **case.attributes("NHWC"))).sum()
    want = [np.asarray(g) for g in jax.jit(jax.grad(loss, (0, 1)))(x, offsets)]
    assert_same_bits(jax.jit(jax.grad(jax.checkpoint(loss), (0, 1)))(x, offsets), want)
    many = lambda x, offsets: jax.lax.scan(lambda s, o: (s + loss(x, o), None), 0.0, offsets[None])[0]
    assert_same_bits(jax.jit(jax.grad(many, (0, 1)))(x, offsets), want)
