# SPDX-License-Identifier: Apache-2.0
"""deformable_offsets, its gradient and its second derivative: shapes without data, derivatives, vmap.

Kernels: python/torch_ops.cpp. Formulas: docs/operators.md.
"""

from collections.abc import Sequence

import torch

from tapfield.torch.derivatives import call, differentiable
from tapfield.torch.shapes import channels_last, empty, empty_like, output_size, require_shape

_forward = torch.ops.tapfield.deformable_offsets.default
_grad = torch.ops.tapfield.deformable_offsets_grad.default
_grad_grad = torch.ops.tapfield.deformable_offsets_grad_grad.default


def deformable_offsets(
    x: torch.Tensor,
    offsets: torch.Tensor,
    *,
    ksize: Sequence[int],
    strides: Sequence[int],
    pads: Sequence[int],
    dilations: Sequence[int] = (1, 1, 1, 1),
    data_format: str = "NHWC",
    deformable_groups: int = 1,
    modulated: bool = True,
    border: str = "open",
) -> torch.Tensor:
    """y, the bilinear samples of x at base + offsets, times the mask; docs/operators.md, "Forward".

    x        [N, H, W, C], T: float16, bfloat16, float32 or float64
    offsets  [N, Ho, Wo, P*G*Kh*Kw], T, or float32 where T has 16 bits; planes [along W | along H | mask],
             each [G, Kh, Kw]; in pixels of x
    returns  y [N, Ho*Kh, Wo*Kw, C], T; channels_last in memory where x is

    With data_format "NCHW" the channel axis comes second. Attributes: help(tapfield). Differentiable twice, and
    in forward mode. Errors: RuntimeError.
    """
    attributes = dict(
        ksize=ksize,
        strides=strides,
        pads=pads,
        dilations=dilations,
        data_format=data_format,
        deformable_groups=deformable_groups,
        modulated=modulated,
        border=border,
    )
    if is_dtensor(x) or is_dtensor(offsets):
        from tapfield.torch import distributed

        return distributed.deformable_offsets(
            lambda x, offsets: _forward(x, offsets, **attributes),
            x,
            offsets,
            channel_axis=1 if data_format == "NCHW" else 3,
            deformable_groups=deformable_groups,
        )
    return call(_forward, x, offsets, **attributes)


def is_dtensor(t):
    """Is t one of torch.distributed's? Without an import of that for those who do not use it."""
    return type(t) is not torch.Tensor and type(t).__name__ == "DTensor"


# ------ Shapes


def _y_like(like, x, offsets, a):
    """A new tensor of y's shape, in the memory order of `like`."""
    nchw = a["data_format"] == "NCHW"
    n, h, w, c = [x.shape[i] for i in ((0, 2, 3, 1) if nchw else (0, 1, 2, 3))]
    first = 2 if nchw else 1
    kh, kw = a["ksize"]
    ho, wo = output_size(
        (h, w), a["ksize"], a["strides"][first : first + 2], a["pads"], a["dilations"][first : first + 2]
    )
    channels = (3 if a["modulated"] else 2) * a["deformable_groups"] * kh * kw
    want = (n, channels, ho, wo) if nchw else (n, ho, wo, channels)
    require_shape("offsets", offsets, want)
    return empty(like, like.dtype, (n, ho * kh, wo * kw, c), nchw, channels_last(like, nchw))


def _defaults(given):
    return dict(dilations=(1, 1, 1, 1), data_format="NHWC", deformable_groups=1, modulated=True) | given


@torch.library.register_fake(_forward)
def _forward_shape(x, offsets, **attributes):
    return _y_like(x, x, offsets, _defaults(attributes))


@torch.library.register_fake(_grad)
def _grad_shape(grad, x, offsets, **attributes):
    nchw = _defaults(attributes)["data_format"] == "NCHW"
    return empty_like(x, nchw), empty_like(offsets, nchw)


@torch.library.register_fake(_grad_grad)
def _grad_grad_shape(grad, x, offsets, gg_x, gg_offsets, **attributes):
    a = _defaults(attributes)
    nchw = a["data_format"] == "NCHW"
    return _y_like(grad, x, offsets, a), empty_like(x, nchw), empty_like(offsets, nchw)


# ------ Derivatives


def deterministic():
    """Shall gradients have the same bits on every run? The gradient of a gradient does as that did."""
    return torch.are_deterministic_algorithms_enabled()


def _forward_backward(wanted, tensors, grads, attributes):
    x, offsets = tensors
    grad_x, grad_offsets = _grad(grads[0], x, offsets, **attributes, deterministic=deterministic())
    return grad_x if wanted[0] else None, grad_offsets if wanted[1] else None


def _forward_tangents(tensors, tangents, outputs, attributes):
    # grad_grad is the tangent, and does not depend on grad.
    x, offsets = tensors
    return (_grad_grad(torch.zeros_like(outputs[0]), x, offsets, *tangents, **attributes)[0],)


def _grad_backward(wanted, tensors, grads, attributes):
    given = _grad_grad(*tensors, *grads, **attributes)
    return tuple(g if w else None for g, w in zip(given, wanted))


def _grad_tangents(tensors, tangents, outputs, attributes):
    # The outputs are linear in grad; their derivative along (x, offsets) is a second derivative of <y, grad>,
    # which is symmetric.
    grad, x, offsets = tensors
    grad_t, x_t, offsets_t = tangents
    moved = torch.zeros_like(outputs[0]), torch.zeros_like(outputs[1])
    if grad_t is not None:
        moved = _grad(grad_t, x, offsets, **attributes)
    if x_t is not None or offsets_t is not None:
        _, dx, doffsets = _grad_grad(grad, x, offsets, x_t, offsets_t, **attributes)
        moved = moved[0] + dx, moved[1] + doffsets
    return moved


def _grad_grad_backward(wanted, tensors, grads, attributes):
    # Of grad_grad alone, the tangent of y: <grad_grad, c> is F of docs/operators.md with c for grad. Those of the other
    # two outputs would be third derivatives.
    c, *third = grads
    if any(t is not None for t in third):
        raise NotImplementedError(
            "the gradients that tapfield::deformable_offsets_grad_grad gives have no derivative"
        )
    _, x, offsets, gg_x, gg_offsets = tensors
    _, dx, doffsets = _grad_grad(c, x, offsets, gg_x, gg_offsets, **attributes)
    given = None, dx, doffsets, *_grad(c, x, offsets, **attributes)
    return tuple(g if w else None for g, w in zip(given, wanted))


differentiable(_forward, _forward_backward, _forward_tangents)
differentiable(_grad, _grad_backward, _grad_tangents)
differentiable(_grad_grad, _grad_grad_backward)


# ------ vmap: the batch folds into N


def _folded(info, in_dims, tensors):
    """tensors with the batch, if it is not there yet, as part of N."""

    def fold(t, dim):
        if t is None:
            return None
        t = t.unsqueeze(0).expand(info.batch_size, *t.shape) if dim is None else t.movedim(dim, 0)
        return t.flatten(0, 1)

    return [fold(t, dim) for t, dim in zip(tensors, in_dims)]


def _vmap(operator):
    @torch.library.register_vmap(operator)
    def rule(info, in_dims, *tensors, **attributes):
        outputs = operator(*_folded(info, in_dims, tensors), **attributes)
        unfold = lambda t: t.unflatten(0, (info.batch_size, -1))
        if isinstance(outputs, torch.Tensor):
            return unfold(outputs), 0
        return tuple(map(unfold, outputs)), (0,) * len(outputs)


for _operator in (_forward, _grad, _grad_grad):
    _vmap(_operator)
