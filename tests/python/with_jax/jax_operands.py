# SPDX-License-Identifier: Apache-2.0
"""Cases of the table as JAX arrays, and the operators on them."""

import jax
import jax.numpy as jnp
import numpy as np

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
