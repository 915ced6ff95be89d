# SPDX-License-Identifier: Apache-2.0
"""deform_conv2d, torchvision's operator: shapes without data, derivatives, vmap, autocast.

Kernels: python/torch_conv2d.cpp; on a GPU, the operators of operators.py and convolutions. The second derivative and
the tangents are formulas in whole tensors of columns (Kh*Kw times the output), and so is all on a GPU; on the CPU the
operator and its gradient work band by band.
"""

import torch
from torch.nn.functional import conv2d, conv_transpose2d
from torch.nn.grad import conv2d_weight

from tapfield.convert import offsets_from_torchvision, offsets_to_torchvision
from tapfield.torch import operators
from tapfield.torch.derivatives import LIBRARY, call, differentiable
from tapfield.torch.shapes import channels_last, empty, empty_like, output_size, require_shape

_forward = torch.ops.tapfield.deform_conv2d.default
_backward = torch.ops.tapfield.deform_conv2d_backward.default


def deform_conv2d(
    input, offset, weight, bias=None, stride=(1, 1), padding=(0, 0), dilation=(1, 1), mask=None
):
    """torchvision.ops.deform_conv2d: deformable convolution v2, or v1 if mask is None.

    input    [N, C, H, W], T: float16, bfloat16, float32 or float64
    offset   [N, 2*G*Kh*Kw, Ho, Wo], T, or float32 where T has 16 bits; channel 2*l + {0: along H, 1: along W} for
             tap l of [G, Kh, Kw]; in pixels of input. G offset groups, as its shape says
    weight   [Co, C/groups, Kh, Kw], T
    bias     [Co], T
    stride, padding, dilation    an int, or one along H and one along W
    mask     [N, G*Kh*Kw, Ho, Wo], as offset; taken as it is, no sigmoid
    returns  [N, Co, Ho, Wo], T; channels_last in memory where input is

    Equivalent to conv2d(deformable_offsets(input, offsets), weight, bias, stride=(Kh, Kw), groups=groups) with border
    "closed". Differentiable twice, and in forward mode. Errors: RuntimeError.
    """
    return convolve(input, offset, weight, bias, mask, pair(stride), pair(padding), pair(dilation), "closed")


def convolve(input, offset, weight, bias, mask, stride, padding, dilation, border):
    """The operator, on tensors and on DTensors."""
    attributes = dict(stride=stride, padding=padding, dilation=dilation, border=border)
    if operators.is_dtensor(input) or operators.is_dtensor(weight):
        from tapfield.torch import distributed

        local = lambda *tensors: _forward(*tensors, **attributes)
        return distributed.deform_conv2d(local, input, offset, weight, bias, mask)
    return call(_forward, input, offset, weight, bias, mask, **attributes)


def pair(v):
    """torch.nn's way: one int for both axes."""
    return (v, v) if isinstance(v, int) else tuple(v)


# ------ Shapes


