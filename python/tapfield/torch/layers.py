# SPDX-License-Identifier: Apache-2.0
"""Layers: DeformConv2d takes offsets, DCN makes its own."""

import math

import torch
from torch import nn

from tapfield.torch.conv2d import convolve, deform_conv2d, pair


class DeformConv2d(nn.Module):
    """torchvision.ops.DeformConv2d: deform_conv2d with a weight and a bias, and the same state dict."""

    def __init__(
        self, in_channels, out_channels, kernel_size, stride=1, padding=0, dilation=1, groups=1, bias=True
    ):
        super().__init__()
        for name, channels in (("in_channels", in_channels), ("out_channels", out_channels)):
            if channels % groups:
                raise ValueError(f"{name} must be divisible by groups = {groups} but is {channels}")
        self.in_channels, self.out_channels, self.groups = in_channels, out_channels, groups
        self.kernel_size, self.stride = pair(kernel_size), pair(stride)
        self.padding, self.dilation = pair(padding), pair(dilation)
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels // groups, *self.kernel_size))
        self.bias = nn.Parameter(torch.empty(out_channels)) if bias else None
        self.reset_parameters()

    def reset_parameters(self):
        """As torch.nn.Conv2d."""
        nn.init.kaiming_uniform_(self.weight, a=math.sqrt(5))
        if self.bias is not None:
            bound = 1 / math.sqrt(self.weight[0].numel())
            nn.init.uniform_(self.bias, -bound, bound)

    def forward(self, input, offset, mask=None):
        """input [N, C, H, W], offset [N, 2*G*Kh*Kw, Ho, Wo], mask [N, G*Kh*Kw, Ho, Wo] -> [N, Co, Ho, Wo]."""
        return deform_conv2d(
            input, offset, self.weight, self.bias, self.stride, self.padding, self.dilation, mask
        )

    def extra_repr(self):
        return (
            f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}, "
            f"padding={self.padding}, dilation={self.dilation}, groups={self.groups}, bias={self.bias is not None}"
        )


class DCN(DeformConv2d):
    """A deformable convolution that makes its offsets, and its mask if modulated, by a convolution of its own.

    conv_offset gives [N, 3*L, Ho, Wo] (2*L if not modulated), L = deformable_groups*Kh*Kw: deform_conv2d's offset, then
    the mask before the sigmoid. That is the order of mmcv's ModulatedDeformConv2dPack and EDVR's DCNv2Pack, whose
    checkpoints load as they are. It starts at zero: offsets 0, mask 1/2. Offsets are computed in float32 (float64 for
    float64 inputs), also under autocast and in 16-bit models: 8 bits of mantissa are no position.
    """

    def __init__(
        self,
        in_channels,
        out_channels,
        kernel_size,
        stride=1,
        padding=0,
        dilation=1,
        groups=1,
        bias=True,
        deformable_groups=1,
        modulated=True,
        border="closed",
    ):
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias)
        self.deformable_groups, self.modulated, self.border = deformable_groups, modulated, border
        self.taps = deformable_groups * math.prod(self.kernel_size)
        self.conv_offset = nn.Conv2d(
            in_channels,
            (3 if modulated else 2) * self.taps,
            self.kernel_size,
            self.stride,
            self.padding,
            self.dilation,
        )
        nn.init.zeros_(self.conv_offset.weight)
        nn.init.zeros_(self.conv_offset.bias)

    def forward(self, input, features=None):
        """input [N, C, H, W] -> [N, Co, Ho, Wo]; features, as input: what the offsets are made from, if not from it."""
        made = self._offsets(input if features is None else features)
        offset, mask = made[:, : 2 * self.taps], None
        if self.modulated:
            mask = made[:, 2 * self.taps :].sigmoid()
        return convolve(
            input, offset, self.weight, self.bias, mask, self.stride, self.padding, self.dilation, self.border
        )

    def _offsets(self, features):
        conv, dtype = self.conv_offset, torch.promote_types(features.dtype, torch.float32)
        with torch.autocast(features.device.type, enabled=False):
            return nn.functional.conv2d(
                features.to(dtype),
                conv.weight.to(dtype),
                conv.bias.to(dtype),
                self.stride,
                self.padding,
                self.dilation,
            )

    def _load_from_state_dict(self, state_dict, prefix, *rest):
        for name in ("weight", "bias"):  # the name in older checkpoints
            if (old := f"{prefix}conv_offset_mask.{name}") in state_dict:
                state_dict[f"{prefix}conv_offset.{name}"] = state_dict.pop(old)
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def extra_repr(self):
        return (
            f"{super().extra_repr()}, deformable_groups={self.deformable_groups}, modulated={self.modulated}"
        )
