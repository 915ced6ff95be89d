# SPDX-License-Identifier: Apache-2.0
"""deform_conv2d for JAX, torchvision's operator: samples in columns, then a matrix product.

Its derivatives are those of the two. Columns are of the whole batch, Kh*Kw times the input where strides are 1.
"""

import operator

import jax
import jax.numpy as jnp
import numpy as np

from tapfield.convert import offsets_from_torchvision
from tapfield.jax.operators import samples


def deform_conv2d(
    input: jax.Array,
    offset: jax.Array,
    weight: jax.Array,
    bias: jax.Array | None = None,
    stride: int | tuple[int, int] = (1, 1),
    padding: int | tuple[int, int] = (0, 0),
    dilation: int | tuple[int, int] = (1, 1),
    mask: jax.Array | None = None,
    *,
    deterministic: bool = False,
) -> jax.Array:
    """torchvision.ops.deform_conv2d: deformable convolution v2, or v1 if mask is None.

    input    [N, C, H, W], T: float16, bfloat16, float32 or float64
    offset   [N, 2*G*Kh*Kw, Ho, Wo], T, or float32 where T has 16 bits; channel 2*l + {0: along H, 1: along W} for
             tap l of [G, Kh, Kw]; in pixels of input. G offset groups, as its shape says
    weight   [Co, C/groups, Kh, Kw], T
    bias     [Co], T
    stride, padding, dilation    an int, or one along H and one along W
    mask     [N, G*Kh*Kw, Ho, Wo], as offset; taken as it is, no sigmoid
    deterministic                as in deformable_offsets
    returns  [N, Co, Ho, Wo], T; 16-bit products are summed in float32

    Equivalent to lax.conv_general_dilated(deformable_offsets(input, offsets), weight, (Kh, Kw), "VALID",
    feature_group_count=groups) + bias with border "closed". Derivatives and errors: as deformable_offsets.
    """
    input, offset, weight = map(jnp.asarray, (input, offset, weight))
    bias, mask = (None if t is None else jnp.asarray(t) for t in (bias, mask))
    stride = _pair("stride", stride, 1)
    padding, dilation = _pair("padding", padding, 0), _pair("dilation", dilation, 1)
    offset_groups, groups = _checked(input, offset, weight, bias, mask, stride, padding, dilation)
    ksize = weight.shape[2:]
    if mask is not None:  # one of them may be float32 beside the other of 16 bits
        wider = max(offset.dtype, mask.dtype, key=lambda dtype: dtype.itemsize)
        offset, mask = offset.astype(wider), mask.astype(wider)
    layout = dict(ksize=ksize, deformable_groups=offset_groups, data_format="NCHW")
    columns = samples(
        input,
        offsets_from_torchvision(offset, mask, **layout),
        columns=True,
        strides=(1, 1, *stride),
        pads=(padding[0], padding[0], padding[1], padding[1]),
        dilations=(1, 1, *dilation),
        modulated=mask is not None,
        border="closed",
        deterministic=deterministic,
        **layout,
    )
    return _product(columns, weight, bias, groups)


