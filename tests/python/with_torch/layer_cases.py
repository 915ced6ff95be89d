# SPDX-License-Identifier: Apache-2.0
"""Calls of deform_conv2d as torch tensors, and how far results may lie from each other."""

import torch

import layers


class Layer(layers.Layer):
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


LAYERS = [Layer(**vars(layer)) for layer in layers.LAYERS]


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
