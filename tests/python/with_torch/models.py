# SPDX-License-Identifier: Apache-2.0
"""A small network with deformable convolutions, for the tests of graphs and of several processes."""

import torch
from tapfield.torch import DCN
from torch import nn


class Net(nn.Module):
    """Two DCNs, one with groups, between ordinary layers."""

    def __init__(self, channels=8):
        super().__init__()
        self.stem = nn.Conv2d(3, channels, 3, padding=1)
        self.first = DCN(channels, channels, 3, padding=1, deformable_groups=2)
        self.second = DCN(channels, channels, 3, stride=2, padding=1, groups=2, modulated=False)
        self.head = nn.Conv2d(channels, 2, 1)

    def forward(self, x):
        x = self.first(self.stem(x)).relu()
        return self.head(self.second(x).relu())


def net(seed=0):
    """With offsets that are not zero."""
    torch.manual_seed(seed)
    model = Net()
    for layer in (model.first, model.second):
        nn.init.normal_(layer.conv_offset.weight, std=0.05)
        nn.init.normal_(layer.conv_offset.bias, std=1.0)
    return model


def assert_alike(a, b):
    """Two float32 runs of the net in other orders of summation: some 10^3 additions of size 1 in each of four layers."""
    torch.testing.assert_close(a, b, rtol=0, atol=4 * 1e3 * 2.0**-23)
