# SPDX-License-Identifier: Apache-2.0
"""deformable_offsets for JAX. Primitives: primitives.py; derivatives: derivatives.py; formulas: docs/operators.md."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from tapfield import _core
from tapfield.jax import derivatives  # noqa: F401  (registers them)
from tapfield.jax.primitives import forward


def deformable_offsets(
    x: jax.Array,
    offsets: jax.Array,
    *,
    ksize: Sequence[int],
    strides: Sequence[int],
    pads: Sequence[int],
    dilations: Sequence[int] = (1, 1, 1, 1),
    data_format: str = "NHWC",
    deformable_groups: int = 1,
    modulated: bool = True,
    border: str = "open",
    deterministic: bool = False,
) -> jax.Array:
    """y, the bilinear samples of x at base + offsets, times the mask; docs/operators.md, "Forward".

    x              [N, H, W, C], T: float16, bfloat16, float32 or float64
    offsets        [N, Ho, Wo, P*G*Kh*Kw], T, or float32 where T has 16 bits; planes [along W | along H | mask], each
                   [G, Kh, Kw]; in pixels of x
    deterministic  on a GPU: gradients have the same bits on every run. The CPU's always have
    returns        y [N, Ho*Kh, Wo*Kw, C], T

    With data_format "NCHW" the channel axis comes second. Attributes: help(tapfield). Differentiable twice, once of
    them in forward mode. Errors: ValueError, TypeError for a dtype or an argument of the wrong kind; when traced.
    """
    return samples(
        x,
        offsets,
        columns=False,
        ksize=ksize,
        strides=strides,
        pads=pads,
        dilations=dilations,
        data_format=data_format,
        deformable_groups=deformable_groups,
        modulated=modulated,
        border=border,
        deterministic=deterministic,
    )


def samples(x, offsets, *, columns, deterministic, **attributes):
    """y; with `columns` as rows for a matrix product, [N, Ho, Wo, Kh*Kw*C] in either data_format."""
    x, offsets = _varying_alike(jnp.asarray(x), jnp.asarray(offsets))
    if all(isinstance(size, int) for size in (*x.shape, *offsets.shape)):  # else checked when it runs
        _check(x, offsets, **attributes)
    # Plain types: attributes are hashed, and 1 is True and 1.0 there.
    attributes = {
        name: given
        if isinstance(given, str)
        else tuple(map(int, given))
        if isinstance(given, Sequence)
        else int(given)
        for name, given in attributes.items()
    }
    attributes["modulated"] = bool(attributes["modulated"])
    return forward.bind(x, offsets, **attributes, columns=columns, deterministic=bool(deterministic))[0]


def _check(x, offsets, ksize, strides, pads, dilations, data_format, deformable_groups, modulated, border):
    """Raises what the NumPy function would."""
    without_memory = (np.broadcast_to(np.zeros((), t.dtype), t.shape) for t in (x, offsets))
    attributes = (ksize, strides, pads, dilations, data_format, deformable_groups, modulated, border)
    _core.like_y(*without_memory, attributes, None)


def _varying_alike(*arrays):
    """Under shard_map: the arrays as varying over the mesh axes that any of them varies over."""
    types = [jax.typeof(a) for a in arrays]
    axes = [
        t.manual_axis_type.varying if hasattr(t, "manual_axis_type") else t.vma for t in types
    ]  # JAX < 0.10: vma
    missing = [frozenset.union(*axes) - have for have in axes]
    return [jax.lax.pcast(a, tuple(m), to="varying") if m else a for a, m in zip(arrays, missing)]
