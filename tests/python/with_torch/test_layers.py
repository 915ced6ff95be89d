# SPDX-License-Identifier: Apache-2.0
"""DCN, checkpoints of others, torch_npu's function, and patch()."""

import math
import sys
import types

import pytest
import torch
import torchvision
from tapfield import convert
from tapfield.torch import DCN, deform_conv2d, deformable_offsets, npu_deformable_conv2d, patch

from layer_cases import assert_near


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


# ------ DCN


def test_dcn_starts_as_half_a_convolution():
    """Offsets 0 and mask 1/2."""
    layer, x = (
        DCN(6, 4, 3, padding=1, deformable_groups=2).double(),
        torch.randn(2, 6, 7, 5, dtype=torch.float64),
    )
    want = torch.nn.functional.conv2d(x, layer.weight, padding=1) / 2 + layer.bias[:, None, None]
    assert_near(layer(x), want, 100)
    plain = DCN(6, 4, 3, padding=1, modulated=False).double()
    assert_near(plain(x), torch.nn.functional.conv2d(x, plain.weight, plain.bias, padding=1), 100)


def mmcv_forward(state, x, features, groups):
    """mmcv's ModulatedDeformConv2dPack and EDVR's DCNv2Pack: three chunks, the first two an interleaved offset."""
    out = torch.nn.functional.conv2d(
        features, state["conv_offset.weight"], state["conv_offset.bias"], padding=1
    )
    o1, o2, mask = torch.chunk(out, 3, dim=1)
    return torchvision.ops.deform_conv2d(
        x, torch.cat((o1, o2), 1), state["weight"], state["bias"], padding=1, mask=torch.sigmoid(mask)
    )


@pytest.mark.parametrize("name", ["conv_offset", "conv_offset_mask"])
def test_mmcv_and_edvr_checkpoints_load(name):
    state = {
        "weight": torch.randn(4, 6, 3, 3, dtype=torch.float64),
        "bias": torch.randn(4, dtype=torch.float64),
        "conv_offset.weight": torch.randn(54, 6, 3, 3, dtype=torch.float64) / 4,
        "conv_offset.bias": torch.randn(54, dtype=torch.float64),
    }
    layer = DCN(6, 4, 3, padding=1, deformable_groups=2).double()
    layer.load_state_dict({k.replace("conv_offset", name): v for k, v in state.items()})
    x, features = torch.randn(2, 2, 6, 7, 5, dtype=torch.float64)
    assert_near(layer(x), mmcv_forward(state, x, x, 2), 1000)
    assert_near(layer(x, features), mmcv_forward(state, x, features, 2), 1000)


def test_convert_makes_tapfields_order_of_a_checkpoint():
    """The same layer by deformable_offsets, whose planes are [along W | along H | mask]."""
    layer = DCN(6, 4, 3, padding=1, deformable_groups=2).double()
    torch.nn.init.normal_(layer.conv_offset.weight, std=0.1)
    x = torch.randn(2, 6, 7, 5, dtype=torch.float64)
    weight, bias = convert.offset_conv_from_mmcv(
        layer.conv_offset.weight, layer.conv_offset.bias, ksize=(3, 3), deformable_groups=2
    )
    made = torch.nn.functional.conv2d(x, weight, bias, padding=1)
    offsets = torch.cat([made[:, :36], made[:, 36:].sigmoid()], 1)
    y = deformable_offsets(
        x, offsets, ksize=(3, 3), strides=(1, 1, 1, 1), pads=(1, 1, 1, 1), data_format="NCHW", deformable_groups=2,
        border="closed",
    )  # fmt: skip
    assert_near(layer(x), torch.nn.functional.conv2d(y, layer.weight, layer.bias, stride=3), 1000)


