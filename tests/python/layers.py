# SPDX-License-Identifier: Apache-2.0
"""Calls of deform_conv2d: what the tests of tapfield.torch and of tapfield.jax go through."""

import dataclasses


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
