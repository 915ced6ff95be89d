# SPDX-License-Identifier: Apache-2.0
"""Cases of the table as JAX arrays, and the operators on them."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np

import calls
from cases import from_layout, to_layout
from tapfield.jax import deformable_offsets

NAMES = {"forward": ["x", "offsets"], "grad": ["grad", "x", "offsets"]}
NAMES["grad_grad"] = [*NAMES["grad"], "gg_x", "gg_offsets"]


def arrays(which, case, dtype, layout="NHWC"):
    """Inputs of a pass as NumPy arrays, in the order of its arguments."""
    t = case.tensors(np.dtype(dtype))
    return [to_layout(getattr(t, name), layout) for name in NAMES[which]]


def forward(x, offsets, **attributes):
    return (deformable_offsets(x, offsets, **attributes),)


def grad(c, x, offsets, **attributes):
    """Reverse mode."""
    return jax.vjp(lambda x, offsets: deformable_offsets(x, offsets, **attributes), x, offsets)[1](c)


def grad_grad(c, x, offsets, gg_x, gg_offsets, **attributes):
    """Reverse mode, of reverse mode."""
    return jax.vjp(lambda *t: grad(*t, **attributes), c, x, offsets)[1]((gg_x, gg_offsets))


OPERATORS = dict(forward=forward, grad=grad, grad_grad=grad_grad)


def smooth(case, seed=0):
    """float64 arrays of a case whose offsets have fractions in [1/4, 3/4]: off the kinks. x, offsets."""
    t = case.tensors(np.dtype(np.float64), seed=seed)
    offsets = t.offsets.copy()
    moved = offsets[..., : offsets.shape[-1] // case.planes * 2]
    moved[...] = np.floor(moved) + 0.25 + 0.5 * (moved - np.floor(moved))
    return jnp.asarray(t.x), jnp.asarray(offsets)


def numpys(which, inputs, attributes):
    """The same from the NumPy function, always a tuple."""
    out = calls.raw(which, SimpleNamespace(**dict(zip(NAMES[which], inputs))), attributes)
    return out if isinstance(out, tuple) else (out,)


STEP = 2e-5


def check_derivatives(f, arguments, modes):
    """f's derivatives, of float64 and off the kinks, beside central differences of STEP along a normal direction.

    Such a difference is off by a term in STEP^2, which one of twice the step shows three times over, and by the
    rounding of f: eps * terms of its largest value, over STEP. No sum here has more terms than 4 times the elements
    of the arguments: the corners of an image's samples.
    """
    leaves = lambda out: [np.asarray(o) for o in jax.tree.leaves(out)]
    rng = np.random.default_rng(0)
    along = [rng.standard_normal(a.shape) for a in arguments]
    at = lambda step: leaves(f(*(a + step * d for a, d in zip(arguments, along))))
    slope = lambda step: [(p - m) / (2 * step) for p, m in zip(at(step), at(-step))]
    rounding = 2.0**-52 * 4 * sum(a.size for a in arguments)
    near, far, values = slope(STEP), slope(2 * STEP), leaves(f(*arguments))
    bounds = [abs(b - a) + rounding * abs(v).max(initial=0) / STEP for a, b, v in zip(near, far, values)]
    if "fwd" in modes:
        for got, want, bound in zip(leaves(jax.jvp(f, tuple(arguments), tuple(along))[1]), near, bounds):
            assert (abs(got - want) <= bound).all()
    if "rev" in modes:
        out, back = jax.vjp(f, *arguments)
        c = [rng.standard_normal(v.shape) for v in values]
        products = [g * d for g, d in zip(back(jax.tree.unflatten(jax.tree.structure(out), c)), along)]
        error = abs(sum(p.sum() for p in products) - sum((w * d).sum() for w, d in zip(near, c)))
        size = sum(abs(p).sum() for p in products)
        assert error <= sum((abs(d) * b).sum() for d, b in zip(c, bounds)) + rounding * size


def assert_same_bits(got, want):
    for g, w in zip(got, want, strict=True):
        g = np.asarray(g)
        assert g.dtype == w.dtype and g.shape == w.shape
        assert np.array_equal(g.astype(float), np.asarray(w).astype(float), equal_nan=True)


def in_columns(a, case, layout="NHWC"):
    """y, or what has its shape, as rows for a matrix product: [N, Ho, Wo, Kh*Kw*C]."""
    (kh, kw), (ho, wo) = case.ksize, case.output
    a = from_layout(np.asarray(a), layout)
    n, _, _, c = a.shape
    return a.reshape(n, ho, kh, wo, kw, c).transpose(0, 1, 3, 2, 4, 5).reshape(n, ho, wo, kh * kw * c)
