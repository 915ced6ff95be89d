# SPDX-License-Identifier: Apache-2.0
"""The layout converters: by hand, by round trip, and through the operator."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tapfield
from tapfield import convert


def numbered(*shape):
    return np.arange(np.prod(shape), dtype="float32").reshape(shape)


def test_by_hand():
    """G = 2, 1x2 kernel: four taps, named by their value: 10*tap + {0: along H, 1: along W}, 100 + tap."""
    offset = np.array([0, 1, 10, 11, 20, 21, 30, 31], "float32").reshape(1, 8, 1, 1)
    mask = np.array([100, 101, 102, 103], "float32").reshape(1, 4, 1, 1)
    taps = dict(ksize=(1, 2), deformable_groups=2)
    planes = [1, 11, 21, 31, 0, 10, 20, 30, 100, 101, 102, 103]
    for data_format, shape in ("NHWC", (1, 1, 1, 12)), ("NCHW", (1, 12, 1, 1)):
        got = convert.offsets_from_torchvision(offset, mask, **taps, data_format=data_format)
        assert got.shape == shape and got.ravel().tolist() == planes
    got = convert.offsets_from_torchvision(offset, **taps)
    assert got.shape == (1, 1, 1, 8) and got.ravel().tolist() == planes[:8]


@given(
    n=st.integers(0, 2),
    ho=st.integers(1, 3),
    wo=st.integers(1, 3),
    ksize=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    groups=st.integers(1, 3),
    modulated=st.booleans(),
    data_format=st.sampled_from(["NHWC", "NCHW"]),
)
def test_round_trip(n, ho, wo, ksize, groups, modulated, data_format):
    taps = groups * ksize[0] * ksize[1]
    how = dict(ksize=ksize, deformable_groups=groups, data_format=data_format)
    offset, mask = numbered(n, 2 * taps, ho, wo), -numbered(n, taps, ho, wo) if modulated else None
    offsets = convert.offsets_from_torchvision(offset, mask, **how)
    # One entry by its definition: the last tap's offset along H, at the last pixel.
    if n:
        channel = 2 * taps - 1
        where = (-1, -1, -1, channel) if data_format == "NHWC" else (-1, channel, -1, -1)
        assert offsets[where] == offset[-1, 2 * (taps - 1) + 0, -1, -1]
    assert offsets.dtype == offset.dtype
    back, mask_back = convert.offsets_to_torchvision(offsets, modulated=modulated, **how)
    assert np.array_equal(back, offset) and (
        mask_back is None if mask is None else np.array_equal(mask_back, mask)
    )


def test_through_the_operator():
    """A tap moved one row down and two columns right by torchvision's offset reads that pixel."""
    x, offset = numbered(1, 5, 5, 1), np.zeros((1, 2, 5, 5), "float32")
    offset[:, 0], offset[:, 1] = 1, 2
    offsets = convert.offsets_from_torchvision(offset, ksize=(1, 1))
    y = tapfield.deformable_offsets(
        x, offsets, ksize=(1, 1), strides=(1, 1, 1, 1), pads=(0, 0, 0, 0), modulated=False, border="closed"
    )
    assert np.array_equal(y[0, :4, :3], x[0, 1:, 2:]) and y[0, :4, :3].any()
    assert not y[0, 4].any() and not y[0, :, 3:].any()


def test_pads():
    assert convert.pads_from_onnx((1, 2, 3, 4)) == (1, 3, 2, 4)
    assert convert.pads_to_onnx((1, 3, 2, 4)) == (1, 2, 3, 4)
    for function in convert.pads_from_onnx, convert.pads_to_onnx:
        with pytest.raises(ValueError, match=r"^pads must have 4 entries but is \(1, 2\)$"):
            function((1, 2))


