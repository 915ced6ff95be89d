# SPDX-License-Identifier: Apache-2.0
"""deform_conv2d against the oracle's samples and NumPy's products: values, gradients, dtypes, errors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tapfield.convert import offsets_from_torchvision, offsets_to_torchvision
from tapfield.jax import deform_conv2d

from jax_operands import check_derivatives
from layers import LAYERS
from oracle import Oracle


def tensors(layer, dtype="d", smooth=False):
    """input, offset, weight, bias, mask, grad; bias or mask None where there is none."""
    rng = np.random.default_rng(3)
    n, c, _, _ = layer.input
    taps = layer.offset_groups * layer.ksize[0] * layer.ksize[1]
    offset = layer.spread * rng.standard_normal((n, 2 * taps, *layer.output))
    if smooth:  # fractions in [1/4, 3/4]: off the kinks
        offset = np.floor(offset) + 0.25 + 0.5 * (offset - np.floor(offset))
    given = [
        rng.standard_normal(layer.input),
        offset,
        rng.standard_normal((layer.co, c // layer.groups, *layer.ksize)),
        rng.standard_normal(layer.co) if layer.bias else None,
        rng.standard_normal((n, taps, *layer.output)) if layer.modulated else None,
        rng.standard_normal((n, layer.co, *layer.output)),
    ]
    return [None if t is None else t.astype(dtype) for t in given]


all_layers = pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: layer.name)


def truth(layer, input, offset, weight, bias, mask, grad):
    """out and the gradients of <out, grad> in the order of the arguments, None for what is absent: each in long double,
    with its sum of |terms| and how many there are."""
    how = dict(ksize=layer.ksize, deformable_groups=layer.offset_groups)
    x, offsets = np.moveaxis(input, 1, 3), offsets_from_torchvision(offset, mask, **how)
    (ph, pw), (kh, kw), g = layer.padding, layer.ksize, layer.groups
    oracle = Oracle(
        x, offsets, ksize=layer.ksize, strides=layer.stride, pads=(ph, ph, pw, pw), dilations=layer.dilation,
        groups=layer.offset_groups, modulated=layer.modulated, border="closed",
    )  # fmt: skip
    y = oracle.forward(x)
    n, rows, columns, c = y.value.shape
    parts = lambda a: a.reshape(n, rows // kh, kh, columns // kw, kw, g, c // g)

    def products(y, w, d):  # of the layer: out, the gradients of y and of weight
        w = w.astype(np.longdouble).reshape(g, layer.co // g, c // g, kh, kw)
        d = d.astype(np.longdouble).reshape(n, g, layer.co // g, *grad.shape[2:])
        return (
            np.einsum("nhawbgc,gdcab->ngdhw", parts(y), w).reshape(grad.shape),
            np.einsum("ngdhw,gdcab->nhawbgc", d, w).reshape(y.shape),
            np.einsum("nhawbgc,ngdhw->gdcab", parts(y), d).reshape(weight.shape),
        )

    out, grad_y, grad_weight = products(y.value, weight, grad)
    size, size_y, size_weight = products(y.magnitude, abs(weight), abs(grad))
    if bias is not None:
        out, size = out + bias[:, None, None], size + abs(bias)[:, None, None]
    pixels, per_group = grad.size // layer.co, layer.co // g
    values, sizes = oracle.grad(grad_y, x), oracle.grad(size_y, abs(x))

    def of(name, sums, weight, bias):  # the gradients in the order of the arguments
        grad_x, grad_offsets = (getattr(s, name).astype(np.longdouble) for s in sums)
        grad_offset, grad_mask = offsets_to_torchvision(grad_offsets, modulated=layer.modulated, **how)
        return np.moveaxis(grad_x, 3, 1), grad_offset, weight, bias, grad_mask

    gradients = zip(
        of("value", values, grad_weight, grad.sum((0, 2, 3))),
        of("magnitude", sizes, size_weight, abs(grad).sum((0, 2, 3))),
        (None if t is None else per_group * t for t in of("terms", values, 4 * pixels, pixels)),
    )
    there = [t is not None for t in (input, offset, weight, bias, mask)]
    out = out, size, 4 * kh * kw * c // g + 1
    return out, [sums if here else None for here, sums in zip(there, gradients)]


def run(layer, input, offset, weight, bias, mask):
    return deform_conv2d(input, offset, weight, bias, mask=mask, **layer.how)


def near(got, want, size, terms, eps=2.0**-52, unit=0.0):
    """Products of up to five factors, added in whatever order: 4 eps * terms * the sum of |terms|, as in tolerance.py.
    unit: an ulp of 16 bits, for what is rounded to them: the samples or their gradient, and the result."""
    got = np.asarray(got)
    assert got.shape == want.shape
    assert (
        abs(got.astype("d") - want.astype("d")) <= ((4 * eps * terms + 2 * unit) * size).astype("d")
    ).all()


@all_layers
def test_values_and_gradients(layer):
    *given, grad = tensors(layer)
    out, gradients = truth(layer, *given, grad)
    got, back = jax.vjp(lambda *t: run(layer, *t), *given)
    near(got, *out)
    for g, want in zip(back(jnp.asarray(grad)), gradients):
        assert (g is None) == (want is None)
        if want is not None:
            near(g, *want)


@all_layers
def test_second_derivative(layer):
    *given, _ = tensors(layer, smooth=True)
    there = [i for i, t in enumerate(given) if t is not None]
    f = lambda *t: jnp.sin(run(layer, *(dict(zip(there, t)).get(i) for i in range(5))))
    arguments = [given[i] for i in there]
    check_derivatives(f, arguments, ["fwd", "rev"])
    first = jax.grad(lambda *t: f(*t).sum(), tuple(range(len(arguments))))
    check_derivatives(first, arguments, ["rev"])


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16, jnp.float32], ids=lambda d: d.__name__)
@pytest.mark.parametrize("offset_dtype", [None, jnp.float32], ids=["same", "float32"])
def test_dtypes(dtype, offset_dtype):
    """Samples and result are rounded once each; sums are made in float32."""
    layer = LAYERS[0]
    input, offset, weight, bias, mask, grad = tensors(layer, dtype)
    offset, mask = offset.astype(offset_dtype or dtype), mask.astype(offset_dtype or dtype)
    out, gradients = truth(layer, *(t.astype("d") for t in (input, offset, weight, bias, mask, grad)))
    got, back = jax.vjp(lambda *t: run(layer, *t), input, offset, weight, bias, mask)
    assert got.dtype == dtype
    rounding = dict(eps=2.0**-23, unit=0.0 if dtype == jnp.float32 else float(jnp.finfo(dtype).eps))
    near(got, *out, **rounding)
    for g, want, t in zip(back(jnp.asarray(grad)), gradients, (input, offset, weight, bias, mask)):
        assert g.dtype == t.dtype
        near(g, *want, **rounding)


def test_vmap_over_weights():
    layer = LAYERS[0]
    *given, grad = tensors(layer)
    weights = np.stack([given[2], 2 * given[2], -given[2]])
    got = jax.vmap(lambda w: run(layer, given[0], given[1], w, *given[3:]))(weights)
    for g, w in zip(got, weights):
        near(g, *truth(layer, given[0], given[1], w, *given[3:], grad)[0])


def test_strict_promotion():
    """JAX's strictest settings, with a mask of another dtype than offset's."""
    layer = LAYERS[0]
    input, offset, weight, bias, mask, _ = tensors(layer, jnp.bfloat16)
    with jax.numpy_rank_promotion("raise"), jax.numpy_dtype_promotion("strict"):
        got = run(layer, input, offset.astype("f"), weight, bias, mask)
        jax.grad(lambda b: run(layer, input, offset, weight, b, mask).sum())(bias)
    want = run(layer, input, offset.astype("f"), weight, bias, mask.astype("f"))
    assert got.dtype == jnp.bfloat16 and np.array_equal(got, want)


@pytest.mark.parametrize(
    "change, message",
    [
        (
            dict(input=np.zeros((2, 6, 7))),
            "input must have 4 dimensions [N, C, H, W] but has shape [2, 6, 7]",
        ),
        (
            dict(offset=np.zeros((2, 17, 9, 8))),
            "offset must have 2*offset_groups*Kh*Kw channels, a multiple of 18,",
        ),
        (
            dict(offset=np.zeros((2, 18, 9, 9))),
            "offset must have shape [2, 18, 9, 8] (N, 2*offset_groups*Kh*Kw,",
        ),
        (
            dict(offset=np.zeros((2, 72, 9, 8)), mask=None),
            "offset has 4 offset groups, which must divide input's C = 6",
        ),
        (
            dict(mask=np.zeros((2, 18, 9, 8))),
            "mask must have shape [2, 9, 9, 8] (N, offset_groups*Kh*Kw, Ho, Wo)",
        ),
        (dict(weight=np.zeros((4, 4, 3, 3))), "weight must have C/groups input channels for input's C = 6"),
        (dict(weight=np.zeros((4, 0, 3, 3))), "weight must have no size of 0 but has shape [4, 0, 3, 3]"),
        (dict(weight=np.zeros((5, 3, 3, 3))), "weight must have a multiple of groups = 2 output channels"),
        (
            dict(weight=np.zeros((4, 6, 9, 12)), offset=np.zeros((2, 216, 1, 1)), mask=None),
            "must fit the padded",
        ),
        (
            dict(input=np.zeros((2, 6, 0, 8))),
            "input must have C, H and W of at least 1 but has shape [2, 6, 0, 8]",
        ),
        (
            dict(stride=2**70),
            "stride must be 2 integers of at least 1 (along H, along W) but is 1180591620717411303424",
        ),
        (dict(stride=1.5), "stride must be an integer or 2 integers (along H, along W) but is 1.5"),
        (dict(padding=True), "padding must be an integer or 2 integers (along H, along W) but is True"),
        (dict(deterministic=1), "deterministic must be a bool but is 1"),
        (dict(bias=np.zeros(5)), "bias must have shape [4] (Co) but has [5]"),
        (dict(stride=0), "stride must be 2 integers of at least 1 (along H, along W) but is 0"),
        (dict(padding=(1, -1)), "padding must be 2 integers of at least 0 (along H, along W) but is (1, -1)"),
        (dict(dilation=(1, 1, 1)), "dilation must be 2 integers of at least 1"),
        (dict(weight=np.zeros((4, 6, 3, 3), "f")), "weight must be float64, as input, but is float32"),
        (dict(input=np.zeros((2, 6, 9, 8), "f2")), "offset must be float16, as input, or float32, but is"),
        (
            dict(input=np.zeros((2, 6, 9, 8), "i4")),
            "input must be float16, bfloat16, float32 or float64 but is int32",
        ),
    ],
    ids=lambda v: str(v)[:30] if isinstance(v, str) else "",
)
def test_errors(change, message):
    input, offset, weight, bias, mask, _ = tensors(LAYERS[0])
    given = dict(input=input, offset=offset, weight=weight, bias=bias, mask=mask, padding=1) | change
    with pytest.raises((ValueError, TypeError)) as caught:
        deform_conv2d(**given)
    assert message in str(caught.value)


def test_integers_of_numpy():
    *given, _ = tensors(LAYERS[0])
    got = deform_conv2d(*given[:4], mask=given[4], stride=np.int64(1), padding=[np.int32(1), 1])
    assert np.array_equal(got, run(LAYERS[0], *given))
