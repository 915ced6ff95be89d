# SPDX-License-Identifier: Apache-2.0
"""deform_conv2d: against the oracle of sampling and a sum of products, against torchvision, in every memory order and
dtype; in bands; its memory, errors and threads."""

import dataclasses
import math
import subprocess
import sys

import numpy as np
import pytest
import torch
import torchvision
from tapfield.torch import DeformConv2d, deform_conv2d

from layer_cases import LAYERS, Layer, assert_near, by_name
from oracle import Oracle

ids = lambda layer: layer.name
ours = lambda t, layer: deform_conv2d(t[0], t[1], t[2], t[3], mask=t[4], **layer.how)
theirs = lambda t, layer: torchvision.ops.deform_conv2d(t[0], t[1], t[2], t[3], mask=t[4], **layer.how)


def terms(layer):
    """Bounds the additions of any output or gradient."""
    n, c, h, w = layer.input
    taps, pixels = math.prod(layer.ksize), math.prod(layer.output)
    return max(4 * taps * c, 4 * taps * pixels * max(n, 1), 4 * layer.co * c * taps)


def gradients(call, t, layer):
    leaves = [a if a is None else a.detach().clone().requires_grad_() for a in t]
    out = call(leaves, layer)
    given = torch.autograd.grad(
        out, [a for a in leaves if a is not None], layer.grad(out.dtype).to(out.device)
    )
    return out.detach(), given


# ------ Values