@pytest.mark.parametrize("groups", [1, 3])
def test_offset_conv_from_mmcv(groups):
    """Both layers on one pixel: mmcv's chunk and cat against one reading of the permuted layer's output."""
    taps, rng = groups * 6, np.random.default_rng(1)
    weight, bias, pixel = rng.normal(size=(3 * taps, 4, 1, 1)), rng.normal(size=3 * taps), rng.normal(size=4)

    def layer(weight, bias):
        return weight[:, :, 0, 0] @ pixel + bias

    o1, o2, mask = np.split(layer(weight, bias), 3)
    offset = np.concatenate([o1, o2])
    how = dict(ksize=(3, 2), deformable_groups=groups)
    want = convert.offsets_from_torchvision(offset.reshape(1, -1, 1, 1), mask.reshape(1, -1, 1, 1), **how)
    new_weight, new_bias = convert.offset_conv_from_mmcv(weight, bias, **how)
    assert new_weight.shape == weight.shape and not np.array_equal(new_bias, bias)
    # The same dot products, in another order of rows; a matrix product may round them differently.
    terms = np.abs(weight[:, :, 0, 0]) @ np.abs(pixel) + np.abs(bias)
    assert (
        np.abs(layer(new_weight, new_bias) - want.ravel()) <= 8 * np.finfo("float64").eps * terms.max()
    ).all()
    assert convert.offset_conv_from_mmcv(weight)[1] is None
    assert np.array_equal(convert.offset_conv_from_mmcv(weight)[0], new_weight)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: convert.offsets_from_torchvision(numbered(1, 9, 2, 2), ksize=(3, 3)), "offset must have shape [N, 18, Ho, Wo] (N, 2*G*Kh*Kw, Ho, Wo) but has [1, 9, 2, 2]"),
        (lambda: convert.offsets_from_torchvision(numbered(18, 2, 2), ksize=(3, 3)), "offset must have shape [N, 18, Ho, Wo] (N, 2*G*Kh*Kw, Ho, Wo) but has [18, 2, 2]"),
        (lambda: convert.offsets_from_torchvision(numbered(1, 18, 2, 2), numbered(1, 18, 2, 2), ksize=(3, 3)), "mask must have shape [1, 9, 2, 2] (N, G*Kh*Kw, Ho, Wo) but has [1, 18, 2, 2]"),
        (lambda: convert.offsets_to_torchvision(numbered(1, 2, 2, 27), ksize=(3, 3), modulated=False), "offsets must have shape [N, Ho, Wo, 18] (N, Ho, Wo, 2*G*Kh*Kw) but has [1, 2, 2, 27]"),
        (lambda: convert.offsets_to_torchvision(numbered(1, 2, 2, 27), ksize=(3, 3), data_format="NCHW"), "offsets must have shape [N, 27, Ho, Wo] (N, 3*G*Kh*Kw, Ho, Wo) but has [1, 2, 2, 27]"),
        (lambda: convert.offsets_to_torchvision(numbered(1, 2, 2, 27), ksize=(3, 3), data_format="NWHC"), "data_format must be \"NHWC\" or \"NCHW\" but is 'NWHC'"),
        (lambda: convert.offsets_to_torchvision(numbered(1, 2, 2, 27), ksize=(3,)), "ksize must be 2 integers of at least 1 (Kh, Kw) but is (3,)"),
        (lambda: convert.offsets_to_torchvision(numbered(1, 2, 2, 27), ksize=(3, 3), deformable_groups=0), "deformable_groups must be at least 1 but is 0"),
        (lambda: convert.offset_conv_from_mmcv(numbered(28, 1, 1, 1)), "weight must have 3*G*Kh*Kw output channels but has shape [28, 1, 1, 1]"),
        (lambda: convert.offset_conv_from_mmcv(numbered(27, 1, 1, 1), ksize=(3, 3), deformable_groups=2), "weight must have 54 output channels (3*G*Kh*Kw) but has shape [27, 1, 1, 1]"),
        (lambda: convert.offset_conv_from_mmcv(numbered(27, 1, 1, 1), numbered(9)), "bias must have shape [27] (3*G*Kh*Kw) but has [9]"),
    ],
)  # fmt: skip
def test_refused(call, message):
    with pytest.raises(ValueError) as caught:
        call()
    assert str(caught.value) == message
