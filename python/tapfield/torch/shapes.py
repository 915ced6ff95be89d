# SPDX-License-Identifier: Apache-2.0
"""Shapes and strides of results, for tensors without data; torch_tensors.h says the same in C++."""

import torch


def output_size(size, ksize, strides, pads, dilations):
    """(Ho, Wo); pads are top, bottom, left, right, the others [along H, along W]."""
    return tuple(
        (size[i] + pads[2 * i] + pads[2 * i + 1] - dilations[i] * (ksize[i] - 1) - 1) // strides[i] + 1
        for i in (0, 1)
    )


def require_shape(name, t, want):
    if t.dim() != len(want):
        raise RuntimeError(f"{name} must have {len(want)} dimensions but has {t.dim()}")
    for have, wanted in zip(t.shape, want):
        torch._check(have == wanted, lambda: f"{name} must have shape {list(want)} but has {list(t.shape)}")


def channels_last(t, nchw):
    """Do t's channels lie side by side in memory? PyTorch's rule for channels_last, in data_format's order."""
    if t.dim() != 4:
        return False
    size, stride = t.shape, t.stride()
    order = (1, 3, 2, 0) if nchw else (3, 2, 1, 0)  # C, W, H, N
    c = order[0]
    if stride[c] == 0:
        return False
    least = 0
    for axis in order:
        if size[axis] == 0 or stride[axis] < least or (axis == 0 and least == stride[c]):
            return False
        least = stride[axis] * size[axis] if size[axis] > 1 else stride[axis]
    return True


def empty(like, dtype, nhwc, nchw, last):
    """A dense tensor of sizes [n, h, w, c] in data_format's order, its channels side by side if `last`."""
    n, h, w, c = nhwc
    lh, lw, lc = (torch.sym_max(s, 1) for s in (h, w, c))
    strides = (lh * lw * lc, lw * lc, lc, 1) if last else (lh * lw * lc, lw, 1, lh * lw)
    if nchw:
        nhwc, strides = (n, c, h, w), (strides[0], strides[3], strides[1], strides[2])
    return like.new_empty_strided(nhwc, strides, dtype=dtype)


def empty_like(t, nchw):
    """As t: its shape and dtype, dense, in t's memory order."""
    n, a, b, c = t.shape
    return empty(t, t.dtype, (n, b, c, a) if nchw else (n, a, b, c), nchw, channels_last(t, nchw))
