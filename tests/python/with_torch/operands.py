# SPDX-License-Identifier: Apache-2.0
"""Cases of the table as torch tensors, and the operators on them."""

import ml_dtypes
import numpy as np
import torch

import tapfield.torch  # noqa: F401  (registers the operators)

PASSES = ["forward", "grad", "grad_grad"]
TORCH = {
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "float32": torch.float32,
    "float64": torch.float64,
}
LAYOUTS = ["NHWC", "NCHW", "channels_last"]  # the last one: NCHW, channels side by side in memory
NAMES = {"forward": ["x", "offsets"], "grad": ["grad", "x", "offsets"]}
NAMES["grad_grad"] = [*NAMES["grad"], "gg_x", "gg_offsets"]


def data_format(layout):
    return "NHWC" if layout == "NHWC" else "NCHW"


def to_torch(a, layout="NHWC"):
    """A NumPy array in logical NHWC order as a tensor in layout."""
    a = np.ascontiguousarray(a)
    t = (
        torch.from_numpy(a.view(np.uint16)).view(torch.bfloat16)
        if a.dtype == ml_dtypes.bfloat16
        else torch.from_numpy(a)
    )
    if layout == "NHWC":
        return t
    t = t.permute(0, 3, 1, 2)
    return t if layout == "channels_last" else t.contiguous()


def to_numpy(t):
    """The same memory, strides and all."""
    return t.view(torch.uint16).numpy().view(ml_dtypes.bfloat16) if t.dtype == torch.bfloat16 else t.numpy()


def tensors(which, case, dtype, layout):
    """Inputs of a pass, in the order of its arguments."""
    t = case.tensors(np.dtype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype))
    return [to_torch(getattr(t, name), layout) for name in NAMES[which]]


def operator(which):
    return getattr(
        torch.ops.tapfield, {"forward": "deformable_offsets"}.get(which, f"deformable_offsets_{which}")
    ).default


def smooth(case, seed=0):
    """float64 tensors of a case as torch tensors whose offsets have fractions in [1/4, 3/4]: off the kinks."""
    t = case.tensors(np.dtype(np.float64), seed=seed)
    offsets = t.offsets.copy()
    moved = offsets[..., : offsets.shape[-1] // case.planes * 2]
    moved[...] = np.floor(moved) + 0.25 + 0.5 * (moved - np.floor(moved))
    return [to_torch(a) for a in (t.grad, t.x, offsets, t.gg_x, t.gg_offsets)]
