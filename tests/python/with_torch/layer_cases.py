# SPDX-License-Identifier: Apache-2.0
"""Calls of deform_conv2d, and how far results may lie from each other."""

import dataclasses

import torch


@dataclasses.dataclass(frozen=True)
class Layer:
    name: str
    input: tuple = (2, 6, 9, 8)
    co: int = 4
    ksize: tuple = (3, 3)
    stride: tuple = (1, 1)
    padding: tuple = (1, 1)
    dilation: tuple = (1, 1)
    groups: int = 1
    offset_groups: int = 1
    modulated: bool = True
    bias: bool = True
    spread: float = 1.5

    @property
    def how(self):
        return dict(stride=self.stride, padding=self.padding, dilation=self.dilation)

    @property
    def output(self):
        _, _, *size = self.input
        return [
            (s + 2 * p - d * (k - 1) - 1) // st + 1
            for s, p, d, k, st in zip(size, self.padding, self.dilation, self.ksize, self.stride)
        ]

    def tensors(self, dtype=torch.float64, seed=0, channels_last=False, smooth=False):
        """input, offset, weight, bias, mask; bias or mask None where there is none."""
        g = torch.Generator().manual_seed(seed)
        normal = lambda *shape: torch.randn(shape, generator=g, dtype=torch.float64)
        n, c, _, _ = self.input
        taps = self.offset_groups * self.ksize[0] * self.ksize[1]
        offset = self.spread * normal(n, 2 * taps, *self.output)
        if smooth:  # fractions in [1/4, 3/4]: off the kinks
            offset = offset.floor() + 0.25 + 0.5 * (offset - offset.floor())
        given = [
            normal(*self.input),
            offset,
            normal(self.co, c // self.groups, *self.ksize),
            normal(self.co) if self.bias else None,
            normal(n, taps, *self.output) if self.modulated else None,
        ]
        order = torch.channels_last if channels_last else torch.contiguous_format
        return [
            t
            if t is None
            else t.to(dtype).contiguous(memory_format=order if t.dim() == 4 else torch.contiguous_format)
            for t in given
        ]

    def grad(self, dtype=torch.float64, seed=1):
        g = torch.Generator().manual_seed(seed)
        return torch.randn(self.input[0], self.co, *self.output, generator=g, dtype=torch.float64).to(dtype)


LAYERS = [
    Layer("plain"),
    Layer("v1", modulated=False),
    Layer("no_bias", bias=False),
    Layer("offset_groups", offset_groups=3),
    Layer("groups", groups=2),
    Layer("both_groups", groups=2, offset_groups=2),
    Layer("groups_that_do_not_align", groups=2, offset_groups=3),
    Layer("depthwise", groups=6, co=6, offset_groups=6),
    Layer("attributes", ksize=(3, 2), stride=(2, 1), padding=(2, 0), dilation=(2, 3), input=(2, 6, 11, 10)),
    Layer(
        "all_at_once",
        input=(7, 6, 5, 4),
        co=2,
        ksize=(3, 2),
        stride=(2, 1),
        padding=(1, 0),
        dilation=(2, 1),
        groups=2,
        offset_groups=3,
    ),
    Layer("pointwise", ksize=(1, 1), padding=(0, 0)),
    Layer("one_pixel", input=(3, 4, 1, 1), padding=(1, 1)),
    Layer("far", spread=20.0),
    Layer("one_image", input=(1, 5, 7, 6), co=3),
    Layer("empty", input=(0, 6, 9, 8)),
    Layer("one_channel", input=(2, 1, 5, 4), co=1, ksize=(1, 1), padding=(0, 0)),
]


def by_name(name):
    return next(layer for layer in LAYERS if layer.name == name)


def assert_near(got, want, terms, eps=2.0**-52, magnitude=None):
    """|got - want| <= 8 eps * terms * magnitude: two sums of `terms` products of up to five factors, each in an order
    of its own. magnitude: of the sum of |terms|; if not given the greatest |want|, for sums that do not cancel much."""
    assert got.shape == want.shape
    if want.numel() == 0:
        return
    size = want.abs().max() if magnitude is None else magnitude
    worst = (got.double() - want.double()).abs().max()
    assert worst <= 8 * eps * terms * max(1.0, float(size)), (
        f"{worst:.3g}, {float(worst / size):.3g} of {size:.3g}"
    )