def _size(input, offset, weight, mask, a):
    """[N, Ho, Wo, Co] of the output."""
    n, c, h, w = input.shape
    ksize = weight.shape[2:]
    pads = [p for p in a["padding"] for _ in (0, 1)]
    ho, wo = output_size((h, w), ksize, a["stride"], pads, a["dilation"])
    require_shape("offset", offset, (n, offset.shape[1], ho, wo))
    if mask is not None:
        require_shape("mask", mask, (n, offset.shape[1] // 2, ho, wo))
    return n, ho, wo, weight.shape[0]


_DEFAULTS = dict(stride=(1, 1), padding=(0, 0), dilation=(1, 1), border="closed")


@torch.library.register_fake(_forward)
def _forward_shape(input, offset, weight, bias=None, mask=None, **attributes):
    size = _size(input, offset, weight, mask, _DEFAULTS | attributes)
    return empty(input, input.dtype, size, True, channels_last(input, True))


@torch.library.register_fake(_backward)
def _backward_shape(grad, input, offset, weight, mask, *, samples=True, products=True, **attributes):
    like = lambda wanted, t: empty_like(t, True) if wanted else input.new_empty(0)
    with_mask = samples and mask is not None
    return like(samples, input), like(samples, offset), like(products, weight), like(with_mask, mask)


# ------ The same as sampling and convolution, for derivatives of derivatives


class _Parts:
    """y = samples(x, offsets) and out = conv(y, weight), each linear map with its transpose."""

    def __init__(self, input, offset, weight, mask, a):
        self.input, self.weight = input, weight
        self.ksize = tuple(weight.shape[2:])
        taps = self.ksize[0] * self.ksize[1]
        self.groups = input.shape[1] // weight.shape[1]
        self.layout = dict(
            ksize=self.ksize, deformable_groups=offset.shape[1] // (2 * taps), data_format="NCHW"
        )
        self.modulated = mask is not None
        self.offsets = offsets_from_torchvision(offset, mask, **self.layout)
        (sh, sw), (ph, pw), (dh, dw) = a["stride"], a["padding"], a["dilation"]
        self.attributes = dict(
            self.layout, strides=(1, 1, sh, sw), pads=(ph, ph, pw, pw), dilations=(1, 1, dh, dw),
            modulated=self.modulated, border=a["border"],
        )  # fmt: skip
        self.way = dict(deterministic=operators.deterministic())

    def join(self, offset, mask):
        """Something like offset and mask, either absent meaning 0, as one tensor like offsets; None if both are."""
        if offset is None and mask is None:
            return None
        planes = 3 if self.modulated else 2
        n, channels, ho, wo = self.offsets.shape
        taps = channels // planes
        if offset is None:
            offset = mask.new_zeros(n, 2 * taps, ho, wo)
        if mask is None and self.modulated:
            mask = offset.new_zeros(n, taps, ho, wo)
        return offsets_from_torchvision(offset, mask, **self.layout)

    def split(self, offsets):
        return offsets_to_torchvision(offsets, modulated=self.modulated, **self.layout)

    def conv(self, y, weight):
        return conv2d(y, weight, stride=self.ksize, groups=self.groups)

    def conv_back(self, grad, weight):
        """The gradient of conv with respect to y."""
        return conv_transpose2d(grad, weight, stride=self.ksize, groups=self.groups)

    def conv_weight(self, y, grad):
        """The gradient of conv with respect to weight."""
        return conv2d_weight(y, self.weight.shape, grad, stride=self.ksize, groups=self.groups)

    def samples(self):
        return operators._forward(self.input, self.offsets, **self.attributes)

    def samples_grad(self, grad_y):
        return operators._grad(grad_y, self.input, self.offsets, **self.attributes, **self.way)

    def samples_grad_grad(self, grad_y, input_t, offsets_t):
        return operators._grad_grad(
            grad_y, self.input, self.offsets, input_t, offsets_t, **self.attributes, **self.way
        )


def _add(a, b):
    return b if a is None else a if b is None else a + b


# ------ On a GPU: samples of the whole batch, then PyTorch's convolutions. In channels_last: the samples, Kh*Kw times
# input's size, would else be transposed


def _near(t):
    """t in channels_last, unless it has a wrong rank, which is refused later and in our words."""
    return t.contiguous(memory_format=torch.channels_last) if t.dim() == 4 else t


def _on_gpu(input, offset, weight, bias=None, mask=None, **attributes):
    parts = _Parts(_near(input), offset, weight, mask, _DEFAULTS | attributes)
    out = conv2d(parts.samples(), weight, bias, stride=parts.ksize, groups=parts.groups)
    return _as(_forward_shape(input, offset, weight, bias, mask, **attributes), out)


def _backward_on_gpu(grad, input, offset, weight, mask, *, samples=True, products=True, **attributes):
    a = _DEFAULTS | attributes
    n, ho, wo, co = _size(input, offset, weight, mask, a)
    require_shape("grad", grad, (n, co, ho, wo))
    parts, near = _Parts(_near(input), offset, weight, mask, a), _near(grad)
    d_input = d_offset = d_weight = d_mask = None
    if samples:
        d_input, d_offsets = parts.samples_grad(_near(parts.conv_back(near, weight)))
        d_offset, d_mask = parts.split(d_offsets)
    if products:
        d_weight = parts.conv_weight(parts.samples(), near)
    like = _backward_shape(
        grad, input, offset, weight, mask, samples=samples, products=products, **attributes
    )
    return tuple(map(_as, like, (d_input, d_offset, d_weight, d_mask)))


def _as(out, t):
    """t, or nothing, in the dtype and memory order of `out`, which has no values yet."""
    if t is None:
        return out
    return t if (t.dtype, t.stride()) == (out.dtype, out.stride()) else out.copy_(t)


LIBRARY.impl("deform_conv2d", _on_gpu, "CUDA")
LIBRARY.impl("deform_conv2d_backward", _backward_on_gpu, "CUDA")


# ------ Derivatives


def _forward_backward(wanted, tensors, grads, attributes):
    input, offset, weight, bias, mask = tensors
    (grad,) = grads
    samples, products = wanted[0] or wanted[1] or wanted[4], wanted[2]
    given = (None,) * 4
    if samples or products:
        given = _backward(grad, input, offset, weight, mask, **attributes, samples=samples, products=products)
    all_of = (given[0], given[1], given[2], grad.sum((0, 2, 3)) if wanted[3] else None, given[3])
    return tuple(g if w else None for g, w in zip(all_of, wanted))


def _forward_tangents(tensors, tangents, outputs, attributes):
    input, offset, weight, bias, mask = tensors
    input_t, offset_t, weight_t, bias_t, mask_t = tangents
    moved = None
    if weight_t is not None:
        moved = _forward(input, offset, weight_t, None, mask, **attributes)
    parts = _Parts(input, offset, weight, mask, attributes)
    offsets_t = parts.join(offset_t, mask_t)
    if input_t is not None or offsets_t is not None:
        grad_y = torch.zeros_like(parts.conv_back(torch.zeros_like(outputs[0]), weight))
        moved = _add(moved, parts.conv(parts.samples_grad_grad(grad_y, input_t, offsets_t)[0], weight))
    if bias_t is not None:
        moved = _add(moved, bias_t.view(1, -1, 1, 1).expand_as(outputs[0]))
    return (moved,)


def _backward_backward(wanted, tensors, grads, attributes):
    grad, input, offset, weight, mask = tensors
    a = {k: v for k, v in attributes.items() if k not in ("samples", "products")}
    gg_input, gg_offset, gg_weight, gg_mask = grads
    parts = _Parts(input, offset, weight, mask, a)
    d_grad = d_input = d_offset = d_weight = d_mask = None
    gg_offsets = parts.join(gg_offset, gg_mask)
    if (
        gg_input is not None or gg_offsets is not None
    ):  # of samples_grad(grad_y), grad_y = conv_back(grad, weight)
        grad_y = parts.conv_back(grad, weight)
        d_grad_y, d_input, d_offsets = parts.samples_grad_grad(grad_y, gg_input, gg_offsets)
        d_offset, d_mask = parts.split(d_offsets)
        d_grad = parts.conv(d_grad_y, weight)
        d_weight = parts.conv_weight(d_grad_y, grad)
    if gg_weight is not None:  # of <grad_weight, gg_weight> = <grad, conv(y, gg_weight)>
        d_grad = _add(d_grad, _forward(input, offset, gg_weight, None, mask, **a))
        more = _backward(grad, input, offset, gg_weight, mask, **a, samples=True, products=False)
        d_input, d_offset = _add(d_input, more[0]), _add(d_offset, more[1])
        d_mask = None if mask is None else _add(d_mask, more[3])
    return tuple(d if w else None for d, w in zip((d_grad, d_input, d_offset, d_weight, d_mask), wanted))


def _backward_tangents(tensors, tangents, outputs, attributes):
    grad, input, offset, weight, mask = tensors
    grad_t, input_t, offset_t, weight_t, mask_t = tangents
    a = {k: v for k, v in attributes.items() if k not in ("samples", "products")}
    samples, products = attributes["samples"], attributes["products"]
    moved = [None] * 4
    if grad_t is not None:  # everything is linear in grad
        moved = list(_backward(grad_t, input, offset, weight, mask, **attributes))
    if weight_t is not None and samples:  # and the samples' part in weight
        more = _backward(grad, input, offset, weight_t, mask, **a, samples=True, products=False)
        moved[0], moved[1], moved[3] = (
            _add(moved[0], more[0]),
            _add(moved[1], more[1]),
            _add(moved[3], more[3]),
        )
    parts = _Parts(input, offset, weight, mask, a)
    offsets_t = parts.join(offset_t, mask_t)
    if input_t is not None or offsets_t is not None:
        y_t, d_input, d_offsets = parts.samples_grad_grad(parts.conv_back(grad, weight), input_t, offsets_t)
        if samples:
            d_offset, d_mask = parts.split(d_offsets)
            moved[0], moved[1] = _add(moved[0], d_input), _add(moved[1], d_offset)
            moved[3] = moved[3] if mask is None else _add(moved[3], d_mask)
        if products:
            moved[2] = _add(moved[2], parts.conv_weight(y_t, grad))
    return tuple(torch.zeros_like(o) if m is None else m for m, o in zip(moved, outputs))


differentiable(_forward, _forward_backward, _forward_tangents)
differentiable(_backward, _backward_backward, _backward_tangents)


# ------ vmap: the batch folds into N where weights are shared; else one call after another


def _one_by_one(operator, info, in_dims, tensors, attributes):
    pick = lambda t, dim, i: t if dim is None else t.select(dim, i)
    calls = [
        operator(*(pick(t, dim, i) for t, dim in zip(tensors, in_dims)), **attributes)
        for i in range(info.batch_size)
    ]
    if isinstance(calls[0], torch.Tensor):
        return torch.stack(calls), 0
    return tuple(map(torch.stack, zip(*calls))), (0,) * len(calls[0])


@torch.library.register_vmap(_forward)
def _forward_vmap(info, in_dims, input, offset, weight, bias=None, mask=None, **attributes):
    in_dims = (*in_dims, *(None,) * (5 - len(in_dims)))
    if in_dims[2] is not None or in_dims[3] is not None:
        return _one_by_one(_forward, info, in_dims, (input, offset, weight, bias, mask), attributes)
    dims = in_dims[0], in_dims[1], in_dims[4]
    input, offset, mask = operators._folded(info, dims, (input, offset, mask))
    out = _forward(input, offset, weight, bias, mask, **attributes)
    return out.unflatten(0, (info.batch_size, -1)), 0


@torch.library.register_vmap(_backward)
def _backward_vmap(info, in_dims, *tensors, **attributes):
    return _one_by_one(_backward, info, in_dims, tensors, attributes)


# ------ Autocast: input, weight, bias and mask, never offset, whose fractions need the bits


def _autocast(device):
    below = torch._C.DispatchKeySet(getattr(torch._C.DispatchKey, f"Autocast{device.upper()}"))

    def cast(t):
        dtype = torch.get_autocast_dtype(device)
        return t.to(dtype) if t is not None and t.is_floating_point() and t.dtype != torch.float64 else t

    def exact(offset, input):
        """offset as it is, but in float32 if it has the other 16 bits."""
        return offset if offset.dtype in (torch.float32, input.dtype) else offset.float()

    def forward(input, offset, weight, bias=None, mask=None, **attributes):
        with torch._C._ExcludeDispatchKeyGuard(below):
            input = cast(input)
            if input.dtype != torch.float64:
                offset = exact(offset, input)
            return _forward(input, offset, cast(weight), cast(bias), cast(mask), **attributes)

    def samples(x, offsets, **attributes):
        with torch._C._ExcludeDispatchKeyGuard(below):
            x = cast(x)
            if x.dtype != torch.float64:
                offsets = exact(offsets, x)
            return operators._forward(x, offsets, **attributes)

    LIBRARY.impl("deform_conv2d", forward, f"Autocast{device.upper()}")
    LIBRARY.impl("deformable_offsets", samples, f"Autocast{device.upper()}")


for _device in ("cpu", "cuda"):
    _autocast(_device)
