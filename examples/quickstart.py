# SPDX-License-Identifier: Apache-2.0
"""One tap of deformable sampling and its gradients: the worked example of docs/operators.md."""

import numpy as np

import tapfield

# A 2x2 map; at output (0, 0) the tap moves 0.25 along W and 0.5 along H, with mask 2. The others have mask 0.
x = np.array([[1, 2], [3, 4]], np.float32).reshape(1, 2, 2, 1)  # [N, H, W, C]
offsets = np.zeros((1, 2, 2, 3), np.float32)  # [N, Ho, Wo, W | H | mask]
offsets[0, 0, 0] = 0.25, 0.5, 2
grad = np.zeros_like(x)  # as y
grad[0, 0, 0, 0] = 1

attributes = dict(ksize=(1, 1), strides=(1, 1, 1, 1), pads=(0, 0, 0, 0))
y = tapfield.deformable_offsets(x, offsets, **attributes)
grad_x, grad_offsets = tapfield.deformable_offsets_grad(grad, x, offsets, **attributes)

along_w, along_h, mask = grad_offsets[0, 0, 0]
print(f"y = {y[0, 0, 0, 0]:g}")
print("grad_x =", *(f"{v:g}" for v in grad_x.ravel()))
print(f"grad_offsets = {along_w:g} along W, {along_h:g} along H, {mask:g} mask")