@pytest.mark.parametrize("how", ["autocast", "bfloat16"])
def test_dcn_computes_offsets_in_float32(how):
    layer = DCN(6, 4, 3, padding=1)
    torch.nn.init.normal_(layer.conv_offset.weight)
    x, seen = torch.randn(1, 6, 5, 5), []
    layer.conv_offset.weight.data.copy_(layer.conv_offset.weight.bfloat16())  # what both modes have
    layer.conv_offset.bias.data.fill_(0)
    if how == "bfloat16":
        layer, x = layer.bfloat16(), x.bfloat16()
        made, out = layer._offsets(x), layer(x)
    else:
        with torch.autocast("cpu", torch.bfloat16):
            made, out = layer._offsets(x), layer(x)
    assert made.dtype == torch.float32 and out.dtype == torch.bfloat16
    assert not torch.equal(made, made.bfloat16().float())
    out.float().sum().backward()
    assert layer.conv_offset.weight.grad.abs().max() > 0 and not seen


def test_dcn_trains():
    layer, x = DCN(3, 3, 3, padding=1), torch.randn(2, 3, 12, 12)
    optimizer = torch.optim.Adam(layer.parameters(), 0.02)
    target = torch.roll(x, 1, -1)
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        loss = (layer(x) - target).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 4


# ------ torch_npu


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_npu_deformable_conv2d(dtype):
    x, weight, bias = torch.randn(2, 6, 7, 9), torch.randn(4, 3, 3, 2), torch.randn(4)
    attributes = dict(kernel_size=[3, 2], stride=[1, 1, 2, 1], padding=[1, 2, 0, 1], dilation=[1, 1, 1, 2])
    ho, wo = (7 + 3 - 3) // 2 + 1, 9 + 1 - 3 + 1
    offset = torch.randn(2, 3 * 3 * 6, ho, wo)
    args = [t.to(dtype) for t in (x, weight, offset, bias)]
    out, sampled = npu_deformable_conv2d(*args, groups=2, deformable_groups=3, **attributes)
    assert out.dtype == sampled.dtype == torch.float32 and sampled.shape == (2, 6, 3 * ho, 2 * wo)
    wide = [t.float() for t in args]
    y = deformable_offsets(
        wide[0], wide[2], ksize=(3, 2), strides=(1, 1, 2, 1), pads=(1, 2, 0, 1), dilations=(1, 1, 1, 2),
        data_format="NCHW", deformable_groups=3,
    )  # fmt: skip
    assert torch.equal(sampled, y)
    assert_near(out, torch.nn.functional.conv2d(y, wide[1], wide[3], stride=(3, 2), groups=2), 100, 2.0**-23)
    kept = npu_deformable_conv2d(*args, groups=2, deformable_groups=3, **attributes, keep_dtype=True)
    assert [t.dtype for t in kept] == [dtype, dtype] and torch.equal(kept[1], sampled.to(dtype))


# ------ patch()


def operands(dtype=torch.float64):
    x, offset = torch.randn(2, 6, 7, 5, dtype=dtype), torch.randn(2, 36, 7, 5, dtype=dtype)
    return (
        x,
        offset,
        torch.randn(4, 6, 3, 3, dtype=dtype),
        torch.randn(4, dtype=dtype),
        torch.rand(2, 18, 7, 5, dtype=dtype),
    )


