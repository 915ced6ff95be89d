# SPDX-License-Identifier: Apache-2.0
"""Trains a deformable convolution of PyTorch: README's second example."""

import torch

from tapfield.torch import DCN

torch.manual_seed(0)
layer = DCN(3, 3, kernel_size=3, padding=1)  # makes its own offsets and mask; DeformConv2d takes them
optimizer = torch.optim.Adam(layer.parameters(), 0.02)
x = torch.randn(2, 3, 32, 32)
for _ in range(50):
    optimizer.zero_grad()
    loss = (layer(x) - x.roll(1, -1)).square().mean()  # learn to look one pixel to the left
    loss.backward()
    optimizer.step()
print(f"loss {loss:.3f}")
