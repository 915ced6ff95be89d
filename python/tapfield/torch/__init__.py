# SPDX-License-Identifier: Apache-2.0
"""tapfield for PyTorch: deformable_offsets as a differentiable operator, and deform_conv2d built on it.

Works in eager mode, under torch.compile and torch.export, with autograd, torch.func, autocast, DDP, FSDP2 and
DTensor; docs/torch.md shows how. Runs on PyTorch's threads: torch.set_num_threads counts, tapfield's does not.

Needs PyTorch 2.11 or later, there when tapfield was built.
"""

from pathlib import Path

import torch

import tapfield

_library = Path(tapfield.__file__).with_name("libtapfield_torch.so")
if not _library.exists():
    raise ImportError(
        f"tapfield was built without PyTorch ({_library.name} is missing): install torch, build again"
    )
torch.ops.load_library(_library)

from tapfield.torch.conv2d import deform_conv2d  # noqa: E402
from tapfield.torch.layers import DCN, DeformConv2d  # noqa: E402
from tapfield.torch.npu import npu_deformable_conv2d  # noqa: E402
from tapfield.torch.operators import deformable_offsets  # noqa: E402
from tapfield.torch.patch import patch  # noqa: E402

__all__ = [
    "DCN",
    "DeformConv2d",
    "deform_conv2d",
    "deformable_offsets",
    "npu_deformable_conv2d",
    "patch",
    "release_scratch",
]


def release_scratch() -> None:
    """Frees the scratch memory that the operators keep between calls: a band of columns, at most 64 MiB or one row of
    output pixels, and the kernels' own. tapfield.release_scratch does so for the NumPy functions."""
    torch.ops.tapfield.release_scratch()