def runs_on_tapfield(call):
    """A NaN offset is a dead tap with us; where torchvision computes with it, the result is NaN or worse. So look at
    the operators that run instead."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        call()
    return any(event.name.startswith("tapfield::") for event in profile.events())


def test_patch_reaches_torchvision_and_undo_puts_it_back():
    from torchvision.ops import deform_conv2d as imported_before

    x, offset, weight, bias, mask = operands()
    module = torchvision.ops.DeformConv2d(6, 4, 3, padding=1).double()
    calls = [
        lambda: module(x, offset, mask),
        lambda: imported_before(x, offset, weight, bias, padding=1, mask=mask),
        lambda: torchvision.ops.deform_conv2d(x, offset, weight, bias, padding=1),
        lambda: torch.ops.torchvision.deform_conv2d(
            x, weight, offset, mask, bias, 1, 1, 1, 1, 1, 1, 1, 2, True
        ),
    ]
    before = [call() for call in calls]
    original = torchvision.ops.deform_conv2d
    with patch() as patched:
        assert {"torchvision::deform_conv2d", "torchvision.ops.deform_conv2d"} <= set(patched.patched)
        for call, want in zip(calls, before):
            assert runs_on_tapfield(call)
            assert_near(call(), want, 1000)
        with torch.inference_mode():
            assert_near(calls[0](), before[0], 1000)
    assert torchvision.ops.deform_conv2d is original
    for call, want in zip(calls, before):
        assert not runs_on_tapfield(call) and torch.equal(call(), want)


def test_patch_differentiates_and_compiles():
    x, offset, weight, bias, mask = [t.requires_grad_() for t in operands()]
    loss = lambda: torchvision.ops.deform_conv2d(x, offset, weight, bias, padding=1, mask=mask).square().sum()
    want = torch.autograd.grad(loss(), (x, offset, weight, bias, mask))
    with patch():
        got = torch.autograd.grad(loss(), (x, offset, weight, bias, mask), create_graph=True)
        got[0].square().sum().backward()  # twice: torchvision cannot
        assert offset.grad.abs().max() > 0
    for g, w in zip(got, want):
        assert_near(g, w, 5000)


def test_patch_under_autocast():
    x, offset, weight, bias, mask = operands(torch.float32)
    with patch(), torch.autocast("cpu", torch.bfloat16):
        out = torch.ops.torchvision.deform_conv2d(x, weight, offset, mask, bias, 1, 1, 1, 1, 1, 1, 1, 2, True)
        assert out.dtype == torch.bfloat16


def test_patch_twice():
    original = torchvision.ops.deform_conv2d
    first = patch()
    second = patch()
    second.undo()
    assert torchvision.ops.deform_conv2d is deform_conv2d
    x, offset, *_ = operands()
    assert runs_on_tapfield(
        lambda: torchvision.ops.deform_conv2d(x, offset, torch.ones(4, 6, 3, 3).double(), padding=1)
    )
    first.undo()
    assert torchvision.ops.deform_conv2d is original


@pytest.fixture
def mmcv(monkeypatch):
    """A stand-in with mmcv's layout of modules and signatures: mmcv itself is not installed by these tests."""
    modules = {name: types.ModuleType(name) for name in
               ("mmcv", "mmcv.ops", "mmcv.ops.deform_conv", "mmcv.ops.modulated_deform_conv")}  # fmt: skip
    refuse = lambda *a, **k: pytest.fail("not patched")
    modules["mmcv"].ops = modules["mmcv.ops"]
    for name in ("deform_conv", "modulated_deform_conv"):
        setattr(modules["mmcv.ops"], name, modules[f"mmcv.ops.{name}"])
    for module in ("mmcv.ops", "mmcv.ops.deform_conv"):
        modules[module].deform_conv2d = refuse
    for module in ("mmcv.ops", "mmcv.ops.modulated_deform_conv"):
        modules[module].modulated_deform_conv2d = refuse
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    return modules["mmcv.ops"]


def test_patch_reaches_mmcv_with_its_open_border(mmcv):
    x, _, weight, bias, mask = operands()
    offset = torch.zeros(2, 36, 7, 5, dtype=torch.float64, requires_grad=True)
    with patch() as patched:
        assert sum(name.startswith("mmcv") for name in patched.patched) == 4
        out = mmcv.modulated_deform_conv2d(x, offset, mask, weight, bias, 1, 1, 1, 1, 2)
        assert_near(out, deform_conv2d(x, offset, weight, bias, padding=1, mask=mask), 1000)
        (grad,) = torch.autograd.grad(out.sum(), offset)
        assert grad[:, 0, 0].abs().max() == 0 and grad[:, 8, 1].abs().max() > 0  # at -1 the tap is dead
        plain = mmcv.deform_conv.deform_conv2d(x, offset, weight, 1, 1, 1, 1, 2)
        assert_near(plain, deform_conv2d(x, offset, weight, padding=1), 1000)
        with pytest.raises(AssertionError, match="divisible by im2col_step"):
            three = [torch.cat([t, t[:1]]) for t in (x, offset)]
            mmcv.deform_conv2d(*three, weight, 1, 1, 1, 1, 2, im2col_step=2)
        with pytest.raises(ValueError, match="deform_groups = 1"):
            mmcv.modulated_deform_conv2d(x, offset, mask, weight, bias, 1, 1, 1, 1, 1)
    assert mmcv.deform_conv2d is not math.inf and "tapfield" not in getattr(
        mmcv.deform_conv2d, "__module__", ""
    )