@pytest.mark.parametrize("layer", [a for a in LAYERS if a.input[0]], ids=ids)
def test_against_the_oracle(layer):
    input, offset, weight, bias, mask = layer.tensors()
    n, c, _, _ = layer.input
    (kh, kw), (ho, wo), (ph, pw) = layer.ksize, layer.output, layer.padding
    planes = [offset[:, 1::2], offset[:, 0::2]] + ([mask] if mask is not None else [])
    oracle = Oracle(
        input.permute(0, 2, 3, 1).numpy(), torch.cat(planes, 1).permute(0, 2, 3, 1).numpy(), ksize=layer.ksize,
        strides=layer.stride, pads=(ph, ph, pw, pw), dilations=layer.dilation, groups=layer.offset_groups,
        modulated=mask is not None, border="closed",
    )  # fmt: skip
    y = oracle.forward(input.permute(0, 2, 3, 1).numpy()).value.astype(float)  # [n, ho*kh, wo*kw, c]
    y = y.reshape(n, ho, kh, wo, kw, layer.groups, c // layer.groups)
    w = weight.numpy().reshape(layer.groups, layer.co // layer.groups, c // layer.groups, kh, kw)
    want = np.einsum("nhiwjgc,gdcij->ngdhw", y, w).reshape(n, layer.co, ho, wo)
    want += 0 if bias is None else bias.numpy()[:, None, None]
    assert_near(ours(layer.tensors(), layer), torch.from_numpy(want), terms(layer))


@pytest.mark.parametrize("channels_last", [False, True], ids=["contiguous", "channels_last"])
@pytest.mark.parametrize("layer", LAYERS, ids=ids)
def test_against_torchvision(layer, channels_last):
    mine, my_grads = gradients(ours, layer.tensors(channels_last=channels_last), layer)
    want, their_grads = gradients(theirs, layer.tensors(), layer)
    assert_near(mine, want, terms(layer))
    for got, w in zip(my_grads, their_grads, strict=True):
        assert_near(got, w, terms(layer))


def test_zero_offsets_on_the_border_as_torchvision():
    """Positions of exactly -1: torchvision lets the right-hand derivative through."""
    layer = Layer("border", spread=0.0)
    (_, mine), (_, want) = gradients(ours, layer.tensors(), layer), gradients(theirs, layer.tensors(), layer)
    for got, w in zip(mine, want, strict=True):
        assert_near(got, w, terms(layer))
    assert mine[1][:, 0:6:2, 0, 1:-1].abs().min() > 0  # along H, of the kernel's first row


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("layer", LAYERS, ids=ids)
def test_narrow_dtypes(layer, dtype):
    """As float64 on the same rounded inputs: samples are rounded once, products summed in float32, results rounded once."""
    t = layer.tensors(dtype)
    mine, my_grads = gradients(ours, t, layer)
    want, want_grads = gradients(ours, [a if a is None else a.double() for a in t], layer)
    eps = torch.finfo(dtype).eps
    assert mine.dtype == dtype
    for got, w in zip((mine, *my_grads), (want, *want_grads), strict=True):
        assert got.dtype == dtype
        # A sample and a result are each off by eps/2 relative to their size; sums of float32 add 2^-23 a term.
        if w.numel():
            bound = (2 * eps * 4 + terms(layer) * 2.0**-23) * max(1.0, float(w.abs().max())) * 4
            assert (got.double() - w).abs().max() <= bound


def test_float32_offsets_beside_16_bits():
    layer = by_name("offset_groups")
    input, offset, weight, bias, mask = layer.tensors(torch.bfloat16)
    fine = layer.tensors(torch.float32)[1] * (1 + 2.0**-12)
    out = deform_conv2d(input, fine, weight, bias, mask=mask, **layer.how)
    want = deform_conv2d(
        input.double(), fine.double(), weight.double(), bias.double(), mask=mask.double(), **layer.how
    )
    coarse = deform_conv2d(input, fine.bfloat16(), weight, bias, mask=mask, **layer.how)
    error, worse = (out.double() - want).abs().mean(), (coarse.double() - want).abs().mean()
    assert out.dtype == torch.bfloat16 and error < worse / 2


# ------ Memory order


@pytest.mark.parametrize("layer", [by_name("plain"), by_name("groups"), by_name("one_image")], ids=ids)
def test_memory_order(layer):
    for last in False, True:
        t = layer.tensors(channels_last=last)
        leaves = [a.requires_grad_() for a in t]
        out = ours(leaves, layer)
        order = torch.channels_last if last else torch.contiguous_format
        assert out.is_contiguous(memory_format=order)
        out.backward(layer.grad())
        assert all(a.grad.is_contiguous(memory_format=order) for a in leaves if a.dim() == 4)


def test_any_strides():
    """Slices, broadcasts, gradients of stride 0."""
    layer = by_name("plain")
    t = layer.tensors()
    want, want_grads = gradients(ours, t, layer)
    last = layer.tensors(channels_last=True)
    for odd in (
        [torch.stack([a, a * 0], -1)[..., 0] for a in t],
        [a if a.dim() < 4 else torch.cat([a, a], 3)[..., : a.shape[3]] for a in t],
        [a if a.dim() < 4 else torch.cat([a, a], 3).contiguous(memory_format=torch.channels_last)[..., : a.shape[3]]
         for a in last],
    ):  # fmt: skip
        assert not any(a.is_contiguous() for a in odd if a.dim() == 4)
        leaves = [a.detach().requires_grad_() for a in odd]  # a view's strides, not a clone's
        out = ours(leaves, layer)
        for a, b in zip((out, *torch.autograd.grad(out, leaves, layer.grad())), (want, *want_grads)):
            assert_near(a, b, terms(layer))
    leaf = t[0].clone().requires_grad_()
    ours([leaf, *t[1:]], layer).sum().backward()
    ones = t[0].clone().requires_grad_()
    ours([ones, *t[1:]], layer).backward(torch.ones_like(want))
    assert_near(leaf.grad, ones.grad, terms(layer))


# ------ Bands


@pytest.mark.parametrize("channels_last", [False, True], ids=["contiguous", "channels_last"])
@pytest.mark.parametrize(
    "layer",
    [
        Layer(
            "image_in_bands", input=(2, 32, 80, 80), co=3, ksize=(7, 7), padding=(3, 3)
        ),  # 80 MB of columns an image
        Layer(
            "uneven_bands", input=(5, 16, 40, 40), co=3, ksize=(7, 7), padding=(3, 3)
        ),  # 10 MB: 6 images fit, 5 there
        Layer(
            "some_images", input=(5, 32, 48, 48), co=3, ksize=(7, 7), padding=(3, 3)
        ),  # 29 MB: bands of 2, 2, 1
        Layer("groups_in_bands", input=(1, 32, 80, 80), co=4, ksize=(7, 7), padding=(3, 3), groups=2),
        Layer("wide_in_bands", input=(1, 40, 72, 72), co=3, ksize=(7, 7), padding=(3, 3)),
    ],
    ids=ids,
)
def test_bands(layer, channels_last):
    mine, my_grads = gradients(ours, layer.tensors(channels_last=channels_last), layer)
    for i in range(layer.input[0]):  # one image after another, and weight's gradient their sum
        one = dataclasses.replace(layer, input=(1, *layer.input[1:]))
        t = [
            a if a is None or a.dim() != 4 or j == 2 else a[i : i + 1] for j, a in enumerate(layer.tensors())
        ]
        want = theirs(t, one)
        assert_near(mine[i : i + 1], want, terms(layer))
    _, their_grads = gradients(theirs, layer.tensors(), layer)
    for got, w in zip(my_grads, their_grads, strict=True):
        assert_near(got, w, terms(layer))


# ------ Samples that take the place of columns' gradient


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    "layer",
    [
        Layer("quads", input=(2, 6, 40, 40), co=3, offset_groups=2),
        Layer("pixels", input=(2, 24, 40, 40), co=3, offset_groups=2),
        Layer("wide", input=(1, 40, 40, 40), co=3),
        Layer("scattered", input=(1, 8, 64, 64), co=3, offset_groups=2, spread=40.0),
        Layer("scattered_on_a_large_map", input=(1, 24, 240, 160), co=3, spread=40.0),
    ],
    ids=ids,
)
def test_grad_weight_with_the_others(layer, dtype):
    """grad_weight beside all gradients as alone, for taps near their pixels, a few far away, some dead."""
    input, offset, weight, _, mask = layer.tensors(dtype)
    kind = torch.randint(50, offset.shape, generator=torch.Generator().manual_seed(2))
    offset = torch.where(kind == 0, 25.0, torch.where(kind == 1, float("nan"), offset.double())).to(dtype)
    grad = layer.grad(dtype)
    call = lambda samples: torch.ops.tapfield.deform_conv2d_backward(
        grad, input, offset, weight, mask, **layer.how, samples=samples
    )
    together, alone = call(True), call(False)
    exact = torch.ops.tapfield.deform_conv2d_backward(
        *(t.double() for t in (grad, input, offset, weight, mask)), **layer.how
    )
    n, pixels, eps = layer.input[0], math.prod(layer.output), torch.finfo(dtype).eps
    bound = (4 * n * pixels * max(2.0**-52, min(eps, 2.0**-23)) + 4 * eps) * 8 * float(exact[2].abs().max())
    assert (together[2].double() - alone[2].double()).abs().max() <= bound
    assert (together[2].double() - exact[2]).abs().max() <= bound
    only = torch.ops.tapfield.deform_conv2d_backward(
        grad, input, offset, weight, mask, **layer.how, products=False
    )
    for i in 0, 1, 3:  # what replaces the gradient of columns changes none of the others
        assert torch.equal(together[i], only[i])


@pytest.mark.parametrize("channels_last", [False, True], ids=["contiguous", "channels_last"])
def test_large_products_in_float32(channels_last):
    """As in float64, where oneDNN may make them (at least 2^18 elements of columns), added up over two bands."""
    layer = Layer("large_products", input=(2, 64, 48, 48), co=8)
    single = layer.tensors(torch.float32, channels_last=channels_last, smooth=True)
    mine, my_grads = gradients(ours, single, layer)
    want, their_grads = gradients(ours, [a.double() for a in single], layer)
    _, c, h, w = layer.input
    for got, exact, count in zip(
        (mine, my_grads[2]), (want, their_grads[2]), (4 * 9 * c, 4 * 2 * h * w), strict=True
    ):
        assert_near(got, exact, count, eps=2.0**-23)
    for got, exact in zip(my_grads, their_grads, strict=True):
        assert_near(got, exact, terms(layer), eps=2.0**-23)


def test_peak_memory():
    """Forward and backward of N=8 C=256 64x64: less than 100 MiB above inputs, outputs and their gradients."""
    program = """
import torch, tapfield.torch
torch.set_num_threads(2)
def peak():
    with open("/proc/self/status") as f:
        return next(int(line.split()[1]) for line in f if line.startswith("VmHWM")) / 1024
x = torch.randn(8, 256, 64, 64, requires_grad=True)
offset, mask = torch.randn(8, 18, 64, 64, requires_grad=True), torch.rand(8, 9, 64, 64, requires_grad=True)
weight, bias = torch.randn(256, 256, 3, 3, requires_grad=True), torch.randn(256, requires_grad=True)
small = [t[:1, :, :8, :8].detach().requires_grad_() for t in (x, offset, mask)]
tapfield.torch.deform_conv2d(small[0], small[1], weight, bias, 1, 1, 1, small[2]).sum().backward()  # libraries' own
weight.grad = bias.grad = None
grads = [torch.zeros_like(t) for t in (x, offset, mask, weight, bias)]
out_and_grad = torch.zeros(2, 8, 256, 64, 64)
before = peak()
del grads, out_and_grad
out = tapfield.torch.deform_conv2d(x, offset, weight, bias, 1, 1, 1, mask)
out.backward(torch.ones_like(out))
print(peak() - before)
"""
    given = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert 0 < float(given) < 100


# ------ Bits


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_same_bits_from_run_to_run(dtype):
    layer = Layer("d", input=(3, 64, 20, 20), co=32, offset_groups=4)
    before, runs = torch.get_num_threads(), []
    try:
        torch.set_num_threads(2)
        for _ in range(3):
            out, grads = gradients(ours, layer.tensors(dtype), layer)
            runs.append((out, *grads))
    finally:
        torch.set_num_threads(before)
    for run in runs[1:]:
        assert all(torch.equal(a, b) for a, b in zip(run, runs[0]))


def test_deterministic_algorithms():
    layer = by_name("plain")
    torch.use_deterministic_algorithms(True)
    try:
        gradients(ours, layer.tensors(), layer)
    finally:
        torch.use_deterministic_algorithms(False)


# ------ Bad input


def test_a_nan_offset_is_a_dead_tap():
    layer = by_name("plain")
    t = layer.tensors()
    want = ours([t[0], t[1], t[2], t[3], t[4].index_fill(1, torch.tensor([4]), 0)], layer)
    for bad in math.nan, math.inf, -1e300:
        offset = t[1].clone()
        offset[:, 8:10] = bad  # tap 4
        out, grads = gradients(ours, [t[0], offset, *t[2:]], layer)
        assert_near(out, want, terms(layer))
        assert all(g.isfinite().all() for g in grads) and grads[1][:, 8:10].abs().max() == 0


@pytest.mark.parametrize(
    "change, message",
    [
        (
            dict(input=torch.zeros(6, 9, 8)),
            "input must have 4 dimensions [N, C, H, W] but has shape [6, 9, 8]",
        ),
        (dict(offset=torch.zeros(18, 9, 8)), "offset must have 4 dimensions"),
        (dict(weight=torch.zeros(4, 6)), "weight must have 4 dimensions"),
        (dict(mask=torch.zeros(9)), "mask must have 4 dimensions"),
        (
            dict(input=torch.zeros(2, 6, 9, 8).long()),
            "input must be float16, bfloat16, float32 or float64 but is Long",
        ),
        (dict(weight=torch.zeros(4, 6, 3, 3).double()), "weight must be float32, as input, but is float64"),
        (dict(offset=torch.zeros(2, 18, 9, 8).half()), "offset must be float32, as input, but is float16"),
        (dict(mask=torch.zeros(2, 9, 9, 8).double()), "mask must be float32, as input, but is float64"),
        (dict(bias=torch.zeros(4).double()), "bias must be float32, as input, but is float64"),
        (dict(stride=(0, 1)), "stride must be 2 integers of at least 1 (along H, along W) but is [0, 1]"),
        (dict(stride=(1, 1, 1)), "stride must be 2 integers"),
        (dict(padding=(-1, 0)), "padding must be 2 integers of at least 0"),
        (dict(dilation=(1, 0)), "dilation must be 2 integers of at least 1"),
        (dict(weight=torch.zeros(4, 4, 3, 3)), "weight must have C/groups input channels for input's C = 6"),
        (dict(weight=torch.zeros(5, 3, 3, 3)), "weight must have a multiple of groups = 2 output channels"),
        (
            dict(offset=torch.zeros(2, 17, 9, 8)),
            "offset must have 2*offset_groups*Kh*Kw channels, a multiple of 18, but the shape of the offset is [2, 17,",
        ),
        (
            dict(offset=torch.zeros(2, 72, 9, 8)),
            "offset has 4 offset groups, which must divide input's C = 6",
        ),
        (
            dict(offset=torch.zeros(3, 18, 9, 8)),
            "offset must have shape [2, 18, 9, 8] (N, 2*offset_groups*Kh*Kw, Ho, Wo)",
        ),
        (dict(offset=torch.zeros(2, 18, 8, 8)), "offset must have shape [2, 18, 9, 8]"),
        (
            dict(mask=torch.zeros(2, 18, 9, 8)),
            "mask must have shape [2, 9, 9, 8] (N, offset_groups*Kh*Kw, Ho, Wo)",
        ),
        (dict(mask=torch.zeros(1, 9, 9, 8)), "mask must have shape [2, 9, 9, 8]"),
        (  # shapes come before dtypes, as in torchvision
            dict(mask=torch.zeros(2, 9, 7, 8).double()),
            "mask must have shape [2, 9, 9, 8] (N, offset_groups*Kh*Kw, Ho, Wo) but has [2, 9, 7, 8]: "
            "mask.shape[2] is not valid",
        ),
        (dict(bias=torch.zeros(3)), "bias must have shape [4] (Co) but has [3]"),
        (dict(dilation=(9, 9)), "weight's kernel [3, 3] with dilation [9, 9] must fit the padded input"),
    ],
    ids=lambda v: v if isinstance(v, str) else "",
)
def test_errors_name_the_argument(change, message):
    input, offset, weight, bias, mask = by_name("plain").tensors(torch.float32)
    given = dict(input=input, offset=offset, weight=weight, bias=bias, mask=mask, padding=(1, 1)) | change
    with pytest.raises(RuntimeError) as e:
        deform_conv2d(**given)
    assert str(e.value).startswith(message), e.value


def test_state_dict_is_torchvisions():
    layer = by_name("both_groups")
    other = torchvision.ops.DeformConv2d(6, 4, (3, 3), padding=1, groups=2).double()
    mine = DeformConv2d(6, 4, (3, 3), padding=1, groups=2).double()
    mine.load_state_dict(other.state_dict())
    t = layer.tensors()
    assert_near(mine(t[0], t[1], t[4]), other(t[0], t[1], t[4]), terms(layer))
    assert list(mine.state_dict()) == list(other.state_dict())
