# SPDX-License-Identifier: Apache-2.0
"""Derivatives of deform_conv2d: autograd twice, forward mode, torch.func, PyTorch's check of operators, autocast."""

import dataclasses

import pytest
import torch
from tapfield.torch import deform_conv2d
from torch.autograd import forward_ad, gradcheck, gradgradcheck

from layer_cases import LAYERS, Layer, assert_near, by_name

ids = lambda layer: layer.name
forward, backward = (
    torch.ops.tapfield.deform_conv2d.default,
    torch.ops.tapfield.deform_conv2d_backward.default,
)
SMALL = [
    by_name(n)
    for n in ("plain", "v1", "groups_that_do_not_align", "all_at_once", "depthwise", "no_bias", "empty")
]


def call_of(layer):
    """deform_conv2d of the tensors that the layer has, and these, requiring grad."""
    t = layer.tensors(smooth=True)
    here = [i for i, a in enumerate(t) if a is not None]

    def call(*given):
        args = [None] * 5
        for i, a in zip(here, given):
            args[i] = a
        return deform_conv2d(args[0], args[1], args[2], args[3], mask=args[4], **layer.how)

    return call, [t[i].requires_grad_() for i in here]


@pytest.mark.parametrize("layer", SMALL, ids=ids)
def test_gradcheck(layer):
    call, inputs = call_of(layer)
    assert gradcheck(call, inputs, check_forward_ad=True, fast_mode=True)


@pytest.mark.parametrize("layer", SMALL, ids=ids)
def test_gradgradcheck(layer):
    call, inputs = call_of(layer)
    assert gradgradcheck(call, inputs, layer.grad().requires_grad_(), check_fwd_over_rev=True, fast_mode=True)


@pytest.mark.parametrize("images", [0, 3])
def test_gradcheck_in_odd_memory_orders(images):
    layer = dataclasses.replace(by_name("all_at_once"), input=(images, 6, 5, 4))
    call, inputs = call_of(layer)
    orders = (0, 1, 3, 2), (1, 3, 0, 2), (3, 2, 0, 1), None, (1, 3, 0, 2)
    odd = [t if o is None else t.detach().permute(o).contiguous().permute([o.index(i) for i in range(4)]).requires_grad_()
           for t, o in zip(inputs, orders)]  # fmt: skip
    assert images == 0 or not odd[1].is_contiguous()
    assert gradcheck(call, odd, fast_mode=True)


def test_every_element():
    layer = Layer("tiny", input=(1, 2, 3, 3), co=2)
    call, inputs = call_of(layer)
    assert gradcheck(call, inputs, check_forward_ad=True)
    assert gradgradcheck(call, inputs, check_fwd_over_rev=True)


@pytest.mark.parametrize("which", range(5))
def test_each_tangent_alone(which):
    """The tangent of one argument, by the slope of a straight line: all but offsets enter linearly."""
    layer = by_name("both_groups")
    t, along = layer.tensors(smooth=True), layer.tensors(seed=5)
    step = 2.0**-5
    at = lambda s: deform_conv2d(*[a + s * b if i == which else a for i, (a, b) in enumerate(zip(t, along))][:4],
                                 mask=t[4] + s * along[4] if which == 4 else t[4], **layer.how)  # fmt: skip
    with forward_ad.dual_level():
        dual = list(t)
        dual[which] = forward_ad.make_dual(t[which], along[which])
        tangent = forward_ad.unpack_dual(deform_conv2d(*dual[:4], mask=dual[4], **layer.how)).tangent
    slope = (at(step) - at(-step)) / (2 * step)
    # Offsets: bilinear in the two axes, so a symmetric difference is exact inside a cell too.
    assert_near(tangent, slope, 2000)
    assert tangent.abs().max() > 0.1


@pytest.mark.parametrize("wanted", [(0,), (1,), (2,), (3,), (4,), (0, 2)], ids=str)
def test_only_what_is_wanted(wanted):
    layer = by_name("plain")
    full = [a.requires_grad_() for a in layer.tensors()]
    want = torch.autograd.grad(deform_conv2d(*full[:4], mask=full[4], **layer.how), full, layer.grad())
    part = [a.requires_grad_(i in wanted) for i, a in enumerate(layer.tensors())]
    got = torch.autograd.grad(
        deform_conv2d(*part[:4], mask=part[4], **layer.how), [part[i] for i in wanted], layer.grad()
    )
    assert all(torch.equal(g, want[i]) for g, i in zip(got, wanted))