def _product(columns, weight, bias, groups):
    """columns [N, Ho, Wo, Kh*Kw*C] by weight [Co, C/groups, Kh, Kw], plus bias [Co]: [N, Co, Ho, Wo]."""
    n, ho, wo, _ = columns.shape
    co, cg, kh, kw = weight.shape
    sums = dict(preferred_element_type=jnp.float32 if columns.dtype.itemsize == 2 else columns.dtype)
    if groups == 1:
        # Of two matrices, and turned round afterwards: XLA's CPU takes 2 to 3 times as long for one einsum.
        weight = weight.transpose(2, 3, 1, 0).reshape(kh * kw * cg, co)
        out = jnp.matmul(columns.reshape(n * ho * wo, kh * kw * cg), weight, **sums).reshape(n, ho, wo, co)
    else:
        columns = columns.reshape(n, ho, wo, kh * kw, groups, cg)
        weight = weight.reshape(groups, co // groups, cg, kh * kw)
        out = jnp.einsum("nhwkgc,gdck->nhwgd", columns, weight, **sums).reshape(n, ho, wo, co)
    if bias is not None:
        out = out + bias.astype(out.dtype)[None, None, None]
    return out.astype(columns.dtype).transpose(0, 3, 1, 2)


# ------ Checks

_DTYPES = jnp.float16, jnp.bfloat16, jnp.float32, jnp.float64


def _pair(name, given, least):
    """torch.nn's way: one int for both axes."""
    integer = lambda v: hasattr(v, "__index__") and not isinstance(v, (bool, np.bool))
    pair = (given, given) if integer(given) else given
    if not isinstance(pair, (tuple, list)) or not all(map(integer, pair)):
        raise TypeError(f"{name} must be an integer or 2 integers (along H, along W) but is {given!r}")
    pair = tuple(map(operator.index, pair))
    if len(pair) != 2 or not all(least <= v < 1 << 31 for v in pair):
        raise ValueError(f"{name} must be 2 integers of at least {least} (along H, along W) but is {given!r}")
    return pair


def _checked(input, offset, weight, bias, mask, stride, padding, dilation):
    """(offset groups, groups)."""
    shape = lambda t: list(t.shape)
    if input.dtype not in _DTYPES:
        raise TypeError(f"input must be float16, bfloat16, float32 or float64 but is {input.dtype}")
    ranks = dict(
        input=(input, "[N, C, H, W]"),
        offset=(offset, "[N, 2*offset_groups*Kh*Kw, Ho, Wo]"),
        weight=(weight, "[Co, C/groups, Kh, Kw]"),
        mask=(mask, "[N, offset_groups*Kh*Kw, Ho, Wo]"),
    )
    for name, (t, meaning) in ranks.items():
        if t is not None and t.ndim != 4:
            raise ValueError(f"{name} must have 4 dimensions {meaning} but has shape {shape(t)}")
    for name, t in dict(offset=offset, weight=weight, bias=bias, mask=mask).items():
        wider = name in ("offset", "mask") and input.dtype.itemsize == 2
        if t is not None and t.dtype != input.dtype and not (wider and t.dtype == jnp.float32):
            want = f"{input.dtype}, as input{', or float32' if wider else ''}"
            raise TypeError(f"{name} must be {want}, but is {t.dtype}")
    n, c, h, w = input.shape
    co, cg, kh, kw = weight.shape
    if any(map(_is_below_1, (c, h, w))):
        raise ValueError(f"input must have C, H and W of at least 1 but has shape {shape(input)}")
    if 0 in weight.shape:
        raise ValueError(f"weight must have no size of 0 but has shape {shape(weight)}")
    if c % cg:
        want = f"C/groups input channels for input's C = {c}"
        raise ValueError(f"weight must have {want} but has shape {shape(weight)}")
    groups, taps = c // cg, kh * kw
    if co % groups:
        want = f"a multiple of groups = {groups} output channels"
        raise ValueError(f"weight must have {want} but has shape {shape(weight)}")
    offset_groups = offset.shape[1] // (2 * taps)
    if not offset_groups or offset.shape[1] % (2 * taps):
        want = f"2*offset_groups*Kh*Kw channels, a multiple of {2 * taps},"
        raise ValueError(f"offset must have {want} but has shape {shape(offset)}")
    if c % offset_groups:
        raise ValueError(f"offset has {offset_groups} offset groups, which must divide input's C = {c}")
    ho, wo = (
        (size + 2 * pad - dil * (k - 1) - 1) // step + 1
        for size, pad, dil, k, step in zip((h, w), padding, dilation, (kh, kw), stride)
    )
    if _is_below_1(ho) or _is_below_1(wo):
        raise ValueError(
            f"weight's kernel {[kh, kw]} with dilation {list(dilation)} must fit the padded input, but input has shape "
            f"{shape(input)} and padding is {list(padding)}"
        )
    for name, t, planes, meaning in (("offset", offset, 2, "2*"), ("mask", mask, 1, "")):
        want = (n, planes * offset_groups * taps, ho, wo)
        if t is not None and t.shape != want:
            meaning = f"N, {meaning}offset_groups*Kh*Kw, Ho, Wo"
            raise ValueError(f"{name} must have shape {list(want)} ({meaning}) but has {shape(t)}")
    if bias is not None and bias.shape != (co,):
        raise ValueError(f"bias must have shape [{co}] (Co) but has {shape(bias)}")
    return offset_groups, groups


def _is_below_1(size):
    """False for a symbol."""
    return isinstance(size, int) and size < 1
