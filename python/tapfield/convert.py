# SPDX-License-Identifier: Apache-2.0
"""Other libraries' layouts to tapfield's and back; docs/operators.md, "Other libraries".

For NumPy, PyTorch and JAX arrays alike: nothing is used but slices and the array's own concat, stack, reshape
and moveaxis, so that gradients flow through. L = deformable_groups*Kh*Kw is the number of taps of one output
pixel, in the order [deformable_groups, Kh, Kw]. Errors are ValueErrors that name the argument.

torchvision, mmcv, Paddle and ONNX: `offset` [N, 2*L, Ho, Wo], channel 2*l + {0: along H, 1: along W} for
tap l, and `mask` [N, L, Ho, Wo] or none. tapfield: one tensor with the planes [along W | along H | mask], the
last one only if modulated. A convolution that is to equal torchvision's also needs border="closed".
"""

import sys

import numpy as np


def namespace_of(array):
    """The module with the functions for this array: numpy, torch, jax.numpy; numpy if it has none."""
    if hasattr(array, "__array_namespace__"):
        return array.__array_namespace__()
    for cls in type(array).__mro__:
        module = sys.modules.get(cls.__module__.partition(".")[0])
        if hasattr(module, "from_dlpack"):
            return module
    return np


def offsets_from_torchvision(offset, mask=None, *, ksize, deformable_groups=1, data_format="NHWC"):
    """The offsets of torchvision's deform_conv2d as tapfield's; modulated is `mask is not None`.

    offset   [N, 2*L, Ho, Wo]
    mask     [N, L, Ho, Wo], or None
    returns  [N, Ho, Wo, P*L], or [N, P*L, Ho, Wo] if data_format is "NCHW"; P = 3, or 2 without a mask
    """
    taps = _taps(ksize, deformable_groups)
    n, ho, wo = _sizes("offset", offset, "NCHW", 2 * taps, "2*G*Kh*Kw")
    if mask is not None and tuple(mask.shape) != (n, taps, ho, wo):
        want = f"[{n}, {taps}, {ho}, {wo}] (N, G*Kh*Kw, Ho, Wo)"
        raise ValueError(f"mask must have shape {want} but has {list(mask.shape)}")
    planes = [offset[:, 1::2], offset[:, 0::2]] + ([] if mask is None else [mask])
    xp, axis = namespace_of(offset), _channel_axis(data_format)
    return xp.concat([xp.moveaxis(plane, 1, axis) for plane in planes], axis=axis)


def offsets_to_torchvision(offsets, *, ksize, deformable_groups=1, modulated=True, data_format="NHWC"):
    """tapfield's offsets as torchvision's (offset, mask); the mask is None if not modulated.

    offsets  [N, Ho, Wo, P*L], or [N, P*L, Ho, Wo] if data_format is "NCHW"; P = 3 if modulated, else 2
    returns  (offset [N, 2*L, Ho, Wo], mask [N, L, Ho, Wo] or None)
    """
    taps, planes = _taps(ksize, deformable_groups), 3 if modulated else 2
    n, ho, wo = _sizes("offsets", offsets, data_format, planes * taps, f"{planes}*G*Kh*Kw")
    xp = namespace_of(offsets)
    offsets = xp.moveaxis(offsets, _channel_axis(data_format), 1)
    along_w, along_h = offsets[:, :taps], offsets[:, taps : 2 * taps]
    offset = xp.reshape(xp.stack([along_h, along_w], axis=2), (n, 2 * taps, ho, wo))
    return offset, offsets[:, 2 * taps :] if modulated else None


def pads_from_onnx(pads):
    """ONNX's (top, left, bottom, right) as tapfield's (top, bottom, left, right)."""
    top, left, bottom, right = _four_pads(pads)
    return top, bottom, left, right


def pads_to_onnx(pads):
    """tapfield's (top, bottom, left, right) as ONNX's (top, left, bottom, right)."""
    top, bottom, left, right = _four_pads(pads)
    return top, left, bottom, right


def offset_conv_from_mmcv(weight, bias=None, *, ksize=None, deformable_groups=1):
    """The convolution that makes offsets and mask, as mmcv's ModulatedDeformConv2dPack stores it, permuted.

    Its output is chunked in three, (o1, o2, mask), where (o1, o2) together are torchvision's interleaved
    offset. The output channels are put into the order [along W | along H | mask], so that the output is
    tapfield's offsets once its last third has gone through the sigmoid.

    weight   [3*L, Cin, kh, kw] of the offset convolution
    bias     [3*L], or None
    ksize    Kh, Kw of the deformable convolution, to check L with; None: not checked
    returns  (weight, bias), permuted
    """
    channels = weight.shape[0]
    if channels % 3 or not channels:
        raise ValueError(f"weight must have 3*G*Kh*Kw output channels but has shape {list(weight.shape)}")
    if ksize is not None and channels != 3 * (taps := _taps(ksize, deformable_groups)):
        want = f"{3 * taps} output channels (3*G*Kh*Kw)"
        raise ValueError(f"weight must have {want} but has shape {list(weight.shape)}")
    if bias is not None and tuple(bias.shape) != (channels,):
        raise ValueError(f"bias must have shape [{channels}] (3*G*Kh*Kw) but has {list(bias.shape)}")
    xp, pairs = namespace_of(weight), 2 * (channels // 3)

    def permuted(a):  # [3*L, ...]
        return xp.concat([a[1:pairs:2], a[0:pairs:2], a[pairs:]], axis=0)

    return permuted(weight), None if bias is None else permuted(bias)


def _channel_axis(data_format):
    if data_format not in ("NHWC", "NCHW"):
        raise ValueError(f'data_format must be "NHWC" or "NCHW" but is {data_format!r}')
    return 3 if data_format == "NHWC" else 1


def _taps(ksize, deformable_groups):
    """L."""
    if len(ksize) != 2 or min(ksize) < 1:
        raise ValueError(f"ksize must be 2 integers of at least 1 (Kh, Kw) but is {ksize!r}")
    if deformable_groups < 1:
        raise ValueError(f"deformable_groups must be at least 1 but is {deformable_groups!r}")
    return deformable_groups * ksize[0] * ksize[1]


def _sizes(name, array, data_format, channels, meaning):
    """(N, Ho, Wo) of an array that must have 4 dimensions and so many channels."""
    axis = _channel_axis(data_format)
    if len(array.shape) != 4 or array.shape[axis] != channels:
        nhwc = f"[N, Ho, Wo, {channels}] (N, Ho, Wo, {meaning})"
        nchw = f"[N, {channels}, Ho, Wo] (N, {meaning}, Ho, Wo)"
        raise ValueError(f"{name} must have shape {nhwc if axis == 3 else nchw} but has {list(array.shape)}")
    return tuple(size for i, size in enumerate(array.shape) if i != axis)


def _four_pads(pads):
    if len(pads) != 4:
        raise ValueError(f"pads must have 4 entries but is {pads!r}")
    return pads