def test_func_per_sample_gradients():
    layer = by_name("offset_groups")
    input, offset, weight, bias, mask = layer.tensors(smooth=True)
    loss = lambda w, x, o, m: (
        deform_conv2d(x[None], o[None], w, bias, mask=m[None], **layer.how).square().sum()
    )
    got = torch.vmap(torch.func.grad(loss), in_dims=(None, 0, 0, 0))(weight, input, offset, mask)
    for i in range(input.shape[0]):
        assert_near(got[i], torch.func.grad(loss)(weight, input[i], offset[i], mask[i]), 10000)


@pytest.mark.parametrize("dims", [(0, 0, None, None, 0), (0, None, None, None, None), (0, 0, 0, 0, 0), (None, None, 0, None, None)],
                         ids=str)  # fmt: skip
def test_vmap(dims):
    layer = by_name("both_groups")
    many = [layer.tensors(seed=s) for s in range(3)]
    t = [torch.stack([m[i] for m in many]) if d == 0 else many[0][i] for i, d in enumerate(dims)]
    call = lambda *a: deform_conv2d(*a[:4], mask=a[4], **layer.how)
    got = torch.vmap(call, in_dims=dims)(*t)
    for i in range(3):
        assert_near(got[i], call(*(a[i] if d == 0 else a for a, d in zip(t, dims))), 1000)


# ------ PyTorch's own check


@pytest.mark.parametrize("channels_last", [False, True], ids=["contiguous", "channels_last"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("layer", LAYERS, ids=ids)
def test_opcheck(layer, dtype, channels_last):
    t = [a if a is None else a.requires_grad_() for a in layer.tensors(dtype, channels_last=channels_last)]
    tests = ["test_schema", "test_faketensor", "test_autograd_registration"]
    if dtype in (torch.float32, torch.float64) and layer in SMALL:
        tests.append("test_aot_dispatch_dynamic")
    torch.library.opcheck(forward, t, layer.how, test_utils=tests)
    grad = layer.grad(dtype)
    t = [grad, t[0], t[1], t[2], t[4]]
    torch.library.opcheck(backward, t, layer.how, test_utils=tests[:3])
    for samples, products in (True, False), (False, True):
        flags = dict(samples=samples, products=products)
        torch.library.opcheck(backward, t, layer.how | flags, test_utils=tests[:2])


# ------ Autocast


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_autocast_casts_all_but_offset(dtype):
    layer = by_name("offset_groups")
    input, offset, weight, bias, mask = [a.requires_grad_() for a in layer.tensors(torch.float32)]
    with torch.autocast("cpu", dtype):
        out = deform_conv2d(input, offset, weight, bias, mask=mask, **layer.how)
    narrow = lambda t: t.detach().to(dtype)
    want = deform_conv2d(narrow(input), offset, narrow(weight), narrow(bias), mask=narrow(mask), **layer.how)
    assert out.dtype == dtype and torch.equal(out, want)
    out.float().sum().backward()
    assert all(t.grad.dtype == torch.float32 for t in (input, offset, weight, bias, mask))


def test_autocast_leaves_float64():
    layer = by_name("plain")
    t = layer.tensors()
    with torch.autocast("cpu", torch.bfloat16):
        out = deform_conv2d(*t[:4], mask=t[4], **layer.how)
    assert torch.equal(out, deform_conv2d(*t[:4], mask=t[4], **layer.how))


def test_autocast_with_offsets_of_the_other_16_bits():
    layer = by_name("plain")
    t = layer.tensors(torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        out = deform_conv2d(t[0], t[1].half(), *t[2:4], mask=t[4], **layer.how)
        want = deform_conv2d(t[0], t[1].half().float(), *t[2:4], mask=t[4], **layer.how)
    assert torch.equal(out, want)
