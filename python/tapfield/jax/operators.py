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
    if not isinstance(deterministic, bool):
        raise TypeError(f"deterministic must be a bool but is {deterministic!r}")
    _check(x, offsets, **attributes)
    # Plain types: attributes are hashed, and 1 is True and 1.0 there.
    for name in ("ksize", "strides", "pads", "dilations"):
        attributes[name] = tuple(int(v) for v in attributes[name])
    attributes["deformable_groups"] = int(attributes["deformable_groups"])
    attributes["modulated"] = bool(attributes["modulated"])
    return forward.bind(x, offsets, **attributes, columns=columns, deterministic=deterministic)[0]


def _check(x, offsets, ksize, strides, pads, dilations, data_format, deformable_groups, modulated, border):
    """Raises what the NumPy function would. Of sizes that are symbols the calls themselves check what is left."""
    attributes = (ksize, strides, pads, dilations, data_format, deformable_groups, modulated, border)
    shapes = _numbers(x.shape, offsets.shape, attributes)
    without_memory = (np.broadcast_to(np.zeros((), t.dtype), s) for t, s in zip((x, offsets), shapes))
    _core.like_y(*without_memory, attributes, None)


def _numbers(x, offsets, attributes):
    """The shapes with numbers in the place of symbols: some for x's, for offsets' what then fits them."""
    symbols = lambda shape: [not isinstance(size, int) for size in shape]
    if not any(symbols(x) + symbols(offsets)):
        return x, offsets
    if len(x) != 4 or len(offsets) != 4:
        return tuple([0 if s else size for s, size in zip(symbols(t), t)] for t in (x, offsets))
    h, c = (2, 1) if attributes[4] == "NCHW" else (1, 3)
    for name, shape in dict(x=x, offsets=offsets).items():
        if not isinstance(shape[c], int):
            raise ValueError(f"{name} must have a number of channels but has shape {list(shape)}")
    any_x = {0: 1, h: 1 << 14, h + 1: 1 << 14}
    x_numbers = [any_x[i] if s else size for i, (s, size) in enumerate(zip(symbols(x), x))]
    ho, wo = _core.output_size(x_numbers[h : h + 2], attributes)
    fits = {0: x_numbers[0], h: ho, h + 1: wo}
    both = lambda i: isinstance(x[i], int) and isinstance(offsets[i], int)
    return x_numbers, [size if i == c or both(i) else fits[i] for i, size in enumerate(offsets)]


def _varying_alike(*arrays):
    """Under shard_map: the arrays as varying over the mesh axes that any of them varies over."""
    axes = [jax.typeof(a).manual_axis_type.varying for a in arrays]
    missing = [frozenset.union(*axes) - have for have in axes]
    return [jax.lax.pcast(a, tuple(m), to="varying") if m else a for a, m in zip(arrays, missing)]
